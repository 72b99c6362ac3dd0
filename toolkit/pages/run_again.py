"""The command line that runs a recipe again, rebuilt from its recipe.json."""

import shlex

NOT_TYPED = {"out", "resume", "processes", "minutes"}
"Options that the command does not repeat: the run's folder, how it was started, and the time budget that set `epochs`."


ON = {"probe"}
"Options that are on unless `--no-NAME` is given."


def command_line(recipe: dict) -> list[str]:
    "The words to type to run the recipe again in a new folder, with the resolved options; one option an item."
    words = [shlex.join(["python", "-m", f"recipes.{recipe['recipe']}"])]
    for name, value in recipe["options"].items():
        if name in NOT_TYPED or value in (None, []):
            continue
        if isinstance(value, bool):
            if value != (name in ON):
                words.append(shlex.join([f"--no-{name}" if name in ON else f"--{name}"]))
        else:
            words.append(shlex.join([f"--{name}", *map(str, value if isinstance(value, list) else [value])]))
    return words
