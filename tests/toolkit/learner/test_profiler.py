"""Profile: an epoch's parts are what they take, and add up to it; the part that is too large is named."""

import time
from dataclasses import replace

import pytest
from fastai.callback.core import Callback

from recipes import digits
from toolkit.learner import profiler
from toolkit.learner.profiler import Profile, bottleneck, profile_table
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit

FAIR = {
    "data_wait": 1.0,
    "copy": 0.5,
    "forward": 6.0,
    "backward": 12.0,
    "step": 2.0,
    "validation": 3.0,
    "saving": 0.1,
}


@pytest.mark.parametrize(
    ("part", "bound_by", "advice"),
    [
        ("data_wait", "data", "--workers"),
        ("copy", "copy", "--bs"),
        ("step", "step", "--accum"),
        ("validation", "validation", "fewer photos to validate on"),
        ("saving", "saving", "disk"),
        ("backward", "compute", "--image_size"),
    ],
)
def test_the_part_that_takes_too_much_is_named(part, bound_by, advice):
    told = bottleneck(FAIR | {part: 30.0}, cuda=True)
    assert told[0] == bound_by
    assert advice in told[1]
    assert bottleneck(FAIR, cuda=True)[0] == "compute"


class Slow(Callback):
    "Parts that take longer than they would: 8 ms a forward pass, 4 a step, 50 a validation."

    order = 50

    def after_pred(self):
        if self.training:
            time.sleep(0.008)

    def before_step(self):
        time.sleep(0.004)

    def before_validate(self):
        time.sleep(0.05)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A run on the digits with a profile, its photos read slowly."
    root = tmp_path_factory.mktemp("profile")
    learn = digits.learner(root / "data", device="cpu")
    learn.options = replace(learn.options, profile=True)
    run = begin(root / "run", learn)
    learn.add_cb(Slow())
    do_item = learn.dls.train.do_item

    def slowly(index):
        time.sleep(0.0002)
        return do_item(index)

    learn.dls.train.do_item = slowly
    fit(learn, run, 2)
    return learn, evaluate(learn, run), run


def test_the_parts_are_what_they_take_and_add_up_to_the_epoch(trained):
    learn, metrics, run = trained
    found, steps = metrics["profile"], len(learn.dls.train)
    seconds = found["seconds"]
    assert found["epochs"] == 2
    assert list(seconds) == list(profiler.PARTS)
    assert seconds["forward"] > 0.008 * steps
    assert seconds["step"] > 0.004 * steps
    assert seconds["data_wait"] > 0.0002 * learn.dls.train.n
    assert seconds["validation"] > 0.05
    assert all(spent > 0 for spent in seconds.values())
    without_saving = sum(seconds.values()) - seconds["saving"]
    assert without_saving == pytest.approx(metrics["seconds"] / 2, rel=0.1)
    assert learn.dls.train.mark is None
    assert run.read_json("metrics.json")["profile"] == found


def test_the_table_has_all_parts_and_the_verdict():
    text = profile_table({"seconds": FAIR, "bound_by": "compute", "try": "a GPU", "epochs": 1})
    assert text.splitlines()[0] == "an epoch of 24.60 s:"
    assert "  backward pass                      12.00 s  48.8%" in text
    assert text.splitlines()[-1] == "bound by compute; what may help: a GPU"


def test_a_fit_in_a_notebook_prints_it(trained, capsys):
    learn = trained[0]
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=Profile())
    assert "bound by" in capsys.readouterr().out
