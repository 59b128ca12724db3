// Cuts slides that overflow, then shows one at a time.
"use strict";

const overflows = (body) => body.scrollHeight > body.clientHeight + 1;

// A block's children that may go to the next slide; a paragraph's sentences and a program's lines become elements first.
function parts(block) {
  if (block.matches("table")) return [...block.tBodies].flatMap((body) => [...body.rows]);
  if (block.matches("pre")) {
    if (!block.querySelector(":scope > .line")) {
      const lines = block.innerHTML.replace(/\n$/, "").split("\n");
      block.innerHTML = lines.map((line) => `<span class="line">${line}\n</span>`).join("");
    }
    return [...block.children];
  }
  if (block.matches("p")) {
    if (!block.querySelector(":scope > .sentence")) {
      const sentences = [document.createElement("span")];
      for (const node of [...block.childNodes]) {
        const texts = node.nodeType === Node.TEXT_NODE ? node.data.split(/(?<=[.;:?!]\s|[。；：？！])/) : [node];
        for (const text of texts) {
          sentences.at(-1).append(text);
          if (typeof text === "string" && /([.;:?!]\s|[。；：？！])$/.test(text)) sentences.push(document.createElement("span"));
        }
      }
      sentences.forEach((sentence) => (sentence.className = "sentence"));
      block.replaceChildren(...sentences.filter((sentence) => sentence.hasChildNodes()));
    }
    return [...block.children];
  }
  if (block.matches("ul, ol, dl")) return [...block.children];
  const inner = block.children.length === 1 && !block.matches("details, .math") ? block.children[0] : null;
  return inner ? parts(inner) : [];
}

// Moves what does not fit from the end of the only block into a copy of it; null if nothing can be moved.
function split(body, block) {
  const movable = parts(block);
  if (movable.length < 2) return null;
  const copy = block.cloneNode(true);
  const copied = parts(copy);
  let keep = movable.length;
  while (keep > 1 && overflows(body)) movable[--keep].remove();
  copied.slice(0, keep).forEach((part) => part.remove());
  const list = copy.matches("ol") ? copy : copy.querySelector("ol");
  if (list) list.start += keep;
  return copy;
}

function next(slide, blocks) {
  const made = slide.cloneNode(true);
  made.classList.remove("first");
  const part = Number(slide.dataset.part || 1) + 1;
  made.dataset.part = part;
  const heading = made.firstElementChild;
  heading.querySelector(".part")?.remove();
  heading.insertAdjacentHTML("beforeend", `<span class="part"> (${part})</span>`);
  made.querySelector(".body").replaceChildren(...blocks);
  slide.after(made);
  return made;
}

function fit(slide) {
  const body = slide.querySelector(".body");
  const closed = [...body.querySelectorAll("details:not([open])")];
  closed.forEach((details) => (details.open = true)); // what is closed has no width
  for (const wide of body.querySelectorAll("div.math, table")) {
    const room = wide.parentElement.clientWidth;
    const width = Math.max(wide.scrollWidth, wide.firstElementChild.getBoundingClientRect().width);
    if (width > room) wide.style.zoom = room / width;
  }
  closed.forEach((details) => (details.open = false));
  const rest = [];
  while (overflows(body) && body.children.length > 1) {
    rest.unshift(body.lastElementChild);
    rest[0].remove();
  }
  if (overflows(body)) {
    const block = body.firstElementChild;
    const tail = split(body, block);
    if (tail) rest.unshift(tail);
    else block.style.zoom = Math.max(0.5, body.clientHeight / body.scrollHeight);
  } else if (rest.length && body.children.length) {
    // What does not fit whole may begin here, if that fills a slide that is still half empty.
    const free = body.clientHeight - (body.lastElementChild.getBoundingClientRect().bottom - body.getBoundingClientRect().top);
    if (free > body.clientHeight / 3 && parts(rest[0]).length > 1) {
      const [block, whole] = [rest[0], rest[0].cloneNode(true)];
      body.append(block);
      const tail = split(body, block);
      if (tail && !overflows(body)) rest[0] = tail;
      else {
        block.remove();
        rest[0] = whole;
      }
    }
    // A sentence that announces what follows goes with it: a formula is announced always.
    const announces = (block) => /[:：]\s*$/.test(block.textContent) || (block.matches("p") && rest[0].matches(".math, .math-wrapper"));
    while (body.children.length > 1 && announces(body.lastElementChild)) {
      rest.unshift(body.lastElementChild);
      rest[0].remove();
    }
  }
  return rest.length ? next(slide, rest) : null;
}

function start() {
  document.body.classList.add("js");
  for (let slide of document.querySelectorAll(".slide")) while (slide) slide = fit(slide);
  const slides = [...document.querySelectorAll(".slide")];
  const place = document.getElementById("place");
  if (new URLSearchParams(location.search).has("print")) {
    document.body.classList.add("all");
    place.value = slides.length;
    document.body.dataset.ready = slides.length;
    return;
  }
  let current = 0;
  function show(number) {
    current = Math.min(Math.max(number, 0), slides.length - 1);
    slides.forEach((slide, index) => slide.classList.toggle("current", index === current));
    place.value = `${current + 1} / ${slides.length}`;
    history.replaceState(null, "", `#${current + 1}`);
  }
  function scale() {
    const factor = Math.min(innerWidth / 1280, innerHeight / 720);
    const [x, y] = [(innerWidth - 1280 * factor) / 2, (innerHeight - 720 * factor) / 2];
    document.querySelector("main").style.transform = `translate(${x}px, ${y}px) scale(${factor})`;
  }
  document.body.classList.add("shown");
  const turn = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Home: -Infinity, End: Infinity };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in turn)) return;
    if (event.key === " " && event.target.closest("summary, button, a")) return;
    event.preventDefault();
    show(current + turn[event.key]);
  });
  document.getElementById("on").onclick = () => show(current + 1);
  document.getElementById("back").onclick = () => show(current - 1);
  addEventListener("resize", scale);
  addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1 || 0));
  scale();
  show(Number(location.hash.slice(1)) - 1 || 0);
  document.body.dataset.ready = slides.length;
}

addEventListener("load", start);
