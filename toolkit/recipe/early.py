"""The check of a recipe's arguments before its libraries are imported.

torch, fastai and timm take seconds to import, and a recipe imports them at its top. Its options can be read from its
source without that, so `--help` and errors in options and paths appear at once. The command repeats all checks.
"""

import ast
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from toolkit import options as shared
from toolkit import ranks
from toolkit.command import run
from toolkit.commandline.names import started_module
from toolkit.commandline.startup import end_at_once, while_starting
from toolkit.data.on_disk.folds import check_out
from toolkit.options import check_paths
from toolkit.recipe.signature import Recipe, recipe_of
from toolkit.run import new_folder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def check_arguments_early() -> None:
    "If the starting program is a recipe, end it for `--help` and for arguments that it would refuse."
    if module := started_module():  # while `python -m` looks for it
        package, _, name = module.rpartition(".")
        file = RECIPES / f"{name}.py" if package == "recipes" else None
    else:
        file = Path(started) if (started := getattr(sys.modules["__main__"], "__file__", None)) else None
    if file is not None and file.is_file():
        check_arguments(file, sys.argv[1:])


def check_arguments(file: Path, arguments: list[str]) -> None:
    "End the process with the exit status if the recipe in `file` answers `arguments` by its help or an error."
    recipe, reads_data = recipe_in(file) or (None, False)
    if recipe is None:
        return

    def check(**given: Any) -> None:
        options, _ = recipe.bound((), given)
        if ranks.count() == 1:
            check_paths(options if reads_data else replace(options, data=Path()))
            check_out(new_folder(recipe.name, options.loss, options.out, options.resume), options.folds)

    check.__signature__, check.__doc__ = recipe.signature, recipe.build.__doc__
    starting = signal.getsignal(signal.SIGINT) is end_at_once
    if status := run(check, arguments):
        sys.exit(status)
    if starting:
        while_starting()


def recipe_in(file: Path) -> tuple[Recipe, bool] | None:
    """Return the recipe in a file, and True if it opens the data set at --data unchanged; None if it can't be read.

    Only the parameters of the function under `@recipe` are executed.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        definition, decorator = next(found for node in tree.body if (found := _decorated(node)))
        defaults = {each.arg: ast.literal_eval(each.value) for each in decorator.keywords}
        recipe = recipe_of(_without_body(definition, file), defaults)
        if not any(_calls(node, "run_script") for node in ast.walk(tree)):
            return None  # the program is not the recipe's command: its arguments are its own
    except (StopIteration, SyntaxError, ValueError, NameError, TypeError, UnicodeDecodeError):
        return None  # its command then reports the error
    calls = [node for node in ast.walk(definition) if isinstance(node, ast.Call)]
    return recipe, any(ast.unparse(each) == f"open_dataset({definition.args.args[0].arg})" for each in calls)


def _decorated(node: ast.stmt) -> tuple[ast.FunctionDef, ast.Call] | None:
    "Return the function and its decorator `@recipe(...)`, or None if `node` is something else."
    for each in getattr(node, "decorator_list", []):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "recipe":
            return node, each
    return None


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def _without_body(definition: ast.FunctionDef, file: Path) -> Any:
    "Return the function without its body, with the line numbers of the file."
    definition = ast.FunctionDef(
        **{**vars(definition), "decorator_list": [], "body": definition.body[:1], "returns": None}
    )
    if ast.get_docstring(definition) is None:
        definition.body = [ast.copy_location(ast.Pass(), definition.body[0])]
    ours = SimpleNamespace(name=f"recipes.{file.stem}") if file.parent == RECIPES else None
    spec = ours or getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m mypkg.mine`
    names = vars(shared) | {"__file__": str(file), "__spec__": spec}
    exec(compile(ast.Module([definition], []), str(file), "exec", dont_inherit=True), names)
    return names[definition.name]
