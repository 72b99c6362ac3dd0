"""The package: its requirements, the contents of its wheel, and the wheel installed and run elsewhere."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from toolkit.commandline.names import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recipes", "toolkit", "export")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    name.lower().replace("_", "-"): version
    for name, equals, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    if equals
}
REQUIRED = {line: Requirement(line) for line in PROJECT["dependencies"]}
BY_NAME = {required.name.replace("_", "-"): required.specifier for required in REQUIRED.values()}


@pytest.mark.parametrize(
    ("name", "holed"), [("onnx", "1.20.9"), ("pillow", "12.1.1"), ("onnxruntime", "1.27"), ("onnxruntime-gpu", "1.27")]
)
def test_versions_with_known_vulnerabilities_are_not_accepted(name, holed):
    assert not BY_NAME[name].contains(holed)


def test_the_pinned_versions_meet_the_requirements():
    found = {name: specifier for name, specifier in BY_NAME.items() if name in PINS}
    assert len(found) >= len(BY_NAME) - 1  # one onnxruntime or the other
    assert [name for name, specifier in found.items() if not specifier.contains(PINS[name])] == []


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for path in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / path, folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    words = "pip wheel --quiet --no-deps --no-build-isolation --no-index . --wheel-dir".split()
    subprocess.run([sys.executable, "-m", *words, str(folder / "built")], cwd=folder, check=True)
    (built,) = (folder / "built").iterdir()
    return built


def test_the_wheel_has_every_module_types_templates_and_the_licence(wheel):
    contents = zipfile.ZipFile(wheel)
    names = set(contents.namelist())
    for pattern in ("*.py", "*.html"):
        ours = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob(pattern)}
        assert ours
        assert ours <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    (licence,) = [name for name in names if name.endswith("/LICENSE")]
    assert "Apache License" in contents.read(licence).decode()
    (metadata,) = [name for name in names if name.endswith("/METADATA")]
    assert "License-Expression: Apache-2.0\n" in contents.read(metadata).decode()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment of its own with the wheel in it. It is reached through a link.

    What the wheel depends on is taken from the environment of the tests, since they have no network.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "real"], check=True)
    (folder / "link").symlink_to("real")
    paths = {"base": str(folder / "real"), "platbase": str(folder / "real")}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    words = ["pip", "--python", str(folder / "real/bin/python"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, "-m", *words, str(wheel)], check=True)
    return folder / "link/bin"


def run(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess:
    "Run `words`, whose first is a program of the new environment, in `folder`."
    program, *arguments = map(str, words)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [installed / program, *arguments],
        cwd=folder,
        env=environment | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
    )


def test_the_wheel_alone_is_imported_from_any_folder(installed, tmp_path):
    code = "import toolkit, export, recipes; print(toolkit.__file__, export.__file__, recipes.__file__)"
    found = run(installed, tmp_path, "python", "-c", code).stdout.split()
    assert len(found) == 3
    assert all(str(installed.parent) in file for file in found)


def test_the_console_script_lists_every_command_in_a_line_each(installed, tmp_path):
    help_ = run(installed, tmp_path, "rapid-finetune", "--help")
    assert (help_.returncode, help_.stderr) == (0, "")
    assert run(installed, tmp_path, "rapid-finetune").stdout == help_.stdout
    listed = [line.split()[0] for line in help_.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_every_module_that_is_a_command_is_one_of_the_console_script():
    modules = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(isinstance(called, ast.Name) and called.id == "run_script" for called in calls):
            modules.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert modules == {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("predct", ", the nearest is predict"),
        ("to_onnx", ", the nearest is export"),
        ("xxxxxx", ""),
        ("--reprot", ", the nearest is report"),
    ],
)
def test_an_unknown_command_is_two_lines_and_status_2(installed, tmp_path, typed, nearest):
    done = run(installed, tmp_path, "rapid-finetune", typed)
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first == f"error: unknown command {typed}{nearest}"
    assert second == "usage: rapid-finetune COMMAND ...; --help lists the commands"


@pytest.mark.long
def test_a_command_of_the_console_script_is_the_module(installed, tmp_path):
    "It prints the same help under its own name, and refuses an unknown flag as the module does."
    for command, (module, _) in COMMANDS.items():
        ours = run(installed, tmp_path, "rapid-finetune", command, "--help")
        plain = run(installed, tmp_path, "python", "-m", module, "--help")
        assert (ours.returncode, ours.stderr) == (0, "")
        assert ours.stdout == plain.stdout.replace(f"python -m {module}", f"rapid-finetune {command}")
        assert ours.stdout.startswith(f"usage: rapid-finetune {command}")
        wrong = run(installed, tmp_path, "rapid-finetune", command, "--bogus")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        first, second = wrong.stderr.splitlines()
        assert first.startswith("error: unknown flag --bogus")
        assert second.startswith(f"usage: rapid-finetune {command} ")


def test_an_error_of_an_installed_module_is_still_the_users(installed, tmp_path):
    "The packages are in site-packages, behind a link; a `raise ValueError` of one of their modules is known there too."
    (tmp_path / "model.onnx").write_text("no model")
    for words in (["rapid-finetune", "verify"], ["python", "-m", "export.verify"]):
        done = run(installed, tmp_path, *words, "model.onnx", ".", "--device", "cpu")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: model.onnx is not a model that onnxruntime can load")
        assert len(done.stderr.splitlines()) <= 2


def test_a_page_is_made_with_the_installed_templates(installed, tmp_path, digits_run):
    shutil.copytree(digits_run.folder, tmp_path / "run")
    (tmp_path / "run/report.html").unlink(missing_ok=True)
    done = run(installed, tmp_path, "rapid-finetune", "report", "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "run/report.html\n", "")
    assert (tmp_path / "run/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_installed_model_reader_labels_photos(installed, tmp_path, digits_run):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("L", (32, 32), 200).save(tmp_path / "photos/a.png")
    model = digits_run.path("model.onnx")
    done = run(installed, tmp_path, "rapid-finetune", "predict", model, "photos", "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "bs auto: 8\n")
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1].startswith("a,")


# The Dockerfile, as far as it goes without Docker


def instructions(file: Path = ROOT / "Dockerfile") -> list[tuple[str, str]]:
    "The instructions of a Dockerfile, with continued lines joined and comments left out."
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


DOCKER = instructions()
RUNS = [rest for word, rest in DOCKER if word == "RUN"]


def test_the_image_runs_the_console_script_as_a_user_on_a_supported_python():
    last = dict(DOCKER)  # the last of each instruction
    assert json.loads(last["ENTRYPOINT"]) == list(PROJECT["scripts"])
    assert last["USER"] not in ("root", "0")
    version = re.fullmatch(r"python:([\d.]+)-slim", last["FROM"])[1]
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert version == "3.11"  # of constraints.txt


def test_the_image_has_no_pip_cache_and_no_development_packages():
    installs = [command for run in RUNS for command in re.findall(r"pip (?:install|wheel)[^;]*", run)]
    assert len(installs) == 3
    assert all("--no-cache-dir" in command for command in installs)
    assert "[dev]" not in " ".join(RUNS)
    assert "apt-get" not in " ".join(RUNS)


def test_the_dockerfile_copies_what_exists_and_dockerignore_lets_only_that_through():
    sources = [source for word, rest in DOCKER if word == "COPY" for source in rest.split()[:-1]]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    plain = {source for source in sources if not source.startswith(("--", "/"))}
    assert plain == sent
    assert all((ROOT / source).exists() for source in plain)


@pytest.mark.parametrize(("device", "onnxruntime"), [("cpu", "onnxruntime"), ("cuda", "onnxruntime-gpu")])
def test_the_first_stage_builds_a_wheel_for_its_device(device, onnxruntime, tmp_path):
    "The stage's COPY and RUN instructions are carried out in a folder."
    for word, rest in DOCKER[: DOCKER.index(("FROM", "python:3.11-slim"))]:
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, tmp_path / (source if target == "./" else target))
        if word == "RUN":
            command = rest.replace("/wheels", str(tmp_path / "wheels"))
            command = command.replace("pip wheel", f"{sys.executable} -m pip wheel")
            offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "false", "DEVICE": device}
            subprocess.run(["sh", "-c", command], cwd=tmp_path, env=os.environ | offline, check=True)
    (built,) = (tmp_path / "wheels").iterdir()
    (file,) = [name for name in zipfile.ZipFile(built).namelist() if name.endswith("/METADATA")]
    lines = zipfile.ZipFile(built).read(file).decode().splitlines()
    needed = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    here = {"sys_platform": "linux", "platform_machine": "x86_64", "extra": ""}
    names = {each.name for each in needed if each.marker is None or each.marker.evaluate(here)}
    assert {name for name in names if name.startswith("onnxruntime")} == {onnxruntime}
    assert f"\n{onnxruntime}==" in (tmp_path / "constraints.txt").read_text()


# docs/install.md


INSTALL = (ROOT / "docs/install.md").read_text(encoding="utf-8")


def test_the_page_on_installing_names_every_command_and_every_extra():
    words = set(re.findall(r"[\w.]+", INSTALL))
    assert COMMANDS.keys() <= words
    assert {module for module, _ in COMMANDS.values()} <= words
    extras = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", INSTALL.partition("## Extras")[2], re.M))))
    assert extras == PROJECT["optional-dependencies"].keys()


def test_the_page_on_installing_uses_existing_commands():
    typed = re.findall(r"^    (?:docker run .* )?rapid-finetune (\w+)", INSTALL, re.MULTILINE)
    assert len(typed) >= 5
    assert set(typed) <= COMMANDS.keys()
