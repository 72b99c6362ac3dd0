"""Families of modules import only what stands below them; no file and no folder takes part in a circle."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recipes", "toolkit", "export")

ORDER = (  # from the bottom; a family imports itself and what stands above its own line here
    "toolkit.ranks toolkit.errors toolkit.machine toolkit.ranges toolkit.threads toolkit.options",
    "toolkit.commandline toolkit.files",
    "toolkit.command",
    "toolkit.data",
    "toolkit.schema",
    "toolkit.models",
    "toolkit.learner",
    "toolkit.run",
    "toolkit.recipe",
    "toolkit.evaluation",
    "toolkit.features",
    "toolkit.finetuning toolkit.pages toolkit.loggers",
    "toolkit.search",
    "toolkit.training",
    "toolkit.installation",
    "toolkit.check toolkit.doctor toolkit.report",
    "export.runtime",
    "export.reading",
    "export.streaming",
    "export.session",
    "export.ensemble",
    "export.predictions",
    "export.publishing",
    "export.convert",
    "export.parity",
    "export.browser",
    "export.cluster export.serving",
    "export.explanations",
    "export.predict export.to_onnx export.verify export.average export.hub export.unsort export.explain export.serve "
    "export.web "
    "export.run_predictions",
    "recipes",
)
RANK = {family: rank for rank, line in enumerate(ORDER) for family in line.split()}
HEAVY = {"torch", "fastai", "timm", "albumentations"}


def files(*packages):
    found = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) >= 3 * len(packages), "the tests would pass empty"
    return found


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in files(*PACKAGES)}


def imported(path, top_level=False):
    "Modules of ours, and dotted names of others, that a file imports: at its top level, or anywhere."
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name not in MODULES and name.split(".")[0] in PACKAGES:
                name = name.rpartition(".")[0]
            yield name


def ours(path, top_level=False):
    return {name for name in imported(path, top_level) if name in MODULES and name not in PACKAGES}


def family(name):
    return "recipes" if name.split(".")[0] == "recipes" else ".".join(name.split(".")[:2])


LAZY = {("toolkit.run", "toolkit.learner"), ("toolkit", "toolkit.commandline")}  # a Run rebuilds its Learner when asked


def test_every_module_belongs_to_a_family_of_the_order():
    assert len(MODULES) > 100
    assert {family(name) for name in MODULES} - set(PACKAGES) <= RANK.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_families_below_its_own(name):
    mine = family(name)
    if mine in PACKAGES and mine != "recipes":  # toolkit/__init__.py
        assert {family(other) for other in ours(MODULES[name])} <= {"toolkit.commandline"}
        return
    for other in {family(found) for found in ours(MODULES[name])} - {mine}:
        assert RANK[other] < RANK[mine] or (mine, other) in LAZY, f"{name} imports {other}"


def names_in(path):
    "Names that a module binds at its top level."
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_whatever_is_imported_of_ours_is_there_also_inside_functions():
    known = {name: set(names_in(path)) for name, path in MODULES.items()}
    checked = 0
    for path in files(*PACKAGES, "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                for alias in node.names:
                    assert node.module in known, (path, node.module)
                    assert f"{node.module}.{alias.name}" in MODULES or alias.name in known[node.module], (
                        path,
                        alias.name,
                    )
                    checked += 1
    assert checked > 500


def test_no_files_import_each_other_in_a_circle():
    graph = {name: ours(path) for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 200
    graph["toolkit.run"] -= {"toolkit.learner.rebuild"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_folder_holds_more_than_a_dozen_modules():
    counts = defaultdict(int)
    for name, path in MODULES.items():
        if path.name != "__init__.py":
            counts[name.rpartition(".")[0]] += 1
    assert len(counts) > 10
    assert max(counts.values()) <= 13, counts


def test_each_folder_says_what_it_is_for():
    folders = {path.parent for path in MODULES.values()}
    assert len(folders) > 10
    for folder in folders:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("path", files("recipes"), ids=module)
def test_a_recipe_imports_no_other_recipe_and_has_no_class(path):
    if path.stem not in ("loss_study", "__init__"):
        assert not [name for name in imported(path) if name.startswith("recipes.")]
    assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]


LIGHT = [name for name in MODULES if name.split(".")[0] == "export" and name.count(".")]


def test_export_needs_no_torch_to_be_imported():
    assert len(LIGHT) > 40
    code = f"import sys, {', '.join(LIGHT)}; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_star_imports_and_albumentations_in_one_place():
    for path in files(*PACKAGES, "tests"):
        names = list(imported(path))
        assert not [name for name in names if name.endswith(".*")], path
        if path.parts[-2:] != ("data", "augment.py") and "tests" not in path.relative_to(ROOT).parts:
            assert not [name for name in names if name.split(".")[0] == "albumentations"], path
