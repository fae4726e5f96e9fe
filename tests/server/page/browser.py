"""A headless Chromium, driven by its own DevTools protocol."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LIMIT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 20.0


class Browser:
    """One tab. `browser.js("document.title")`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._number = 0
        self.complaints: list[str] = []
        """What the console said: errors and warnings, exceptions, what the policy has kept from loading."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=LIMIT))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif message["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"]))
        elif message["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["entry"]))

    def open(self, url: str, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        self.show(width, height, dark=dark)
        self.call("Page.navigate", url=url)

    def show(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window, and the colours that the reader likes."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """What it is once it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.js(expression)):
            assert time.monotonic() < end, (
                f"{expression}; the page says: {self.js('document.body.innerText')}; {self.complaints}"
            )
            time.sleep(0.05)
        return found

    def press(self, key: str, code: int) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self) -> bytes:
        """PNG of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """`folder`: for its profile. Skips where there is none."""
    client = pytest.importorskip("websockets.sync.client", reason="needs websockets: pip install -r requirements-dev.txt")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--hide-scrollbars",
    ]
    command = [CHROMIUM, *flags, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next((line for line in process.stderr if "DevTools listening on" in line), "")
            port = re.search(r"ws://127\.0\.0\.1:(\d+)/", line)
            assert port is not None, "Chromium does not start"
            with client.connect(_tab(int(port[1])), max_size=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()


def _tab(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=LIMIT) as answer:
        return next(str(target["webSocketDebuggerUrl"]) for target in json.load(answer) if target["type"] == "page")
