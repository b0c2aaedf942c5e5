"""A headless Chromium, spoken to over its DevTools pipe: the real one, without a driver and without a port."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-default-apps", "--no-default-browser-check", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)
PATIENCE_S = 60.0


def find_chromium() -> str | None:
    """Path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. `complaints` are console errors, exceptions and policy violations, `requests` every URL asked for."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._rest = b""
        self._ids = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._session = ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Performance.enable", timeDomain="threadTicks")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        wanted = next(self._ids)
        message = {"id": wanted, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write_fd, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == wanted:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        deadline = time.monotonic() + patience_s
        while b"\0" not in self._rest:
            if not select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {patience_s:g} s")
            chunk = os.read(self._read_fd, 1 << 20)
            if not chunk:
                raise EOFError("Chromium ended")
            self._rest += chunk
        raw, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(raw)
        self._note(message)
        return message

    def _note(self, message: Mapping[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        self._events.append(dict(message))
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file in a window of that size and wait for its load event."""
        self.complaints, self.requests, self._events = [], [], []
        self.resize(width, height)
        self._call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._next()

    def resize(self, width: int, height: int) -> None:
        """The window's size in CSS pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, **features: str) -> None:
        """Set media features: `prefer(prefers_color_scheme="dark")`."""
        given = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", features=given)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is, awaited if it is a promise."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, patience_s: float = 20.0) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + patience_s
        while not self.value(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def busy_s(self) -> float:
        """Processor time the page's thread has spent on tasks, seconds: of this process, whatever else is running."""
        metrics = {metric["name"]: metric["value"] for metric in self._call("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    def press(self, key: str, code: int) -> None:
        """A key, with its Windows key code."""
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """The page as printed on A4."""
        printed = self._call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(printed["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a Chromium with a fresh profile below `profile`, and end it."""
    path = find_chromium()
    assert path is not None
    to_read, to_write = os.pipe(), os.pipe()
    command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    # Chromium reads descriptor 3 and writes 4.
    script = f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
    with open(profile.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(to_read[0], to_write[1]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        yield Browser(to_write[0], to_read[1])
    finally:
        os.close(to_read[1])
        os.close(to_write[0])
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
