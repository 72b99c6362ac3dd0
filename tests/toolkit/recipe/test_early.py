"""`--help` and errors in options and paths come before torch is imported, with the same words and exit status."""

import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from toolkit.recipe.early import RECIPES, recipe_in

ROOT = Path(__file__).resolve().parents[3]


def start(words, folder):
    "Run python with `words` -> (exit status, stdout, stderr without import times, True if torch was imported)."
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPROFILEIMPORTTIME": "1", "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "toolkit.options" in imported
    return done.returncode, done.stdout, [line for line in lines if "import time:" not in line], "torch" in imported


CASES = {
    "help": (["--help"], 0, ""),
    "wrong option": (["--los", "ce"], 2, "error: unknown flag --los, the nearest is --loss"),
    "wrong choice": (["--loss", "mse"], 2, "error: argument --loss: invalid choice: 'mse'"),
    "out of range": (["--bs", "0"], 2, "error: --bs 0: give 1 or more"),
    "missing data": (["--data", "nowhere"], 2, "error: nowhere does not exist"),
    "missing weights": (["--data", "photos", "--weights", "w.pth"], 2, "error: --weights w.pth: no such file"),
    "out holds a run": (["--data", "photos", "--out", "held"], 2, "error: --out held already holds a run"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_ends_before_torch_is_imported(case, tmp_path):
    arguments, status, message = CASES[case]
    (tmp_path / "photos").mkdir()
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "recipe.json").touch()
    script = tmp_path / "rapid-finetune"
    script.write_text("from toolkit.commandline.console import main\nmain()\n")
    for words in (["-m", "recipes.hw1"], [str(script), "hw1"]):
        returned, stdout, stderr, torch = start([*words, *arguments], tmp_path)
        assert (returned, torch) == (status, False), stderr
        assert stderr[0].startswith(message) if stderr else message == ""
        assert len(stderr) <= 2
        assert ("--class_weights" in stdout) == (case == "help")


@pytest.mark.parametrize("name", ["hw1", "rapid", "digits"])
def test_a_recipe_read_from_its_source_is_the_imported_one(name):
    module = __import__(f"recipes.{name}", fromlist=["main"])
    read, opens_data = recipe_in(RECIPES / f"{name}.py")
    made = module.main.recipe
    assert (read.signature, read.defaults, read.name, read.command) == (
        *(made.signature, made.defaults),
        *(made.name, made.command),
    )
    assert opens_data == (name != "digits")


def test_a_users_recipe_gets_the_same(tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / "docs" / "example_recipe.py").read_text())
    for arguments, status, message in (
        (["--dropuot", "0.1"], 2, "error: unknown flag --dropuot, the nearest is --dropout"),
        (["--data", "nowhere"], 2, "error: nowhere does not exist"),
    ):
        returned, _, stderr, torch = start(["mine.py", *arguments], tmp_path)
        assert (returned, torch) == (status, False)
        assert stderr[0].startswith(message)


@pytest.mark.long
def test_a_program_that_is_not_the_recipes_command_keeps_its_arguments(tmp_path):
    text = (ROOT / "docs" / "example_recipe.py").read_text().partition("if __name__")[0]
    (tmp_path / "tool.py").write_text(text + "import sys\n\nprint(sys.argv[1:])\n")
    done = forked.run(
        [sys.executable, "tool.py", "--anything", "4"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "['--anything', '4']\n"), done.stderr
