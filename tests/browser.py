"""A headless Chromium for tests that look at pages."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image


class Browser:
    "Headless Chromium, controlled over WebDriver: Debian's chromium and chromium-driver, no Python package."

    FLAGS = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --hide-scrollbars"
    )

    def __init__(self, driver: str):
        self.profile = tempfile.mkdtemp()
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        port = next(
            found[1] for line in self.process.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        self.url = f"http://127.0.0.1:{port}/session"
        wanted = {
            "goog:chromeOptions": {"args": [*self.FLAGS.split(), f"--user-data-dir={self.profile}"]},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.url += "/" + self.call("", capabilities={"alwaysMatch": wanted})["sessionId"]
        self.open_url("about:blank")
        self.console(), self.requests()  # discards those of the start page

    def call(self, command: str, method: str = "POST", **values):
        data = json.dumps(values).encode() if method == "POST" else None
        request = urllib.request.Request(
            f"{self.url}{command}", data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open_url(self, url: str):
        self.call("/url", url=url)

    def open(self, page: Path, width: int = 1280, dark: bool = False):
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.open_url(page.as_uri())

    def run(self, script: str, *arguments):
        return self.call("/execute/sync", script=script, args=list(arguments))

    def devtools(self, command: str, **parameters):
        return self.call("/goog/cdp/execute", cmd=command, params=parameters)

    def press(self, *keys: str):
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self.devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def type(self, selector: str, text: str):
        self.run("const field = document.querySelector(arguments[0]); field.value = ''; field.focus()", selector)
        self.devtools("Input.insertText", text=text)

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.call("/se/log", type="browser")]

    def requests(self) -> list[str]:
        events = [json.loads(entry["message"])["message"] for entry in self.call("/se/log", type="performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self) -> np.ndarray:
        data = base64.b64decode(self.devtools("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        with tempfile.TemporaryFile() as file:
            file.write(data)
            return np.asarray(Image.open(file).convert("RGB"))

    def close(self):
        self.call("", method="DELETE")
        self.process.terminate()
        self.process.wait(timeout=30)
        shutil.rmtree(self.profile, ignore_errors=True)
