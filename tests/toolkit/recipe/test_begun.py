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
    options = {"loss": "focal", "gamma": 3.0, "arch": "test_vit", "data": "photos", "exact": True, "workers": 5}
    write_json(folder / "recipe.json", recipe | {"recipe": "hw1", "options": recipe["options"] | options | {"fold": 2}})
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


def test_a_recipes_call_has_them_and_what_may_change_keeps_its_default(out):
    options, _ = hw1.main.recipe.bound((), {"out": out, "resume": True})
    assert (options.loss, options.gamma, options.arch, options.data) == ("focal", 3.0, "test_vit", Path("photos"))
    assert (options.exact, options.workers, options.fold) == (True, None, None)
