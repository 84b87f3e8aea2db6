"""A real browser without a window: Chromium, driven over its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)
PATIENCE = 15.0
"""seconds"""
PAUSE = 0.03
"""seconds between two looks"""


def chromium() -> str | None:
    """The program, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def until(found: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `found` returns as soon as that is true; looks are counted, since a machine may hold us up for longer than that."""
    for _ in range(round(seconds / PAUSE)):
        if value := found():
            return value
        time.sleep(PAUSE)
    raise AssertionError(f"waited {seconds} s for {what}")


class Browser:
    """One page of a browser of its own; folder: its profile, which another one can go on with."""

    def __init__(self, folder: Path, *flags: str):
        (folder / "DevToolsActivePort").unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [str(chromium()), *FLAGS, *flags, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = until(lambda: _port(folder), "Chromium to start")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            self._closing = ExitStack()
            self._socket = self._closing.enter_context(
                connect(pages[0]["webSocketDebuggerUrl"], max_size=2**26, compression=None)
            )
        except BaseException:
            self._process.kill()
            raise
        self._id = 0
        self.errors: list[str] = []
        """what the page's scripts threw"""
        self.do("Runtime.enable")
        self.do("Page.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol -> its result."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(PATIENCE))
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            if message.get("id") == self._id:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def open(self, address: str) -> None:
        self.do("Page.navigate", url=address)

    def reload(self) -> None:
        self.do("Page.reload")

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        found = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = PATIENCE) -> None:
        """Wait until the expression holds; a page that is on its way has no values."""

        def holds() -> bool:
            try:
                return self.js(f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()")
            except AssertionError:
                return False

        until(holds, f"{expression} (errors: {self.errors})", seconds)

    def click(self, selector: str) -> None:
        """With the pointer, in the middle of the first element that fits."""
        x, y = self._place(selector, 0.5, 0.5)
        for kind, buttons in (("mousePressed", 1), ("mouseReleased", 0)):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def draw(self, selector: str, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
        """With the pointer, lines of points in 0..1 of the element's width and height."""
        for line in lines:
            for index, (left, top) in enumerate(line):
                x, y = self._place(selector, left, top)
                if index == 0:
                    self.do("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
                self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
            self.do("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key, such as "Enter" or "Tab"."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """As a screen of that size shows it."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = "dark" if dark else "light"
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        found = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _place(self, selector: str, left: float, top: float) -> tuple[float, float]:
        box = self.js(
            f"""(() => {{ const one = document.querySelector({json.dumps(selector)});
            if (!one) return null;
            const box = one.getBoundingClientRect();
            if (box.top < 0 || box.bottom > innerHeight) one.scrollIntoView({{ block: "center" }});
            const {{ x, y, width, height }} = one.getBoundingClientRect(); return [x, y, width, height] }})()"""
        )
        assert box, f"there is no {selector}"
        x, y, width, height = box
        return x + left * width, y + top * height


def _port(folder: Path) -> str:
    try:
        return (folder / "DevToolsActivePort").read_text().split()[0]
    except (OSError, IndexError):
        return ""
