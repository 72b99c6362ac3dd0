"""The command line that runs a recipe again, rebuilt from its recipe.json."""

import shlex

from toolkit.options import TYPES

NOT_TYPED = {"out", "resume", "processes", "minutes"}
"Options that the command does not repeat: the run's folder, how it was started, and the time budget that set `epochs`."


def command_line(recipe: dict) -> list[str]:
    "The words to type to run the recipe again in a new folder, with the resolved options; one option an item."
    words = [shlex.join(recipe.get("command") or ["python", "-m", f"recipes.{recipe['recipe']}"])]
    for name, value in recipe["options"].items():
        if name in NOT_TYPED or value in (None, []):
            continue
        if isinstance(value, bool):
            if value or name not in TYPES:  # an option of the recipe's own may be on by default
                words.append(shlex.join([f"--{name}" if value else f"--no-{name}"]))
        else:
            words.append(shlex.join([f"--{name}", *map(str, value if isinstance(value, list) else [value])]))
    return words
