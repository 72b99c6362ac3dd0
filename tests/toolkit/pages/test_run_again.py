"""The command line that runs a recipe again."""

import shlex

from toolkit.pages.run_again import command_line


def words(**recipe):
    return shlex.split(" ".join(command_line(recipe)))


def test_a_flag_of_the_recipes_own_is_written_either_way_and_a_shared_one_only_if_it_is_on():
    options = {"exact": False, "compile": True, "probe": False, "mirror": True}
    expected = ["python", "-m", "recipes.rapid", "--compile", "--no-probe", "--mirror"]
    assert words(recipe="rapid", options=options) == expected


def test_what_was_left_empty_and_where_it_was_written_are_left_out():
    options = {
        "lr": 0.1,
        "cache": None,
        "log": [],
        "out": "runs/x",
        "resume": True,
        "minutes": 5.0,
        "train_sizes": [24, 32],
    }
    assert words(recipe="rapid", options=options)[3:] == ["--lr", "0.1", "--train_sizes", "24", "32"]


def test_a_recipe_in_a_file_is_started_by_its_file():
    assert words(recipe="mine", command=["python", "/my recipes/mine.py"], options={})[1] == "/my recipes/mine.py"
