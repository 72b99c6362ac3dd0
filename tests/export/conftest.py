"""onnxruntime-web for the tests of the page, once a session."""

import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def package(_own_cache) -> Path:
    "The npm package, brought by npm into an empty cache."
    from export.browser.runtime import package

    if not shutil.which("npm") and not (Path(sys.executable).parent / "npm").exists():
        pytest.skip("needs npm, which brings onnxruntime-web: install Node.js")
    try:
        return package()
    except OSError as error:  # no network
        pytest.skip(str(error))
