"""A recipe's command by the name of the recipe, of a module or of a file."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from toolkit.recipe.signature import Recipe


def load_recipe(name: str) -> Callable[..., list]:
    """Return the command of a recipe: of recipes/NAME.py, of the module NAME, or of the file NAME.

    Raises ValueError if it has no `main = pipeline(learner)`, FileNotFoundError if the file is missing.
    """
    module = _module_in(Path(name)) if name.endswith(".py") else _module_called(name)
    main = getattr(module, "main", None)
    if not isinstance(getattr(main, "recipe", None), Recipe):
        raise ValueError(f"--recipe {name}: it has no `main = pipeline(learner)`, which makes a recipe's command")
    return main


def _module_called(name: str) -> ModuleType:
    dotted = next((each for each in (f"recipes.{name}", name) if _is_module(each)), None)
    if dotted is None:
        file = f"{name}.py" if Path(f"{name}.py").is_file() else "FILE.py"
        raise ValueError(f"--recipe {name}: no such module; give digits, hw1, rapid, a module or {file}")
    return importlib.import_module(dotted)


def _is_module(dotted: str) -> bool:
    if not all(part.isidentifier() for part in dotted.split(".")):
        return False
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError:  # of a package that is not there
        return False


def _module_in(file: Path) -> ModuleType:
    "The module in a file, which may import its neighbours, as in `python FILE`."
    if not file.is_file():
        raise FileNotFoundError(f"--recipe {file}: no such file; give digits, hw1, rapid, a module or FILE.py")
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
