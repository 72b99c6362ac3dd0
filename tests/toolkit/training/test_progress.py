"""The line of an epoch, where output is piped: how long the remaining epochs will take."""

import re
import time

import pytest
import timm
import torch
from fastai.callback.core import Callback

from recipes import digits, rapid
from toolkit.training.begin import begin
from toolkit.training.fit import fit
from toolkit.training.progress import time_left


class Slow(Callback):
    "Validation takes a second longer than it would."

    def before_validate(self):
        time.sleep(1)


@pytest.mark.parametrize(
    ("seconds", "epochs", "expected"),
    [
        ([20.0], 2, "  about 40 s left"),
        ([20.0, 22.0, 90.0], 2, "  about 44 s left"),  # the median: a slow first epoch does not count
        ([60.0], 3, "  about 3 min left"),
        ([360.0], 99, "  about 9.9 h left"),
        ([20.0], 0, ""),
        ([], 5, ""),
    ],
)
def test_the_time_left_is_the_median_epoch_for_each_epoch_to_come(seconds, epochs, expected):
    assert time_left(seconds, epochs) == expected


def lines_of(learn, folder, epochs, capsys):
    learn.add_cb(Slow())
    run = begin(folder, learn)
    capsys.readouterr()
    fit(learn, run, epochs)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]


def test_a_piped_run_prints_the_time_left_after_each_epoch_but_the_last(few_digits, tmp_path, capsys):
    first, second, last = lines_of(digits.learner(few_digits, device="cpu"), tmp_path / "run", 3, capsys)
    for line, left in ((first, 2), (second, 1)):
        duration = float(re.search(r"([\d.]+) s  about", line)[1])
        told = float(re.search(r"about (\d+) s left$", line)[1])
        assert told == pytest.approx(left * duration, abs=1.5)
    assert last.endswith(" s")
    assert "left" not in last


def test_a_linear_probe_says_nothing_on_the_time_of_the_epochs_after_it(few_digits, tmp_path, capsys):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    learn = rapid.learner(
        few_digits,
        arch="test_resnet",
        weights=tmp_path / "weights.pth",
        image_size=32,
        bs=64,
        epochs=3,
        device="cpu",
        workers=0,
    )
    probe, second, _ = lines_of(learn, tmp_path / "run", 3, capsys)
    assert "left" not in probe
    assert second.endswith(" s left")
