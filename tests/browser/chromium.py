"""A headless Chromium, spoken to over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

_START = 30  # seconds


class Page:
    """One page. `logs` holds errors of the console and of loading, and uncaught exceptions, a line each; `requests` addresses."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, timeout=60, suppress_origin=True)
        self._count = 0
        self.logs: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        own = self._count
        self._socket.send(json.dumps({"id": own, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == own:
                assert "error" not in message, f"{method}: {message}"
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        match message:
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "text": text, **rest}}}:
                self.logs.append(f"{text} {rest.get('url', '')}")
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                self.requests.append(url)
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.logs.append(json.dumps(details)[:400])
            case {"method": "Fetch.requestPaused", "params": {"requestId": request}}:
                headers = [{"name": "Content-Type", "value": "text/javascript"}]
                answer = {"requestId": request, "responseCode": 200, "responseHeaders": headers, "body": self._stub}
                self._count += 1
                self._socket.send(json.dumps({"id": self._count, "method": "Fetch.fulfillRequest", "params": answer}))
            case {"method": "Page.javascriptDialogOpening"}:
                raise AssertionError("a dialog was opened")

    def stub(self, pattern: str, script: str) -> None:
        """Answer requests of this pattern with a script."""
        self._stub = base64.b64encode(script.encode()).decode()
        self.call("Fetch.enable", patterns=[{"urlPattern": pattern}])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # While a page changes there may be nothing to ask.
            with contextlib.suppress(AssertionError):
                if value := self.run(expression):
                    return value
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}; the page: {self.run('document.body.innerText')[:500]}")

    def picture(self, path: Path, width: int = 1200) -> None:
        """A screenshot of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 8000), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def page(width: int = 1200, height: int = 900) -> Iterator[Page]:
    """A page of a browser of its own, whose profile is thrown away."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium: `apt install chromium`"
    profile = tempfile.mkdtemp()
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = ""
        end = time.monotonic() + _START
        while not port and time.monotonic() < end:
            time.sleep(0.1)
            with contextlib.suppress(OSError, IndexError):
                port = (Path(profile) / "DevToolsActivePort").read_text().splitlines()[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
        opened = Page(next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page"))
        opened.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        yield opened
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)
