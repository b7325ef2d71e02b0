"""A headless Chromium for tests of pages, spoken to over a pipe; skips where there is none."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--hide-scrollbars"),
)
_PATIENCE = 60.0  # seconds until the browser must have answered

# What sticks out to the right of the window, unless it is in a box that scrolls by itself.
_OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (element.closest(".scroll") && !element.matches(".scroll")) continue;
    if (element.closest("svg") && !element.matches("svg")) continue;
    const box = element.getBoundingClientRect();
    if (box.right > width + 0.5 || box.left < -0.5) found.push(element.outerHTML.slice(0, 120));
  }
  return {width, scroll: document.documentElement.scrollWidth, found};
})()"""


class Browser:
    """One page of a browser; a context manager, since the browser is a process.

    Example:

    >>> with Browser() as browser:
    ...     browser.open(path, width=360)
    ...     assert browser.overflow() == []
    """

    def __init__(self):
        program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
        if program is None:
            raise unittest.SkipTest("needs a Chromium browser, which is not installed")
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        )
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The protocol wants its ends to be the descriptors 3 and 4.
        line = f'exec "$@" 3<&{to_browser} 4>&{from_browser} >/dev/null 2>&1'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "browser", program, *_FLAGS, f"--user-data-dir={self._folder}"],
            pass_fds=(to_browser, from_browser),
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self._read, False)
        self._buffer, self._number, self._session = b"", 0, None
        self.problems: list[str] = []  # errors and warnings of the console, blocked loads

    def __enter__(self):
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._stack.close()

    def open(self, path: pathlib.Path, width=1200, height=800, dark=False, media=""):
        """Loads a file in a window of this size; widths below 600 are those of a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=media, features=scheme)
        self._loaded = False
        self.call("Page.navigate", url=pathlib.Path(path).resolve().as_uri())
        deadline = time.monotonic() + _PATIENCE
        while not self._loaded:
            self._handle(self._message(deadline))
        self.evaluate("new Promise(done => requestAnimationFrame(() => done(0)))")

    def evaluate(self, code: str):
        """The value of a JavaScript expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{code}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def overflow(self) -> list[str]:
        """What is wider than the window, as HTML; boxes that scroll by themselves may be."""
        found = self.evaluate(_OVERFLOW)
        wide = found["scroll"] > found["width"]
        return found["found"] + ["the page scrolls sideways"] * wide

    def screenshot(self, path: pathlib.Path):
        """The whole page as a PNG file."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        found = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(found["data"])

    def call(self, method: str, **parameters):
        """Sends a command and waits for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = self._message(deadline)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._handle(answer)

    def _handle(self, message):
        method, given = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown" or method == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(given))
        elif method == "Log.entryAdded":
            self.problems.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = given["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"asks for {url}")
        elif method == "Network.loadingFailed":
            self.problems.append(f"could not load: {given}")

    def _message(self, deadline):
        while b"\0" not in self._buffer:
            try:
                data = os.read(self._read, 1 << 20)
                if not data:
                    raise RuntimeError("the browser has ended")
                self._buffer += data
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer from the browser in {_PATIENCE} s") from None
                time.sleep(0.005)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
