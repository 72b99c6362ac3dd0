"""A recipe's command by the name of the recipe, of a module or of a file."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from toolkit.recipe.signature import Recipe


def load_recipe(name: str) -> Callable[..., list]:
    """Return the command of a recipe: of recipes/NAME.py, of the module NAME, or of the file NAME.

    Raises ValueError if it has no `main = pipeline(learner)`, FileNotFoundError if the file is missing.
    """
    if name.endswith(".py"):
        module = _module_in(Path(name))
    else:
        dotted = name if "." in name else f"recipes.{name}"
        if importlib.util.find_spec(dotted.partition(".")[0]) is None or importlib.util.find_spec(dotted) is None:
            raise ValueError(f"--recipe {name}: no module {dotted}; give digits, hw1, rapid, a module or FILE.py")
        module = importlib.import_module(dotted)
    main = getattr(module, "main", None)
    if not isinstance(getattr(main, "recipe", None), Recipe):
        raise ValueError(f"--recipe {name}: it has no `main = pipeline(learner)`, which makes a recipe's command")
    return main


def _module_in(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"--recipe {file}: no such file; give digits, hw1, rapid, a module or FILE.py")
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
