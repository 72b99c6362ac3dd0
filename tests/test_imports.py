"""Data flows one way, and so do imports: recipes -> toolkit, export; export -> four modules of the toolkit."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIGHT = {
    "photo",
    "preprocess",
    "run",
    "metrics",
    "command",
    "errors",
    "numerals",
    "nvidia",
    "outside",
}  # what export may import


def modules(package):
    return sorted(path for path in (ROOT / package).glob("*.py") if path.name != "__init__.py")


def imported(path, top_level):
    "Dotted names that a file imports: at its top level, or anywhere."
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules("toolkit"), ids=lambda path: path.stem)
def test_toolkit_imports_nothing_of_recipes_or_export(path):
    assert not [name for name in imported(path, False) if name.split(".")[0] in ("recipes", "export")]


@pytest.mark.parametrize("path", modules("recipes"), ids=lambda path: path.stem)
def test_a_recipe_imports_no_other_recipe_and_has_no_class(path):
    if path.stem != "loss_study":
        assert not [name for name in imported(path, False) if name.split(".")[0] == "recipes"]
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("path", modules("export"), ids=lambda path: path.stem)
def test_export_imports_only_the_light_part_of_the_toolkit(path):
    names = [name.split(".") for name in imported(path, True)]
    assert not [name for name in names if name[0] == "recipes"]
    assert not [name for name in names if name[0] == "toolkit" and name[1] not in LIGHT]


@pytest.mark.parametrize("path", modules("export"), ids=lambda path: path.stem)
def test_export_needs_no_torch_to_be_imported(path):
    heavy = {"torch", "fastai", "timm", "albumentations"}
    code = f"import sys, export.{path.stem}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["recipes", "toolkit", "export", "tests"])
def test_no_star_imports_and_albumentations_in_one_place(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        names = list(imported(path, False))
        assert not [name for name in names if name.endswith(".*")], path
        if package != "tests" and path.name != "augment.py":
            assert not [name for name in names if name.split(".")[0] == "albumentations"], path
