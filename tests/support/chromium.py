"""A real browser without a window, driven over a pipe in the protocol of its own developer tools: no driver, no port.

Source: https://chromedevtools.github.io/devtools-protocol/; messages end with a NUL byte on file descriptors 3 and 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEADLINE_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # in a container there is no user namespace to make a sandbox of
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    # Without these it calls home, which a machine without a network answers with minutes of waiting.
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# subprocess hands down descriptors under the numbers they have; Chromium wants 3 and 4.
LAUNCH = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """Path of a Chromium, if one is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


class Tab:
    """An open page: what it asked for, what it complained of, what it answers to a line of JavaScript."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command and return its result."""
        return self._browser.send(method, self._session, **params)

    def open(self, page: Path | str, *, is_dark: bool = False, width: int = 1280, height: int = 900) -> "Tab":
        """Show a file, as a double click would, or an address, and wait until it is loaded."""
        self._browser.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        self._browser.wait_for("Page.loadEventFired", self._session)
        return self

    def close(self) -> None:
        """Close it and forget what happened in it."""
        self.send("Page.close")
        self._browser.events.clear()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def count(self, selector: str) -> int:
        """How many elements a CSS selector finds."""
        return int(self.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def text(self, selector: str) -> str:
        """The text of the first element that a CSS selector finds."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in a file input, as a person does in its dialogue."""
        document = self.send("DOM.getDocument")["root"]["nodeId"]
        found = self.send("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=found, files=[str(file) for file in files])

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}.get(key, 13)
        text = {"text": "\r"} if key == "Enter" else {}  # without it nothing is activated
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def point(self, selector: str) -> None:
        """Move the pointer to the middle of an element."""
        box = self.evaluate(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); found.scrollIntoView();"
            " const {x, y, width, height} = found.getBoundingClientRect(); return [x + width / 2, y + height / 2] })()"
        )
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self) -> list[str]:
        """Addresses it asked for, without what lies in the page itself."""
        urls = [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """What stands in its console: errors, warnings, refused loads, exceptions."""
        wanted = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for name in wanted for event in self._events(name)]

    def _events(self, method: str) -> list[dict[str, Any]]:
        # Whatever happened before this command was answered has been told by then.
        self.send("Runtime.evaluate", expression="0")
        return [
            event
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]


class Browser:
    """The process and its pipe."""

    def __init__(self, reads: int, writes: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._reads, self._writes = reads, writes
        self._buffer = b""
        self._number = 0

    def new_tab(self) -> Tab:
        """An empty page."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        return Tab(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Give a command and return its result; events that come meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while (answer := self._receive(method)).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, method: str, session: str) -> None:
        """Return when such an event has come."""
        while not any(event["method"] == method and event.get("sessionId") == session for event in self.events):
            self.events.append(self._receive(method))

    def _receive(self, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0, f"waited {DEADLINE_S} s in vain for {what}"
            if select.select([self._reads], [], [], left)[0]:
                chunk = os.read(self._reads, 1 << 20)
                assert chunk, "the browser ended"
                self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def running(executable: str, profile: Path) -> Iterator[Browser]:
    """Run a browser until the block ends.

    Args:
        executable: See `find`.
        profile: An empty folder for what it keeps.
    """
    to_browser, from_browser = os.pipe(), os.pipe()
    command = [sys.executable, "-c", LAUNCH, str(to_browser[0]), str(from_browser[1])]
    command += [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with (profile / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, pass_fds=(to_browser[0], from_browser[1]), stdout=errors, stderr=subprocess.STDOUT
        )
    os.close(to_browser[0])
    os.close(from_browser[1])
    browser = Browser(from_browser[0], to_browser[1])
    try:
        yield browser
        browser.send("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
