"""A recipe's command run in the tests' own process: in another, what it imports alone takes six seconds of a core."""

from types import ModuleType

from recipes import exit_status, hw1
from toolkit.command import run


def here(*arguments: object, recipe: ModuleType = hw1) -> int:
    "The exit status of `python -m recipes.hw1` with these arguments; what it says goes to stdout and stderr."
    try:
        return run(recipe.main, [str(argument) for argument in arguments], exit_status)
    except SystemExit as ending:  # argparse's
        return ending.code
