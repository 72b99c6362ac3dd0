"""A recipe's options as one signature: bound as Python does, checked as the command line does, resumed as recorded."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipes import digits, hw1, rapid, recipe
from toolkit.options import TYPES, Options

RECIPES = [hw1, rapid, digits]


@pytest.mark.parametrize("module", RECIPES)
def test_the_signature_has_all_options_and_then_the_recipes_own(module):
    names = list(inspect.signature(module.learner).parameters)
    assert names == list(TYPES) + list(module.main.recipe.own)
    assert inspect.signature(module.main) == inspect.signature(module.learner)


def test_arguments_are_bound_by_position_and_by_name():
    options, own = rapid.main.recipe.bound(("d", "focal"), {"bs": 4, "mixup": 0.3})
    assert (options.data, options.loss, options.bs, options.arch) == (Path("d"), "focal", 4, "resnet152.tv2_in1k")
    assert (own["mixup"], own["probe"]) == (0.3, True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"lose": "ce"}, TypeError, "unexpected keyword argument 'lose'"),
        ({"loss": "mse"}, ValueError, "unknown --loss 'mse'"),
        ({"average": "mean"}, ValueError, "unknown --average 'mean': choose one of none, ema, last"),
        ({"bs": 0}, ValueError, "--bs 0: give 1 or more"),
        ({"layer_decay": 2}, ValueError, "--layer_decay 2: give more than 0"),
    ],
)
def test_wrong_arguments_are_refused_in_python_as_on_the_command_line(given, error, message):
    with pytest.raises(error, match=message):
        rapid.learner("d", **given)


def test_an_unknown_default_is_a_type_error():
    with pytest.raises(TypeError, match="unknown defaults batch_size: toolkit/options.py lists all options"):

        @recipe(batch_size=3)
        def learner(options: Options):
            pass


def test_jedi_completes_the_options():
    jedi = pytest.importorskip("jedi", reason="comes with ipykernel")
    completed = jedi.Interpreter("rapid.learner(", [{"rapid": rapid}]).complete()
    assert {f"{name}=" for name in ("loss", "lr", "mixup")} <= {each.name for each in completed}


def test_without_auto_a_search_starts_from_the_recipes_default():
    options = hw1.main.recipe.bound((), {"lr": "auto", "bs": "auto"})[0]
    assert (hw1.main.recipe.without_auto(options).lr, hw1.main.recipe.without_auto(options).bs) == (1e-3, 128)


RECORDED = {"lr": 0.03, "bs": 8, "accum": 32, "epochs": 7, "layer_decay": 0.6, "train_sizes": [96], "device": "cpu"}


@pytest.fixture
def run(tmp_path):
    kept = json.loads((Path(__file__).resolve().parents[2] / "older_run" / "recipe.json").read_text())
    kept["options"] |= RECORDED
    (tmp_path / "recipe.json").write_text(json.dumps(kept))
    return tmp_path


def resumed(module, run, **given):
    return module.main.recipe.resumed(run, *module.main.recipe.bound((), given))


def test_what_was_left_open_takes_the_recorded_value(run):
    options, own = resumed(rapid, run, minutes=3.0)
    assert (options.lr, options.bs, options.epochs, options.device) == (0.03, 8, 7, "auto")
    assert (own["layer_decay"], own["train_sizes"]) == (0.6, (96,))
    assert own["minutes"] is None  # the budget that the epochs were planned for is spent


def test_what_was_given_stays_as_given(run):
    options, own = resumed(rapid, run, lr=0.5, epochs=9, layer_decay=0.9, minutes=3.0)
    assert (options.lr, options.epochs, own["layer_decay"], own["minutes"]) == (0.5, 9, 0.9, 3.0)


def test_accum_follows_from_bs_auto_if_steps_are_of_as_many_photos(run):
    assert resumed(hw1, run, bs="auto")[0].accum == 32  # 8 x 32 are hw1's 128 x 2
    assert resumed(hw1, run, bs="auto", accum=3)[0].accum == 3


def test_without_a_run_nothing_changes(tmp_path):
    options, own = rapid.main.recipe.bound((), {"lr": "auto"})
    assert rapid.main.recipe.resumed(tmp_path, options, own) == (replace(options), own)


def test_what_a_loss_chose_for_itself_is_not_taken_over_by_another_loss(run):
    options, _ = resumed(hw1, run, loss="ce")  # the run of tests/older_run has gamma 2, of focal
    assert (options.loss, options.gamma) == ("ce", None)
