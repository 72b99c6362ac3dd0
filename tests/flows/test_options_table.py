"""docs/recipes.md holds the table of all options that the code has. `UPDATE=1` in the environment rewrites it."""

import inspect
import os
import re
from pathlib import Path
from typing import get_args

import pytest

from recipes import digits, hw1, rapid
from toolkit.commandline.parameters import parameters_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
BEGIN, END = "<!-- options -->\n", "<!-- end of options -->\n"
RECIPES = {"hw1": hw1.main, "rapid": rapid.main, "digits": digits.main}


def default(parameter):
    "The default as one would type it."
    value = parameter.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`"


def values(parameter):
    shown = parameter.metavar.replace("{", "").replace("}", "").replace("|", " or ").replace(",", ", ")
    return shown.replace(" ...", ": one or more") or "flag"


def rows():
    "(option, values, defaults, yes if it may change with --resume, help) of each option of the recipes."
    found = {name: {each.name: each for each in parameters_of(main)} for name, main in RECIPES.items()}
    names = dict.fromkeys(name for options in found.values() for name in options)
    for name in names:
        having = {recipe: options[name] for recipe, options in found.items() if name in options}
        one = next(iter(having.values()))
        defaults = {recipe: default(option) for recipe, option in having.items()}
        if len(having) < len(RECIPES):
            shown = ", ".join(having) + " only" + (f": {default(one)}" if default(one) else "")
        elif len(set(defaults.values())) == 1:
            shown = default(one)
        else:
            shown = ", ".join(f"{recipe} {value or 'chosen'}" for recipe, value in defaults.items())
        free = all(name in RECIPES[recipe].recipe.free for recipe in having)
        yield f"`{one.flag}`", values(one), shown, "yes" if free else "", one.help


def table():
    lines = [("option", "values", "default", "may change with `--resume`", "what it is"), ("---",) * 5, *rows()]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def test_the_table_of_options_is_that_of_the_code():
    before, rest = PAGE.read_text().split(BEGIN)
    held, after = rest.split(END)
    if os.environ.get("UPDATE"):
        PAGE.write_text(before + BEGIN + table() + END + after)
        pytest.skip("docs/recipes.md has been rewritten")
    assert held == table(), "UPDATE=1 python -m pytest tests/flows/test_options_table.py rewrites it"


def test_the_table_has_each_parameter_of_each_recipe_with_its_help():
    page = PAGE.read_text()
    for main in RECIPES.values():
        for name, parameter in inspect.signature(main).parameters.items():
            row = re.search(rf"^\| `--(?:no-)?{name}` \|.*\|$", page, re.MULTILINE)
            assert row, name
            documented = get_args(parameter.annotation)[-1].documentation.removesuffix(" (default: by the data)")
            assert documented
            assert documented.replace("|", r"\|") in row[0]
