"""Modules and functions stay short, and no docstring opens with Of, What, Where, Whether or Which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recipes", "toolkit", "export")
LINES_OF_A_MODULE, LINES_OF_A_FUNCTION, PARAMETERS = 200, 50, 8
OPENERS = {"Of", "What", "Where", "Whether", "Which"}
COMMANDS = {  # functions that may have more, and why
    "learner": "a recipe: its parameters are options of its command",
    "to_onnx": "a command: its parameters are its options",
}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def modules(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert len(found) >= 5, "the tests would pass empty"
    return found


def definitions(package, kinds):
    "(name, node) of each definition in a package, nested ones too. The name is FILE:LINE NAME."
    found = [
        (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', 'module')}", node)
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
    ]
    assert len(found) >= 15, "the tests would pass empty"
    return found


def length(function):
    "Lines from the first decorator to the end."
    return function.end_lineno + 1 - min([function.lineno, *(each.lineno for each in function.decorator_list)])


def parameters(function):
    "Number of parameters, self and cls included, * and ** not."
    given = function.args
    return len(given.posonlyargs + given.args + given.kwonlyargs)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_longer_than_200_lines(package):
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)}
    long = {str(path.relative_to(ROOT)): count for path, count in lengths.items() if count > LINES_OF_A_MODULE}
    assert max(lengths.values()) > 100
    assert long == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_longer_than_50_lines(package):
    lengths = {name: length(node) for name, node in definitions(package, FUNCTION)}
    assert max(lengths.values()) > 15
    assert {name: count for name, count in lengths.items() if count > LINES_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_has_more_than_8_parameters(package):
    counts = {name: parameters(node) for name, node in definitions(package, FUNCTION)}
    assert max(counts.values()) > 5
    many = {name: count for name, count in counts.items() if count > PARAMETERS}
    assert {name: count for name, count in many.items() if name.split()[1] not in COMMANDS} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_docstring_opens_with_a_word_that_turns_the_sentence_round(package):
    found = definitions(package, (*FUNCTION, ast.ClassDef, ast.Module))
    words = {name: (ast.get_docstring(node) or "").split()[:1] for name, node in found}
    assert sum(map(bool, words.values())) >= 15
    assert {name: word for name, word in words.items() if OPENERS.intersection(word)} == {}
