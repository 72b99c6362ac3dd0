"""The page as a folder of files that any file server offers."""

from pathlib import Path

import numpy as np
import onnx

from export.browser.page import SCRIPTS, WORKER, page, script
from export.browser.runtime import unpack
from export.publishing.own_folder import check_free
from export.publishing.published import last_part, published
from export.session import Classifier
from toolkit.files import write_atomic

MARK = "<!-- Written by export.web. Without this line it leaves the folder alone. -->"
ORT = "onnxruntime"
FILES = ("index.html", "model.onnx", *SCRIPTS, WORKER, ORT)

BOUNDS = {  # of a probability of the test pattern: the same file on this machine and in the browser
    "fp32": {"wasm": 1e-3, "webgpu": 2e-2},
    "fp16": {"wasm": 5e-2, "webgpu": 5e-2},
    "int8": {"wasm": 0.1, "webgpu": 0.1},
}


def write_site(model: Path, folder: Path, name: str | None, runtime: Path) -> Classifier:
    """Write the page, its scripts, onnxruntime-web from the package `runtime`, and the model without facts of this
    machine. index.html is written last; until then it says that the page is being written.

    Returns the model that was written. Raises as `check_free` and Classifier do, ValueError for an unknown precision.
    """
    check_free(folder, "index.html", MARK, FILES, "export.web")
    given, content = Classifier(model, "cpu", 1), published(onnx.load(model)).SerializeToString()
    if given.card.precision not in BOUNDS:
        raise ValueError(f"{model} has the precision {given.card.precision!r:.60}, expected {', '.join(BOUNDS)}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "index.html", f"<!doctype html>\n{MARK}\n<p>This page is being written.</p>\n")
    (folder / ORT).mkdir(exist_ok=True)
    unpack(runtime, folder / ORT)
    write_atomic(folder / "model.onnx", content)
    for each in (*SCRIPTS, WORKER):
        write_atomic(folder / each, script(each))
    written = Classifier(folder / "model.onnx", "cpu", 1)
    known = {"precision": written.card.precision, "bytes": written.size, "check": pattern_check(written)}
    html = page(written, name or title(given), "browser", classes=written.card.classes, **known)
    write_atomic(folder / "index.html", html.replace("<head>", f"<head>\n{MARK}", 1))
    return written


def title(model: Classifier) -> str:
    "The page's title unless one is given: the name of the photos' folder, else the file's."
    recipe = model.card.recipe if isinstance(model.card.recipe, dict) else {}
    options = recipe.get("options")
    data = options.get("data") if isinstance(options, dict) else None
    return (last_part(data) if isinstance(data, str) else "") or model.model.stem


def pattern_check(model: Classifier) -> dict[str, object]:
    """The probabilities of a test pattern, which a browser must compute too, and how far its own may be off.

    Pixel (x, y) of the pattern has the colour (x * y + 40 * c) mod 256, c = 0, 1, 2.
    """
    y, x, c = np.indices((model.card.preprocess["crop"],) * 2 + (3,))
    pattern = ((x * y + 40 * c) % 256).astype(np.uint8)
    probabilities = model.scores(pattern[None])[1][0]
    return {"probabilities": probabilities.tolist(), "bounds": BOUNDS[model.card.precision]}
