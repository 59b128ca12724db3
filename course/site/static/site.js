// What style sheets cannot do: formulas in a line that are wider than the page scroll, and answers are printed.
"use strict";

function widths() {
  for (const span of document.querySelectorAll("span.math")) {
    span.classList.remove("wide");
    const block = span.closest("p, li, td, dd, h1, h2, h3, summary, article");
    if (span.getBoundingClientRect().width > block.clientWidth) span.classList.add("wide");
  }
}
addEventListener("load", widths);
addEventListener("resize", widths);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => (details.open = true)));
