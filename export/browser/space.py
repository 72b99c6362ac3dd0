"""The page as a static Space of the Hugging Face Hub.

https://huggingface.co/docs/hub/spaces-config-reference
"""

from pathlib import Path

from export.browser.runtime import package
from export.browser.site import FILES, write_site
from export.convert.model_card import MARK, literal
from toolkit.files import write_atomic

SPACE_FILES = (*FILES, "README.md", "style.css")  # the last is of the hub's example page, and goes

# the headers let WebAssembly use several threads
README = """---
title: "{title}"
sdk: static
app_file: index.html
models:
- {repository}
custom_headers:
  cross-origin-opener-policy: same-origin
  cross-origin-embedder-policy: require-corp
  cross-origin-resource-policy: cross-origin
---
{mark}

# {name}

It labels photos in the browser. No photo leaves the device. The model is
[{name}](https://huggingface.co/{repository}).{licence}
"""


def write_space(model: Path, folder: Path, repository: str, runtime: Path | None) -> None:
    """Write the page of a model.onnx with the README.md that makes it a Space. repository: USER/NAME of the model.
    runtime: the npm package of onnxruntime-web; None lets npm bring it.

    Raises FileNotFoundError if there is no model.onnx, and as `write_site` and `package` do.
    """
    if not model.is_file():
        raise FileNotFoundError("--space needs the run's model.onnx: `python -m export.to_onnx RUN`")
    name = repository.partition("/")[2]
    licence = write_site(model, folder, name, package(runtime)).card.weights_license
    text = f" Licence of the weights that its training began with: {literal(licence)}." if licence else ""
    readme = README.format(title=name, name=literal(name), repository=repository, mark=MARK, licence=text)
    write_atomic(folder / "README.md", readme)
