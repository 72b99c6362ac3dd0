"""Successive halving on runs whose losses are known."""

from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest

from toolkit.data.dataset import DataSet
from toolkit.search import halving
from toolkit.search.halving import ShortRuns, held_out, successive_halving
from toolkit.search.method import Method, candidates, in_words

USUAL = Method(lr=1e-3, frozen=0.3, layer_decay=1.0, batch_norm="adapt", crop_area=0.6, mirror=True)
OTHER = Method(lr=6e-4, frozen=0.3, layer_decay=0.8, batch_norm="fixed", crop_area=0.25, mirror=True)
NOISE = np.random.default_rng(0).normal(size=100)


def compared(losses, seconds, monkeypatch, spread=0.1):
    """(the best rate, [(rate, epochs)] of all runs) of methods with the mean loss losses[i] and the rate i.

    An epoch takes a second.
    """
    now = [0.0]
    monkeypatch.setattr(halving.time, "perf_counter", lambda: now[0])

    def run(method, epochs):
        now[0] += epochs
        return losses[int(method.lr)] + spread * NOISE * (1 + method.lr)

    methods = [replace(USUAL, lr=float(i)) for i in range(len(losses))]
    best, tried = successive_halving(methods, ShortRuns(run), seconds, epoch=1.0)
    return best.lr, [(one.method.lr, one.epochs) for one in tried]


def test_all_run_shortly_and_the_better_half_with_the_first_runs_longer(monkeypatch):
    best, runs = compared([1.0, 0.9, 0.5, 0.8], 1e9, monkeypatch)
    assert runs == [(0, 2), (1, 2), (2, 2), (3, 2), (0, 4), (2, 4)]
    assert best == 2


@pytest.mark.parametrize(("seconds", "count"), [(11, 0), (12, 2), (13.9, 2), (14, 3), (16, 4), (1e9, 4)])
def test_as_many_methods_are_compared_as_there_is_time_for(seconds, count, monkeypatch):
    _, runs = compared([1.0, 0.9, 0.8, 0.7], seconds, monkeypatch)
    assert len([1 for _, epochs in runs if epochs == 2]) == count
    assert sum(epochs for _, epochs in runs) <= seconds


def test_the_first_method_stays_if_none_is_better_by_a_standard_error(monkeypatch):
    """The paired differences are the mean difference plus 0.1 * noise, whose standard error is about 0.01."""
    assert compared([1.0, 0.995], 1e9, monkeypatch)[0] == 0
    assert compared([1.0, 0.95], 1e9, monkeypatch)[0] == 1
    assert compared([1.0, 1.2], 1e9, monkeypatch)[0] == 0


def test_a_search_that_was_interrupted_goes_on_and_ends_as_if_it_was_not(monkeypatch, tmp_path, capsys):
    now, taken, losses, file = [0.0], [], [1.0, 0.9, 0.5, 0.8], tmp_path / "run" / "search.json"
    monkeypatch.setattr(halving.time, "perf_counter", lambda: now[0])
    methods = [replace(USUAL, lr=float(i)) for i in range(4)]

    def run(method, epochs):
        now[0] += epochs
        if len(taken) == 3 and now[1:] == []:
            now.append("interrupted")
            raise KeyboardInterrupt
        taken.append((method.lr, epochs))
        return losses[int(method.lr)] + NOISE / 3

    with pytest.raises(KeyboardInterrupt, match=rf"kept: 3\); .* --out {file.parent} --resume"):
        successive_halving(methods, ShortRuns(run, file, {"seed": "1"}), 1e9, 1.0)
    assert taken == [(0, 2), (1, 2), (2, 2)]
    best, tried = successive_halving(methods, ShortRuns(run, file, {"seed": "1"}), 1e9, 1.0)
    assert taken == [(0, 2), (1, 2), (2, 2), (3, 2), (0, 4), (2, 4)]
    assert f"short runs known from {file}: 3" in capsys.readouterr().out
    unbroken, others = successive_halving(methods, ShortRuns(run), 1e9, 1.0)
    assert (best, [one.row() for one in tried]) == (unbroken, [one.row() for one in others])
    assert all((one.losses == other.losses).all() for one, other in zip(tried, others, strict=True))

    ShortRuns(run, file, {"seed": "2"})
    assert f"{file} is of another seed: the search begins anew" in capsys.readouterr().out
    file.write_text("{")
    with pytest.raises(ValueError, match=str(file)):
        ShortRuns(run, file, {"seed": "1"})


def test_candidates_change_no_value_that_was_given():
    every = candidates(USUAL, OTHER, ())
    assert every[:2] == [USUAL, OTHER]
    assert len(every) == len(set(every)) == 8
    for given in ("lr", "frozen", "batch_norm", "crop_area", "mirror"):
        same = replace(OTHER, **{given: getattr(USUAL, given)})
        left = candidates(USUAL, same, {given})
        assert {getattr(one, given) for one in left} == {getattr(USUAL, given)}
        assert len(left) < len(every)
    assert candidates(USUAL, USUAL, {"lr", "frozen", "layer_decay", "batch_norm", "crop_area", "mirror"}) == [USUAL]


def test_a_method_in_words_is_as_its_options_are_spelled():
    assert str(USUAL) == "lr 0.001, frozen 0.3, layer_decay 1, batch_norm adapt, crop_area 0.6, mirror yes"
    assert in_words({"train_sizes": (96, 128), "mirror": "no"}) == "train_sizes 96, 128, mirror no"


def test_photos_held_out_of_a_search_are_training_photos_of_one_fold_and_never_those_of_validation(monkeypatch):
    photos = [Path(f"{i}.png") for i in range(20)]
    data = DataSet(Path("data"), dict(zip(photos, "ab" * 10, strict=True)), {Path("v.png"): "a"})
    folds = np.array(list(chain.from_iterable(repeat(i, 5) for i in range(4))))
    part, rows = held_out(data, folds, seed=0)
    assert rows.tolist() == list(range(5, 20))
    assert list(part.valid) == photos[:5]
    assert list(part.train) == photos[5:]
    monkeypatch.setattr(halving, "MOST_PHOTOS", 8)
    fewer, rows = held_out(data, folds, seed=0)
    assert [photos[i] for i in rows] == list(fewer.train)
    assert len(fewer.train) + len(fewer.valid) == 8
    assert set(fewer.valid) <= set(photos[:5])
    assert set(fewer.train) <= set(photos[5:])
    assert all(label == data.train[photo] for photo, label in (fewer.train | fewer.valid).items())
