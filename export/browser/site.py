"""The page as a folder of files that any file server offers."""

from pathlib import Path

import numpy as np
import onnx

from export.browser.page import SCRIPTS, WORKER, page, script
from export.browser.runtime import unpack
from export.parity.certificate import BUDGETS
from export.publishing.own_folder import check_free
from export.publishing.published import last_part, published
from export.session import Classifier
from toolkit.files import write_atomic

MARK = "<!-- Written by export.web. Without this line it leaves the folder alone. -->"
ORT = "onnxruntime"
FILES = ("index.html", "model.onnx", *SCRIPTS, WORKER, ORT)


def write_site(model: Path, folder: Path, name: str | None, runtime: Path) -> Classifier:
    """Write the page, its scripts, onnxruntime-web from the package `runtime`, and the model without facts of this
    machine. index.html is written last.

    Returns the model that was written. Raises as `check_free` and Classifier do.
    """
    check_free(folder, "index.html", MARK, FILES, "export.web")
    given = Classifier(model, "cpu", 1)
    (folder / ORT).mkdir(parents=True, exist_ok=True)
    unpack(runtime, folder / ORT)
    write_atomic(folder / "model.onnx", published(onnx.load(model)).SerializeToString())
    for each in (*SCRIPTS, WORKER):
        write_atomic(folder / each, script(each))
    written = Classifier(folder / "model.onnx", "cpu", 1)
    known = {"precision": written.card.precision, "bytes": written.size, "check": pattern_check(written)}
    html = page(written, name or title(given), "browser", **known)
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

    Pixel (x, y) of the pattern has the colour (x * y + 40 * c) mod 256, c = 0, 1, 2. The bounds are those of the
    certificate, WebAssembly's those of a CPU and WebGPU's those of CUDA.
    """
    y, x, c = np.indices((model.card.preprocess["crop"],) * 2 + (3,))
    pattern = ((x * y + 40 * c) % 256).astype(np.uint8)
    probabilities = model.scores(pattern[None])[1][0]
    bounds = {name: BUDGETS[model.card.precision, device]["probability"] for name, device in DEVICES.items()}
    return {"probabilities": probabilities.tolist(), "bounds": bounds}


DEVICES = {"wasm": "cpu", "webgpu": "cuda"}
"The browser's devices, and those whose budgets they must keep."
