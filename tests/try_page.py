"""The page to try a model, driven in a headless browser as a user would."""

import base64
import contextlib
import functools
import http.server
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from browser import Browser

ANSWERS = """
return [...document.querySelectorAll("#answers > li")].reverse().map(li => ({
  title: li.querySelector(".label").textContent, text: li.textContent,
  shares: Object.fromEntries([...li.querySelectorAll(".shares li")].map(
    each => [each.querySelector("span").textContent, Number(each.querySelector("b").title)])),
}))
"""


class Found(NamedTuple):
    title: str  # the label with its confidence, or unsure, or not answered
    text: str  # the whole card
    shares: dict[str, float]


@contextlib.contextmanager
def served(folder: Path, **headers: str) -> Iterator[str]:
    "The address at which a plain file server offers the folder. headers: those that it sends beside its own."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *given):
            pass

        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            super().end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def open_page(browser: Browser, url: str, width: int = 1000, dark: bool = False) -> str:
    "Open the page; return its status line once it is ready, or once it says that it can't be."
    browser.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.devtools("Emulation.setEmulatedMedia", features=[scheme])
    browser.open_url(url)
    done = 'return document.body.dataset.ready === "yes" || document.querySelector(".status.wrong") !== null'
    wait(browser, done)
    return browser.run('return document.getElementById("status").textContent')


def wait(browser: Browser, condition: str, seconds: float = 180) -> None:
    "Wait until a script returns true."
    latest = time.monotonic() + seconds
    while not browser.run(condition):
        assert time.monotonic() < latest, condition
        time.sleep(0.1)


def choose(browser: Browser, photos: Sequence[Path]) -> None:
    "Give files to the page, as its button does."
    root = browser.devtools("DOM.getDocument")["root"]["nodeId"]
    node = browser.devtools("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.devtools("DOM.setFileInputFiles", files=[str(each) for each in photos], nodeId=node)


def give(browser: Browser, photo: Path, how: str) -> None:
    "Drop a photo on the page, or paste it: an event as a browser makes it."
    script = """
    const [text, name, how] = arguments, bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name));
    dispatchEvent(how === "drop" ? new DragEvent("drop", {dataTransfer: carried})
                                 : new ClipboardEvent("paste", {clipboardData: carried}));
    """
    browser.run(script, base64.b64encode(photo.read_bytes()).decode(), photo.name, how)


def answers(browser: Browser, count: int) -> list[Found]:
    "The cards of all photos that were given, once there are so many and each is done; in the order in which they came."
    done = 'document.querySelectorAll("#answers > li[data-done]").length'
    wait(browser, f"return {done} === {count}")
    browser.run('document.querySelectorAll("#answers details").forEach(each => { each.open = true; })')
    opened = '[...document.querySelectorAll("#answers details")].every(each => each.querySelector("li"))'
    wait(browser, f"return {opened}")
    return [Found(**each) for each in browser.run(ANSWERS)]
