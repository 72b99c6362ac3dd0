"""Write a page that tries a model in the browser: static files, which any file server offers.

    python -m export.web model.onnx site
    python -m http.server --directory site

docs/web.md has the ways to bring it to a phone.
"""

import shlex
from pathlib import Path

from export.runtime.metadata import check_exists
from toolkit.command import run_script

LARGE = 60_000_000
"Bytes of a model above which a phone waits long for it."


def web(
    model: Path,  # model.onnx; nothing else is needed
    folder: Path,  # folder to write: new, empty, or one that this command wrote
    name: str | None = None,  # title of the page (default: the name of the photos' folder)
    runtime: Path | None = None,  # onnxruntime-web as npm packs it (default: npm brings it)
) -> Path:
    """Write a page that labels photos in the browser with a model.onnx: no photo leaves the device.

    Returns the folder. Raises OSError if there is no model or onnxruntime-web can't be brought, ValueError for a file
    that is not a model of ours, FileExistsError if the folder holds other files.
    """
    from export.browser.runtime import package
    from export.browser.site import write_site

    check_exists(Path(model))
    folder = Path(folder)
    written = write_site(Path(model), folder, name, package(runtime))
    if written.size > LARGE and written.card.precision == "fp32":
        megabytes = f"{written.size / 1e6:.0f} MB"
        print(f"note: {megabytes} are much for a phone: export with --precision fp16 or int8", flush=True)
    print(f"page {folder}", flush=True)
    print(f"try it: python -m http.server --bind 127.0.0.1 --directory {shlex.quote(str(folder))}", flush=True)
    return folder


if __name__ == "__main__":
    run_script(web)
