"""What `fit` does beside training: the page while it goes on, and where an epoch's seconds go."""

import time

import pytest
from fastai.callback.core import Callback

from recipes import digits
from toolkit.run import load
from toolkit.training import progress
from toolkit.training.begin import begin
from toolkit.training.evaluate import PARTS, evaluate
from toolkit.training.fit import fit

OPTIONS = {"loss": "ce", "arch": "test_resnet", "bs": 64, "accum": 1, "lr": 4e-3, "seed": 0}


class Slow(Callback):
    "Computing and validating take longer than they do."

    def before_step(self):
        time.sleep(0.02)

    def before_validate(self):
        time.sleep(0.5)


class Watch(Callback):
    "What the page says when an epoch has ended."

    order = 80

    def __init__(self, page):
        self.page, self.seen = page, []

    def after_epoch(self):
        self.seen.append(self.page.read_text() if self.page.is_file() else "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few_digits):
    root = tmp_path_factory.mktemp("train")
    learn = digits.learner(few_digits, device="cpu")
    run = begin(root / "run", learn)
    watch = Watch(run.path("report.html"))
    learn.add_cbs([Slow(), watch])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SHOWN", 0.5)
        fit(learn, run, 2)
    evaluate(learn, run)
    return run, watch


def test_a_page_that_the_last_one_would_replace_at_once_is_not_written(tmp_path, few_digits):
    learn = digits.learner(few_digits, device="cpu")
    run = begin(tmp_path / "run", learn)
    watch = Watch(run.path("report.html"))
    learn.add_cb(watch)
    fit(learn, run, 2)
    assert watch.seen == ["", ""]


def test_the_page_is_there_after_the_first_epoch_and_before_the_last(trained):
    run, watch = trained
    assert len(watch.seen) >= 2
    assert "<svg" in watch.seen[0]
    assert "digits" in watch.seen[0]


def test_the_seconds_of_an_epoch_are_those_of_its_parts(trained):
    run, _ = trained
    found = load(run.folder).metrics
    steps = -(-run.recipe["data"]["train"] // 64)
    assert found["seconds_compute"] > 0.02 * steps
    assert found["seconds_validation"] > 0.5
    assert found["seconds_data_wait"] > 0
    assert sum(found[name] for name in PARTS) == pytest.approx(found["seconds"] / 2, rel=0.1)


def test_a_finished_run_evaluated_again_keeps_the_seconds_of_its_parts(trained):
    run, _ = trained
    before = load(run.folder).metrics
    evaluate(load(run.folder).learner("cpu"), run)
    after = load(run.folder).metrics
    assert {name: after[name] for name in PARTS} == {name: before[name] for name in PARTS}
