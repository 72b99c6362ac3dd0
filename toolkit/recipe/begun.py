"""The options that a run was begun with: a command that resumes it need not repeat them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from toolkit.data.on_disk.folds import ABOUT
from toolkit.files import read_json
from toolkit.schema import read_recipe

OF_A_COMMAND = frozenset("out resume fold device workers profile fetch any_license".split())
"Options of one command or machine, which a resumed run does not take. Without --fold all folds are trained."
SEARCH = "search.json"  # toolkit.search.halving's, until recipe.json is written
OF_A_LOSS = {"gamma", "smoothing"}


def begun_options(
    recipe: str, given: Mapping[str, Any], names: Collection[str], budgets: Collection[str] = ()
) -> dict[str, Any]:
    """Return those of the options `names` that the run was begun with, or its folds, and that are not `given`.

    The run is in the folder given["out"]. budgets: names of options from which a recipe plans its epochs. Either those
    or the epochs are returned. Empty if `given` has no "resume", or if the folder holds no run of the recipe.
    Raises ValueError if its file is not one that a recipe wrote.
    """
    out = Path(given["out"]) if given.get("out") and given.get("resume") else None
    begun = out and _begun(out)
    if out and begun is None and "data" not in given and (out / SEARCH).is_file():
        raise ValueError(
            f"--resume {out}: it was interrupted in its search, before its options were recorded; give the same options"
        )
    if not isinstance(begun, dict) or begun.get("recipe") != recipe or not isinstance(begun.get("options"), dict):
        return {}
    recorded = begun["options"] | _found_data(begun)
    left_out = {*given, *OF_A_COMMAND}
    if given.get("loss", recorded.get("loss")) != recorded.get("loss"):
        left_out |= OF_A_LOSS
    if given.get("fold") is not None:
        left_out.add("refit")
    if any(given.get(name) is not None for name in budgets):
        left_out.add("epochs")
    elif given.get("epochs", recorded.get("epochs")) is not None:
        left_out |= set(budgets)
    return {name: value for name, value in recorded.items() if name in names and name not in left_out}


def _found_data(begun: Mapping[str, Any]) -> dict[str, str]:
    "Return the folder or CSV that a relative --data was, if it is not to be found from the current folder."
    data, found = begun["options"].get("data"), begun.get("data")
    relative = isinstance(data, str) and "://" not in data and not Path(data).is_absolute()
    if relative and isinstance(found, dict) and not found.get("source") and not Path(data).exists():
        return {"data": found.get("path", data)}
    return {}


def _begun(folder: Path) -> Any:
    "Return the record of the run in `folder`, or of its folds; None if it has neither."
    if (folder / "recipe.json").is_file():
        return read_recipe(folder / "recipe.json")
    return read_json(folder / ABOUT) if (folder / ABOUT).is_file() else None
