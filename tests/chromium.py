"""Drives a headless Chromium over a pair of pipes, for tests of pages.

The DevTools protocol: JSON messages that end in NUL, on file descriptors 3 and 4.
"""

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import time

import numpy as np
from PIL import Image

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
PATIENCE_S = 60


class Page:
    """One tab that can reach no network; remembers what it was told and asked."""

    def __init__(self, commands, answers):
        self._commands, self._answers = commands, answers
        self._last, self._session, self._unread = 0, {}, b""
        self.requested, self.complaints = [], []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")
        nothing = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self("Network.emulateNetworkConditions", offline=True, **nothing)

    def __call__(self, method, **parameters):
        """Send one command and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        self._commands.write(json.dumps(message | self._session).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer)

    def open(self, path, width, height, touch=False):
        """Open a file in a window of that size and wait until scripts have run."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self("Emulation.setDeviceMetricsOverride", mobile=touch, **size)
        self("Emulation.setTouchEmulationEnabled", enabled=touch)
        self("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.readyState === 'complete'")

    def value(self, script):
        """Return what a JavaScript expression is worth."""
        result = self(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, (script, result)
        return result["result"].get("value")

    def wait(self, condition):
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(condition):
            assert time.monotonic() < end, (condition, self.complaints)
            time.sleep(0.05)

    def point_at(self, x, y):
        """Move the mouse."""
        self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, start, end):
        """Pull with the left button."""
        for kind, (x, y) in (
            ("mousePressed", start),
            ("mouseMoved", end),
            ("mouseReleased", end),
        ):
            held = {"button": "left", "buttons": 1, "clickCount": 1}
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)

    def tap(self, x, y):
        """Touch a point with a finger, briefly."""
        points = [{"x": x, "y": y}]
        self("Input.dispatchTouchEvent", type="touchStart", touchPoints=points)
        self("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def touch(self, start, *then):
        """Put fingers down, move them from places to places, and take them away."""
        for number, places in enumerate([start, *then]):
            points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(places)]
            kind = "touchMove" if number else "touchStart"
            self("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def picture(self, path=None):
        """Return the pixels of the window as [h, w, 3]."""
        data = base64.b64decode(self("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def _read(self):
        while b"\0" not in self._unread:
            block = os.read(self._answers, 1 << 16)
            assert block, "Chromium has ended"
            self._unread += block
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        about = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(about["entry"]["text"])


@contextlib.contextmanager
def open_chromium(profile):
    """Yield a page of a Chromium that keeps its files in the folder `profile`."""
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()

    def place_pipes():
        # Through copies, as 3 or 4 may be among the four ends.
        copies = os.dup(to_browser), os.dup(from_browser)
        os.dup2(copies[0], 3)
        os.dup2(copies[1], 4)

    browser = subprocess.Popen(
        [PROGRAM, *OPTIONS, f"--user-data-dir={profile}"],
        preexec_fn=place_pipes,
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        with os.fdopen(commands, "wb") as stream:
            yield Page(stream, answers)
    finally:
        browser.terminate()
        browser.wait()
        os.close(answers)
