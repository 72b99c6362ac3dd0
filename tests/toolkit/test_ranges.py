"""The ranges of numeric options: a number out of range is refused before anything is read or written."""

import math
from inspect import signature
from typing import get_args

import numpy as np
import pytest
from here import here
from noise import write_noise

from recipes import digits, hw1, loss_study, rapid
from toolkit.command import run
from toolkit.ranges import RANGES, check_ranges

SMALL = "--arch test_resnet --weights none --image_size 32 --device cpu --precision fp32 --workers 0".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=2)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("gamma", [0, 0.5, 5], [-0.1, math.inf, math.nan]),
        ("smoothing", [0, 0.99], [-0.1, 1, math.nan]),
        ("epochs", [1, 10**9, np.int64(3)], [0, -1, 10**9 + 1, 1.5]),
        ("minutes", [0.01, 10**6], [0, -1, math.inf, math.nan]),
        ("lr", [0, 1e-3, 3, "auto", None], [-1e-3, math.inf, math.nan]),
        ("bs", [1, 512, "auto", None], [0, -1, 2**40, 2.5]),
        ("accum", [1], [0]),
        ("image_size", [1, 224, 7168], [0, 7169]),  # of 7169 the shorter side would be resized to 8193
        ("train_sizes", [(), [1], (96, 8192)], [(96, 8193), [0]]),
        ("layer_decay", [0.1, 1], [0, 1.01, math.nan]),
        ("frozen", [0, 0.5, None], [-0.1, 1, math.nan]),
        ("mixup", [0, 0.4], [-0.1, math.inf, math.nan]),
        ("cutmix", [0, 1], [-0.1, math.inf, math.nan]),
        ("workers", [0, 8, "auto"], [-1]),
        ("seed", [0, 2**32 - 1], [-1, 2**32, 2**64]),
        ("save_every", [0, 100], [-1]),
    ],
)
def test_each_range_accepts_its_bounds_and_refuses_numbers_beyond_them(name, inside, outside):
    for value in inside:
        check_ranges({name: value})
    for value in outside:
        with pytest.raises(ValueError, match=rf"^--{name} \S+: give .*\d"):
            check_ranges({name: value})


def test_every_numeric_option_of_a_recipe_has_a_range():
    for recipe in (digits, hw1, rapid):
        for function in (recipe.main, recipe.learner):
            kinds = {each.name: str(get_args(each.annotation)[0]) for each in signature(function).parameters.values()}
            numbers = {name for name, kind in kinds.items() if "float" in kind or "int" in kind}
            assert {"lr", "bs", "seed"} <= numbers
            assert numbers <= RANGES.keys()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (hw1, "--bs -1"),
        (rapid, "--bs -1"),
        (hw1, "--epochs 0"),
        (digits, "--epochs 0"),
        (hw1, "--save_every -1"),
        (hw1, f"--seed {2**64}"),
        (rapid, "--lr inf"),
        (rapid, "--minutes nan"),
        (rapid, "--minutes inf"),
        (rapid, "--train_sizes 16 100000"),
    ],
)
def test_a_number_out_of_range_is_a_one_line_error_and_leaves_no_folder(recipe, words, photos, tmp_path, capfd):
    "A folder would be in the way of the corrected command."
    option, *values = words.split()
    assert here("--data", photos, "--out", tmp_path / "run", *SMALL, *words.split(), recipe=recipe) == 2
    ended = capfd.readouterr()
    assert ended.out == ""
    assert ended.err.startswith(f"error: {option} {values[-1]}: give ")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_study_checks_the_values_of_all_its_runs_before_the_first(photos, tmp_path, capfd):
    given = ["--data", photos, "--losses", "ce", "--vary", "lr", "1e-3", "inf", "--out", tmp_path / "study"]
    assert run(loss_study.main, list(map(str, given))) == 2
    assert capfd.readouterr().err.startswith("error: --lr inf: give a number from 0 up")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("recipe", [digits, hw1, rapid])
def test_a_recipes_learner_refuses_numbers_out_of_range_too(recipe, photos):
    with pytest.raises(ValueError, match="--accum 0: give 1 or more batches to an optimiser step"):
        recipe.learner(photos, accum=0)
    with pytest.raises(ValueError, match="--lr inf: give a number from 0 up"):
        recipe.learner(photos, lr=math.inf)


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        (
            hw1,
            "--arch test_vit --image_size 33",
            "--image_size 33: VisionTransformer takes no photos of that size (Input",
        ),
        (hw1, "--arch inception_v3 --image_size 32", "--image_size 32: InceptionV3 takes no photos of that size (Calc"),
        (
            rapid,
            "--arch test_convnext --train_sizes 3 32",
            "--train_sizes 3: ConvNeXt takes no photos of that size (Calc",
        ),
        (
            rapid,
            "--arch test_vit --train_sizes 24 32",
            "--train_sizes 24: VisionTransformer takes no photos of that size",
        ),
    ],
)
def test_a_size_that_the_network_does_not_accept_is_refused_before_a_run_starts(
    recipe, words, message, photos, tmp_path, capfd
):
    assert here("--data", photos, "--out", tmp_path / "run", *SMALL, *words.split(), recipe=recipe) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {message}")
    assert "what it was made for" in err
    assert not (tmp_path / "run").exists()
