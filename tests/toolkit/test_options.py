"""The shared options: their choices are those of the code, and values of older runs are read as they were meant."""

from pathlib import Path

import pytest

from toolkit.loggers.log import LOGGERS
from toolkit.models.losses import CLASS_WEIGHTS, LOSSES
from toolkit.options import FREE_NAMES, TYPES, check_choices, converted, recorded_options, without_marks


def choices(name):
    return list(without_marks(TYPES[name]).__args__)


def test_choices_are_the_tables_of_the_code():
    assert choices("loss") == list(LOSSES)
    assert choices("class_weights") == list(CLASS_WEIGHTS)
    assert set(without_marks(TYPES["log"]).__args__[0].__args__) == set(LOGGERS)


def test_what_resume_may_change_is_no_part_of_the_method():
    assert FREE_NAMES == set(
        "data refit fetch any_license epochs patience promise workers device cache".split()
        + "save_every profile log out resume".split()
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("data", "photos", Path("photos")),
        ("out", None, None),
        ("cache", "kept", Path("kept")),
        ("weights", Path("w.pth"), "w.pth"),
        ("log", ["wandb"], ("wandb",)),
        ("lr", "auto", "auto"),
        ("bs", 8, 8),
    ],
)
def test_a_value_becomes_what_its_type_is(name, value, expected):
    assert converted(value, TYPES[name]) == expected
    assert type(converted(value, TYPES[name])) is type(expected)


def test_options_of_an_older_recipe_json_leave_out_what_is_not_shared():
    older = {"data": "photos", "loss": "focal", "gamma": 2.0, "log": [], "layer_decay": 0.7, "processes": 2}
    options = recorded_options(older, weights="none")
    assert (options.data, options.loss, options.gamma, options.log) == (Path("photos"), "focal", 2.0, ())
    assert (options.weights, options.sampler) == ("none", "shuffle")  # a change; a default of an option that is newer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "mse"}, "unknown --loss 'mse': choose one of ce, focal, smoothing"),
        ({"sampler": "even"}, "unknown --sampler 'even': choose one of shuffle, balanced"),
        ({"lr": "fast"}, "--lr 'fast' is neither a number nor auto"),
    ],
)
def test_values_that_are_no_choice_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_choices(values)
