"""Every command that README names exists and takes the arguments it shows."""

import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

from toolkit.command import parsed

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^ +python -m ((?:recipes|toolkit|export)\.\S+.*)$", README, re.MULTILINE)
FUNCTIONS = {"recipes": "main", "toolkit.doctor": "main", "toolkit.report": "main", "toolkit.check": "main"}


def function_of(module):
    loaded = importlib.import_module(module)
    name = FUNCTIONS.get(module) or FUNCTIONS.get(module.split(".")[0]) or module.split(".")[1]
    return getattr(loaded, name)


def test_readme_shows_commands():
    assert {command.split()[0] for command in COMMANDS} >= {
        *("recipes.digits", "recipes.hw1", "export.to_onnx", "export.predict", "toolkit.doctor")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_readme_parses(command):
    module, *arguments = shlex.split(command, comments=True)
    values = parsed(function_of(module), arguments)
    for flag, value in itertools.pairwise(arguments):
        if flag.startswith("--") and not value.startswith("--"):
            given = values[flag[2:]]
            assert str(given[0] if isinstance(given, list | tuple) else given) == value


@pytest.mark.parametrize("target", re.findall(r"^ +make (\w+)", README, re.MULTILINE))
def test_a_make_target_in_readme_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_option_of_hw1_is_in_readme():
    for name in parsed(function_of("recipes.hw1"), []):
        assert f"--{name}" in README, name
