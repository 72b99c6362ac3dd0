"""A command that resumes a run takes its options from the run."""

from pathlib import Path

import pytest
from run_folders import make_run

from recipes import hw1
from toolkit.files import read_json, write_json
from toolkit.recipe.begun import begun_options

DATA = "/nowhere/photos"
NAMES = {"loss", "gamma", "arch", "data", "exact"}


@pytest.fixture
def out(tmp_path):
    "The folder of a run of hw1 that was begun with these options."
    folder = make_run(tmp_path / "run", list("ab"))
    recipe = read_json(folder / "recipe.json")
    options = {"loss": "focal", "gamma": 3.0, "arch": "test_vit", "data": DATA, "exact": True}
    free = {"workers": 5, "epochs": 7, "profile": True, "log": ["tensorboard"], "fold": 2, "folds": 3, "refit": True}
    write_json(folder / "recipe.json", recipe | {"recipe": "hw1", "options": recipe["options"] | options | free})
    return folder


def test_options_that_are_not_given_are_those_of_the_run(out):
    given = {"out": out, "resume": True, "arch": "resnet18"}
    assert begun_options("hw1", given, NAMES) == {"loss": "focal", "gamma": 3.0, "data": DATA, "exact": True}


def test_the_exponent_of_another_loss_is_not_taken(out):
    given = {"out": out, "resume": True, "loss": "ce"}
    assert begun_options("hw1", given, NAMES) == {"arch": "test_vit", "data": DATA, "exact": True}


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


def test_a_run_that_was_interrupted_in_its_search_says_why_it_needs_its_options(tmp_path):
    write_json(tmp_path / "search.json", {"of": {}, "runs": []})
    given = {"out": tmp_path, "resume": True}
    with pytest.raises(
        ValueError, match="interrupted in its search, before its options were recorded; give the same o"
    ):
        begun_options("rapid", given, NAMES)
    assert begun_options("rapid", given | {"data": "photos"}, NAMES) == {}


def test_photos_of_a_relative_path_are_found_from_another_folder(out, tmp_path, monkeypatch):
    "recipe.json has the folder that the path was, too. One that is found from here is taken as it is given."
    monkeypatch.chdir(tmp_path)
    recipe = read_json(out / "recipe.json")
    recipe |= {"options": recipe["options"] | {"data": "photos"}}
    write_json(out / "recipe.json", recipe | {"data": recipe["data"] | {"path": "/where/photos"}})
    assert begun_options("hw1", {"out": out, "resume": True}, {"data"}) == {"data": "/where/photos"}
    (tmp_path / "photos").mkdir()
    assert begun_options("hw1", {"out": out, "resume": True}, {"data"}) == {"data": "photos"}
    (tmp_path / "photos").rmdir()
    write_json(out / "recipe.json", recipe | {"data": recipe["data"] | {"source": "photos.zip"}})
    assert begun_options("hw1", {"out": out, "resume": True}, {"data"}) == {"data": "photos"}


def test_a_fold_alone_is_no_refit(out):
    given = {"out": out, "resume": True}
    assert begun_options("hw1", given, {"refit"}) == {"refit": True}
    assert begun_options("hw1", given | {"fold": 1}, {"refit"}) == {}


def test_a_recipes_call_has_them_and_those_of_a_machine_keep_their_default(out):
    options, _ = hw1.main.recipe.bound((), {"out": out, "resume": True})
    assert (options.loss, options.gamma, options.arch, options.data) == ("focal", 3.0, "test_vit", Path(DATA))
    assert (options.exact, options.epochs, options.log) == (True, 7, ("tensorboard",))
    assert (options.workers, options.fold, options.profile) == (None, None, False)
