"""A command that resumes a run takes its options from the run."""

from pathlib import Path

import pytest
from run_folders import make_run

from recipes import hw1
from toolkit.files import read_json, write_json
from toolkit.recipe.begun import begun_options

NAMES = {"loss", "gamma", "arch", "data", "exact"}


@pytest.fixture
def out(tmp_path):
    "The folder of a run of hw1 that was begun with these options."
    folder = make_run(tmp_path / "run", list("ab"))
    recipe = read_json(folder / "recipe.json")
    options = {"loss": "focal", "gamma": 3.0, "arch": "test_vit", "data": "photos", "exact": True}
    free = {"workers": 5, "epochs": 7, "profile": True, "log": ["tensorboard"], "fold": 2, "folds": 3, "refit": True}
    write_json(folder / "recipe.json", recipe | {"recipe": "hw1", "options": recipe["options"] | options | free})
    return folder


def test_options_that_are_not_given_are_those_of_the_run(out):
    given = {"out": out, "resume": True, "arch": "resnet18"}
    assert begun_options("hw1", given, NAMES) == {"loss": "focal", "gamma": 3.0, "data": "photos", "exact": True}


def test_the_exponent_of_another_loss_is_not_taken(out):
    given = {"out": out, "resume": True, "loss": "ce"}
    assert begun_options("hw1", given, NAMES) == {"arch": "test_vit", "data": "photos", "exact": True}


@pytest.mark.parametrize("given", [{}, {"resume": True}, {"out": "run"}, {"out": "none", "resume": True}])
def test_nothing_is_taken_unless_a_run_is_resumed(out, given, monkeypatch):
    monkeypatch.chdir(out.parent)
    assert begun_options("hw1", given, NAMES) == {}
    assert begun_options("rapid", {"out": "run", "resume": True}, NAMES) == {}


def test_what_belongs_to_one_command_or_machine_is_not_taken(out):
    names = {"loss", "epochs", "out", "resume", "fold", "device", "workers", "profile"}
    assert begun_options("hw1", {"out": out, "resume": True}, names) == {"loss": "focal", "epochs": 7}


@pytest.mark.parametrize(
    ("recorded", "given", "expected"),
    [
        ({"epochs": 7, "minutes": 5.0}, {}, {"epochs": 7}),
        ({"epochs": None, "minutes": 5.0}, {}, {"epochs": None, "minutes": 5.0}),  # folds, which have runs of their own
        ({"epochs": 7, "minutes": 5.0}, {"minutes": 2.0}, {}),
        ({"epochs": None, "minutes": 5.0}, {"epochs": 9}, {}),
    ],
)
def test_either_the_epochs_are_taken_or_the_budget_that_plans_them(out, recorded, given, expected):
    recipe = read_json(out / "recipe.json")
    write_json(out / "recipe.json", recipe | {"options": recipe["options"] | recorded})
    given = {"out": out, "resume": True} | given
    assert begun_options("hw1", given, {"epochs", "minutes"}, {"minutes"}) == expected


def test_a_fold_alone_is_no_refit(out):
    given = {"out": out, "resume": True}
    assert begun_options("hw1", given, {"refit"}) == {"refit": True}
    assert begun_options("hw1", given | {"fold": 1}, {"refit"}) == {}


def test_a_recipes_call_has_them_and_those_of_a_machine_keep_their_default(out):
    options, _ = hw1.main.recipe.bound((), {"out": out, "resume": True})
    assert (options.loss, options.gamma, options.arch, options.data) == ("focal", 3.0, "test_vit", Path("photos"))
    assert (options.exact, options.epochs, options.log) == (True, 7, ("tensorboard",))
    assert (options.workers, options.fold, options.profile) == (None, None, False)
