"""Where the tests find real photos and weights; a user's clone has none, and those tests skip with the reason."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from browser import Browser
from filelock import FileLock

from toolkit.run import Run, load

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_finish() -> None:
    "Garbage is not looked for among what libraries made, as in a command: see toolkit.commandline.startup."
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory) -> Iterator[None]:
    "What recipes remember of photos they checked, kept out of the user's cache folder."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_table_of_operators() -> None:
    forked.make_operators_once()


@pytest.fixture
def empty_data_cache(tmp_path_factory, monkeypatch) -> Path:
    "The folder of unpacked data sets in a user's cache that is empty."
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "rapid-finetune" / "data"


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(SHARED.parent)}, which a plain clone does not have")
    return path


@pytest.fixture
def no_export(monkeypatch) -> None:
    "Recipes in this process end without model.onnx and predictions, which take half of a small run."
    from toolkit.pages.run_page import write_report

    monkeypatch.setattr("export.to_onnx.to_onnx", lambda folder, **options: None)
    monkeypatch.setattr("export.run_predictions.predict_test_photos", lambda run, *given: write_report(run) and [])


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory) -> Run:
    "A run on the digits, trained for five epochs, with its model.onnx. To be copied by who would change it."
    here = tmp_path_factory.getbasetemp()
    shared = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "digits"
    with FileLock(f"{shared}.lock"):  # the processes of pytest-xdist train it once
        if not (shared / "run/model.onnx").exists():
            train_digits(shared)
    return load(shared / "run")


def train_digits(root: Path) -> None:
    from export.to_onnx import to_onnx
    from recipes import digits
    from toolkit.training.begin import begin
    from toolkit.training.evaluate import evaluate
    from toolkit.training.fit import fit

    learn = digits.learner(root / "data", device="cpu")
    run = begin(root / "run", learn)
    fit(learn, run, 5)
    evaluate(learn, run)
    to_onnx(run.folder, device="cpu")


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory) -> Path:
    "The folder of the digits with a fourth of their photos, for tests that do not ask how well they are learnt."
    from toolkit.data.digits import write_digits

    folder = write_digits(tmp_path_factory.mktemp("digits") / "data")
    for place in (*folder.glob("train/*"), *folder.glob("val/*")):
        for number, photo in enumerate(sorted(place.iterdir())):
            if number % 4:
                photo.unlink()
    return folder


@pytest.fixture(scope="session")
def grocery() -> Path:
    "20 classes of phone photos in the homework's layout: train/ val/ test/ and test_labels.csv."
    return _present(SHARED / "data" / "grocery20")


@pytest.fixture(scope="session")
def odd() -> Path:
    "Files that break image readers, one folder a kind."
    return _present(SHARED / "data" / "odd")


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    "ImageNet weights for timm's mobilenetv2_100, without a classifier."
    return _present(SHARED / "weights" / "mobilenetv2_100.pth")


@pytest.fixture(scope="module")
def browser():
    driver = shutil.which("chromedriver")
    if not driver or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    opened = Browser(driver)
    yield opened
    opened.close()
