"""A run of commit 8bbe1e4 in tests/older_run is resumed, rebuilt, verified and shown by this version."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from here import here

from export.verify import verify
from toolkit.data.photo_loader import PhotoLoader
from toolkit.pages.run_page import write_report
from toolkit.run import load
from toolkit.training.state import Best, EpochProgress, read_state

OLDER = Path(__file__).resolve().parents[1] / "older_run"
OPTIONS = (
    "--data photos --loss focal --arch test_efficientnet --weights none --image_size 32 --bs 8 --accum 2 --workers 0 "
    "--device cpu --precision fp32 --lr 0.003"
).split()


@pytest.fixture
def run(tmp_path, monkeypatch):
    "A copy of the run, in a folder beside its photos; the current folder is the one that holds both."
    shutil.copytree(OLDER, tmp_path / "run", ignore=shutil.ignore_patterns("photos", "history_of*", "README.md"))
    shutil.copytree(OLDER / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return load("run")


def on_one_thread(*arguments):
    "The exit status of the command, computed as the older run was: the last bits depend on the number of threads."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return here(*arguments)
    finally:
        torch.set_num_threads(threads)


def rows(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture
def draws_of_8bbe1e4(monkeypatch):
    "One random number is drawn as a pass over a data loader begins: torch's DataLoader did, today's loader does not."
    before_iter = PhotoLoader.before_iter

    def drawing(loader):
        torch.empty((), dtype=torch.int64).random_()
        before_iter(loader)

    monkeypatch.setattr(PhotoLoader, "before_iter", drawing)


@pytest.mark.long
@pytest.mark.usefixtures("draws_of_8bbe1e4")
def test_a_resumed_older_run_has_the_history_of_the_version_that_began_it(run):
    "With dropout's draws of that version, which are others today: all else that a step depends on comes back."
    assert on_one_thread(*OPTIONS, "--epochs", 4, "--out", "run", "--resume") == 0
    ours, theirs = rows(run.path("history.csv")), rows(OLDER / "history_of_4_epochs.csv")
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        for column in other.keys() - {"seconds"}:
            assert float(mine[column]) == pytest.approx(float(other[column]), abs=1e-5), (column, mine["epoch"])
    assert read_state(run.path("last.pt")).epochs == 4


def test_an_older_run_is_resumed_with_another_method_no_more_than_a_new_one(run, capsys):
    assert here(*OPTIONS, "--lr", "0.01", "--epochs", 4, "--out", "run", "--resume") == 2
    assert "begun with --lr 0.003, now it is 0.01" in capsys.readouterr().err


def test_the_learner_of_an_older_run_predicts_as_it_did(run):
    learn = run.learner("cpu")
    with learn.no_bar():
        probabilities, _ = learn.get_preds()
    recorded = rows(run.path("valid_predictions.csv"))
    assert len(recorded) == 12
    for found, row, photo in zip(probabilities, recorded, learn.dls.data.valid, strict=True):
        assert (learn.dls.data.relative(photo), learn.dls.vocab[int(found.argmax())]) == (
            row["file"],
            row["prediction"],
        )
        assert float(found.max()) == pytest.approx(float(row["confidence"]), abs=2e-6)


def test_an_older_model_is_verified_on_its_photos_and_shown_on_its_page(run, capsys):
    certificate = verify(run.path("model.onnx"), Path("photos"), device="cpu")
    assert (certificate["images"], certificate["accuracy"]) == (12, pytest.approx(1 / 3))
    assert "same label          100.00%" in capsys.readouterr().out
    page = write_report(run).read_text()
    assert "test_efficientnet" in page
    assert "4 of 12 images" in page


def test_what_an_older_state_lacks_comes_from_its_history_or_is_none(run):
    "It holds no epochs planned, no loss of the best epoch and no rate at an epoch's beginning."
    held = torch.load(run.path("last.pt"), weights_only=True)
    assert (held.keys() & {"epochs"}, held["best"].keys()) == (set(), {"epoch", "accuracy"})
    state = read_state(run.path("last.pt"))
    first = rows(run.path("history.csv"))[0]
    assert state.epochs is None
    assert state.best == Best(1, float(first["accuracy"]), float(first["valid_loss"]))
    assert state.inside == EpochProgress(seen=0, total=0.0, seconds=0.0, rate=None)


@pytest.mark.parametrize(
    "change", [{"best": {}}, {"best": {"epoch": 7, "accuracy": 1.0}}, {"history": [1]}, {"inside": 0}]
)
def test_an_older_state_that_does_not_fit_its_history_is_refused(run, change):
    torch.save(torch.load(run.path("last.pt"), weights_only=True) | change, run.path("last.pt"))
    with pytest.raises(ValueError, match=r"last.pt is not a state that this version reads: begin a new run"):
        read_state(run.path("last.pt"))
