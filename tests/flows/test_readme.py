"""The commands, code, links, paths and messages in README and docs are those of the project."""

import ast
import importlib
import itertools
import re
import shlex
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from toolkit.commandline.names import COMMANDS, CONSOLE
from toolkit.commandline.parsing import parsed
from toolkit.options import data_text

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
LISTED = [(name, text) for name, text in TEXTS.items()]


def indented(text):
    "The lines of indented code blocks and of blocks fenced as bash, sh or console; a line that ends with \\ goes on."
    fenced = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^ {4,}(\S.*)$", outside, re.MULTILINE) + "\n".join(fenced).splitlines()
    return "\n".join(lines).replace("\\\n", " ").splitlines()


STARTED = re.compile(rf"-m (recipes|toolkit|export)\.|\b{CONSOLE}\b|^docker run")


def commands_in(text):
    "(module, arguments) of each of our commands that a page shows, however it is started."
    for line in indented(text):
        words = shlex.split(line, comments=True) if STARTED.search(line) else []
        starts = [i for i, word in enumerate(words) if re.fullmatch(r"(recipes|toolkit|export)\.\w+", word)]
        if starts and words[starts[0] - 1] == "-m":
            yield words[starts[0]], words[starts[0] + 1 :]
        elif words[:1] == [CONSOLE] and len(words) > 1 and not words[1].startswith("-"):
            yield COMMANDS[words[1]][0], words[2:]
        elif words[:2] == ["docker", "run"]:
            command, *arguments = words[words.index(CONSOLE) + 1 :]
            yield COMMANDS[command][0], arguments


SHOWN = [(name, *command) for name, text in LISTED for command in commands_in(text)]


@cache
def function_of(module):
    "What the command of a module calls: the argument of its run_script."
    loaded = importlib.import_module(module)
    source = Path(loaded.__file__).read_text()
    return getattr(loaded, re.search(r"^    run_script\((\w+)", source, re.MULTILINE)[1])


def test_readme_shows_commands():
    assert len(SHOWN) > 40
    assert {module for _, module, _ in SHOWN} == {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize(("page", "module", "arguments"), SHOWN, ids=lambda value: str(value)[:60])
def test_a_command_parses(page, module, arguments):
    values = parsed(function_of(module), arguments)
    for flag, value in itertools.pairwise(arguments):
        if flag.startswith("--") and not value.startswith("--"):
            given = values.get(flag[2:])  # None: --no-probe and its like
            first = given[0] if isinstance(given, list | tuple) else given
            text = data_text(str(first))  # a Path has one slash less of hf://USER/NAME
            assert isinstance(given, bool | None) or text == value or first == pytest.approx(float(value))


@pytest.mark.parametrize(("page", "line"), [(name, line) for name, text in LISTED for line in indented(text)])
def test_no_command_of_ours_escapes_the_parser(page, line):
    if re.search(rf"-m (recipes|toolkit|export)\.|^{CONSOLE} \w", line.partition("#")[0]):
        assert list(commands_in(f"    {line}"))


@pytest.mark.parametrize("target", re.findall(r"^ +make (\w+)", "\n".join(TEXTS.values()), re.MULTILINE))
def test_a_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


BLOCKS = [(name, code) for name, text in LISTED for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)]


@pytest.mark.parametrize(("page", "code"), BLOCKS, ids=lambda value: value[:40])
def test_python_on_a_page_compiles_and_its_imports_of_ours_exist(page, code):
    names = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("recipes", "toolkit", "export")
        for alias in node.names
    ]
    for module, name in names:
        there = hasattr(importlib.import_module(module), name) or find_spec(f"{module}.{name}") is not None
        assert there, f"{page}: {module} has no {name}"


def test_the_pages_show_python():
    assert len(BLOCKS) >= 3


def headings(text):
    "The anchors of a page's headings, as GitHub makes them."
    lines = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


LINKS = [(name, target) for name, text in LISTED for target in re.findall(r"\]\(([^)\s]+)\)", text)]


@pytest.mark.parametrize(("page", "target"), [link for link in LINKS if "://" not in link[1]])
def test_a_link_leads_to_a_file_and_a_heading(page, target):
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.is_file()
    assert not anchor or anchor in headings(file.read_text())


PATHS = [
    (name, path)
    for name, text in LISTED
    for path in re.findall(r"`((?:tests|toolkit|export|recipes|docs|notebooks)/[\w./-]*)`", text)
]


@pytest.mark.parametrize(("page", "path"), PATHS)
def test_a_path_on_a_page_exists(page, path):
    assert (ROOT / path).exists()


def test_readme_has_at_most_150_lines_and_leads_to_every_page():
    assert len(README.read_text().splitlines()) <= 150
    assert {path for page, path in LINKS if page == "README.md"} >= {f"docs/{page.name}" for page in PAGES[2:]}


def test_each_row_of_what_readme_promises_has_a_page_and_a_test():
    section = README.read_text().partition("## What it does that others don't\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| .* \|$", section, re.MULTILINE)[1:]
    assert len(rows) >= 10
    for row in rows:
        _, _, page, proofs, _ = re.split(r"\s*\|\s*", row)
        assert re.match(r"\[.+\]\(docs/", page), row
        for proof in proofs.split(", "):
            assert "\ndef test_" in (ROOT / proof.strip("`")).read_text(), row


def test_readme_lists_every_command_in_both_its_forms():
    for name, (module, _) in COMMANDS.items():
        assert f"| `{CONSOLE} {name}`, `python -m {module}` |" in README.read_text()


def test_the_options_of_prediction_are_on_its_page():
    for name in parsed(function_of("export.predict"), ["model.onnx", "photos"]).keys() - {"model", "images"}:
        assert f"`--{name}" in TEXTS["docs/prediction.md"], name


def test_the_options_of_the_service_are_on_its_page():
    for name in parsed(function_of("export.serve"), ["model.onnx"]).keys() - {"model"}:
        assert f"`--{name}" in TEXTS["docs/serving.md"], name


def strings_in(path):
    "The strings of a module, a NUL in place of each value of an f-string; a name that holds a string is its string."
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


CODE = [
    each.rstrip()
    for folder in ("toolkit", "export")
    for path in (ROOT / folder).rglob("*.py")
    for each in strings_in(path)
]
MESSAGES = [
    message for message in re.findall(r"^\| `(.+?)` \|", TEXTS.get("docs/troubleshooting.md", ""), re.MULTILINE)
]


def test_troubleshooting_quotes_messages():
    assert len(MESSAGES) > 50
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_troubleshooting_occurs_in_the_code(message):
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    assert any(pattern.search(each) for each in CODE)
