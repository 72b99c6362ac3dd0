"""The command line of a signature: values, help and errors."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Literal

import pytest
from script import END, HEAD, ROOT, start
from typing_extensions import Doc

from recipes import digits, hw1, rapid
from toolkit.commandline import parsing
from toolkit.commandline.names import COMMANDS
from toolkit.commandline.parsing import given, parsed
from toolkit.commandline.suggestions import ELSEWHERE

OPTIONS = (
    HEAD
    + '''
def main(
    data: Path,  # folder of photos, 100 % of them
    loss: Annotated[str, {"choices": ["ce", "focal"]}] = "ce",  # the loss
    seeds: list[int] = [0],  # one run each
    losses: Annotated[list[str], {"choices": ["ce", "focal"]}] = ["ce"],  # which to compare
    image_size: int = 224,  # pixels
    lr: float = 1e-3,  # learning rate
    out: Path | None = None,  # the folder
    save_best: bool = True,  # keep the best
    resume: bool = False,  # go on
):
    """Train on data.

    A part that the help leaves out.
    """
    print(sorted(locals().items()))
'''
    + END
)


# The signature


def test_the_signature_is_the_command_line(tmp_path):
    arguments = (
        "photos --loss focal --seeds 1 2 --losses focal ce --image_size 64 --lr 1e-2 --out o --no-save_best --resume"
    )
    done = start(OPTIONS, tmp_path, *arguments.split())
    assert done.returncode == 0
    assert dict(eval(done.stdout.replace("Path(", "Path(").replace("PosixPath", "Path"), {"Path": Path})) == {
        "data": Path("photos"),
        "loss": "focal",
        "seeds": [1, 2],
        "losses": ["focal", "ce"],
        "image_size": 64,
        "lr": 0.01,
        "out": Path("o"),
        "save_best": False,
        "resume": True,
    }


def test_an_option_that_is_not_given_has_its_default(tmp_path):
    done = start(OPTIONS, tmp_path, "photos")
    assert "('loss', 'ce'), ('losses', ['ce']), ('lr', 0.001), ('out', None), ('resume', False)" in done.stdout
    assert "('save_best', True), ('seeds', [0])" in done.stdout


@pytest.mark.parametrize("flag", ["--image-size=64", "--image_size=64"])
def test_a_hyphen_in_a_flag_is_forgiven(tmp_path, flag):
    assert "('image_size', 64)" in start(OPTIONS, tmp_path, "photos", flag).stdout


def test_help_carries_the_comments_and_spells_flags_as_parameters(tmp_path):
    done = start(OPTIONS, tmp_path, "--help")
    assert done.returncode == 0
    assert "Train on data." in done.stdout
    assert "A part that" not in done.stdout
    for words in (
        "folder of photos, 100 % of them",
        "--image_size",
        "pixels (default: 224)",
        "{ce,focal}",
        "--no-save_best",
    ):
        assert words in done.stdout
    assert "--image-size" not in done.stdout
    assert "--pdb" not in done.stdout


def numbers(bs: int | Literal["auto"] = 8, lr: Annotated[float | Literal["auto"] | None, {}] = None, n: int | None = 0):
    "Train."


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", {"bs": 8, "lr": None, "n": 0}),
        ("--bs 4 --lr 2", {"bs": 4, "lr": 2.0, "n": 0}),
        ("--bs auto --lr auto --n 3", {"bs": "auto", "lr": "auto", "n": 3}),
    ],
)
def test_an_option_takes_a_number_or_a_word(arguments, values):
    assert parsed(numbers, arguments.split()) == values
    assert type(parsed(numbers, ["--lr", "2"])["lr"]) is float


def switches(probe: bool = True, zip_it: bool = False, bs: int = 8):  # a comment of another line
    "Train."


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", {}),
        ("--bs 8", {"bs": 8}),
        ("--bs=9 --zip-it", {"bs": 9, "zip_it": True}),
        ("--probe", {"probe": True}),
        ("--no-probe", {"probe": False}),
    ],
)
def test_what_the_arguments_name_is_told_apart_from_defaults(arguments, values):
    assert given(switches, arguments.split()) == values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--bs 1.5", "argument --bs: invalid int or auto value: '1.5'"),
        ("--lr Auto", "argument --lr: invalid float or auto value: 'Auto'"),
        ("--n auto", "argument --n: invalid int value: 'auto'"),
    ],
)
def test_a_value_that_is_neither_is_refused_with_what_is_accepted(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(numbers, arguments.split())
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"
    with pytest.raises(SystemExit, match="0"):
        parsed(numbers, ["--help"])
    assert "--bs int|auto " in capsys.readouterr().out


@dataclass(frozen=True)
class Options:
    bs: Annotated[int | Literal["auto"], Doc("photos in a batch")] = 8


def recipe(**options):
    "Train."


recipe.__signature__ = signature(recipe).replace(
    parameters=[
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(Options)
    ]
)


def test_a_merged_signature_is_the_command_line_and_its_docs_are_the_help(capsys):
    assert parsed(recipe, []) == {"bs": 8}
    assert parsed(recipe, ["--bs", "auto"]) == {"bs": "auto"}
    with pytest.raises(SystemExit, match="0"):
        parsed(recipe, ["--help"])
    assert "  --bs int|auto           photos in a batch (default: 8)\n" in capsys.readouterr().out


def test_annotations_that_are_strings_are_read_as_types(tmp_path):
    script = "from __future__ import annotations\n" + OPTIONS
    assert "('image_size', 64)" in start(script, tmp_path, "photos", "--image_size", "64").stdout


def several(words: tuple[Literal["a", "b"], ...] = (), numbers: tuple[int, ...] = (1,), name: str = ""):
    "Take several values."


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", {"words": (), "numbers": (1,), "name": ""}),
        ("--words a b --numbers 3 4", {"words": ("a", "b"), "numbers": (3, 4), "name": ""}),
        ("--words=b --name=-x=y", {"words": ("b",), "numbers": (1,), "name": "-x=y"}),
        ("--numbers -3 --name None", {"words": (), "numbers": (-3,), "name": "None"}),
    ],
)
def test_an_option_takes_several_values(arguments, values):
    assert parsed(several, arguments.split()) == values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--words", "argument --words: expected at least one argument"),
        ("--numbers --words a", "argument --numbers: expected at least one argument"),
        ("--words a c", "argument --words: invalid choice: 'c' (choose from a, b)"),
        ("--name", "argument --name: expected one argument"),
        ("--name -x", "unknown flag -x"),
    ],
)
def test_several_values_are_at_least_one_of_the_right_kind(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(several, arguments.split())
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"


def label(
    model: list[Path],  # one or more
    images: str,  # photos
    device: str = "auto",  # where
    zip: bool = False,  # zip it
):
    "Label photos."


@pytest.mark.parametrize("words", [["a", "b", "p"], ["a", "p"], ["a", "b", "c", "p"]])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("option", [["--device", "cpu"], ["--device=cpu"], ["--device", "cpu", "--zip"]])
def test_several_positional_values_before_another_wherever_the_options_stand(words, at, option):
    values = parsed(label, [*words[:at], *option, *words[at:]])
    assert values == {
        "model": [Path(word) for word in words[:-1]],
        "images": "p",
        "device": "cpu",
        "zip": "--zip" in option,
    }
    assert parsed(label, ["--device", "cpu", "--", "-a", "p"])["model"] == [Path("-a")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: model, images"),
        (["a", "--zip"], "the following arguments are required: images"),
        (["a", "p", "--device"], "argument --device: expected one argument"),
    ],
)
def test_too_few_positional_values_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parsed(label, arguments)
    error, usage = capsys.readouterr().err.splitlines()
    assert error == f"error: {message}"
    assert "MODEL ... IMAGES [flags]" in usage


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("recipe", [digits, hw1, rapid])
def test_help_is_plain_text_that_fits_the_terminal(recipe, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match="0"):
        parsed(recipe.main, ["--help"])
    text = capsys.readouterr().out
    assert set(text) <= {"\n", *map(chr, range(32, 127))}  # no boxes, no colours
    assert max(map(len, text.splitlines())) <= columns
    for name in signature(recipe.main).parameters:
        assert len(re.findall(rf"^  --(no-)?{name}\b", text, re.MULTILINE)) == 1


def test_an_error_that_a_later_tyro_adds_is_still_status_2(monkeypatch, capsys):
    monkeypatch.setattr(parsing, "_message", lambda event, parameters: None)
    with pytest.raises(SystemExit, match="2"):
        parsed(several, ["--numbers", "x"])
    assert "Error parsing --numbers" in capsys.readouterr().err  # tyro's own box


def test_an_imported_module_runs_nothing(tmp_path):
    (tmp_path / "recipe.py").write_text(OPTIONS)
    done = start("import sys; sys.argv = ['x', 'photos']; import recipe; print('quiet')", tmp_path)
    assert done.stdout == "quiet\n"


def test_a_module_is_called_as_it_was_typed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.py").write_text(OPTIONS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "mine.recipe"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.stderr.splitlines() == [
        "error: the following arguments are required: data",
        "usage: python -m mine.recipe DATA [flags]; --help lists them",
    ]


# Wrong arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: data"),
        ("photos --los ce", "unknown flag --los, the nearest is --loss"),
        ("--imgsize 3", "unknown flag --imgsize, the nearest is --image_size"),
        ("photos -loss ce", "unknown flag -loss, the nearest is --loss"),
        ("photos --zzzzzz", "unknown flag --zzzzzz"),
        ("photos --loss cee", "argument --loss: invalid choice: 'cee' (choose from "),
        ("photos --seeds 1 x", "argument --seeds: invalid int value: '1', 'x'"),
        ("photos --image_size", "argument --image_size: expected one argument"),
        ("photos more", "unrecognized arguments: more"),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_status_2(tmp_path, arguments, message):
    done = start(OPTIONS, tmp_path, *arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {message}")
    assert second == "usage: python script.py DATA [flags]; --help lists them"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch_size 8", "unknown flag --batch_size, here it is --bs"),
        ("--batch-size=8", "unknown flag --batch-size, here it is --bs"),
        ("-b 8", "unknown flag -b, here it is --bs"),
        ("--learning_rate 0.1", "unknown flag --learning_rate, here it is --lr"),
        ("--model resnet18", "unknown flag --model, here it is --arch"),
        ("--num_epochs 3", "unknown flag --num_epochs, here it is --epochs"),
        ("--imgsz 128", "unknown flag --imgsz, here it is --image_size"),
        ("--num-workers 4", "unknown flag --num-workers, here it is --workers"),
        ("--output_dir x", "unknown flag --output_dir, here it is --out"),
        ("photos", "photos: data is given by its flag, --data photos"),
        ("model=resnet18", "model=resnet18: values are given by flags, here --arch resnet18"),
        ("epochs=3 imgsz=64", "epochs=3 imgsz=64: values are given by flags, here --epochs 3"),
        ("--epochs 3 4", "4: data is given by its flag, --data 4"),
        ("--exact True", "True: a flag that turns something on or off takes no value, as in --probe or --no-probe"),
        ("train my photos", "unrecognized arguments: train my photos"),
    ],
)
def test_a_flag_of_another_tool_is_answered_with_ours(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(hw1.main, words.split())
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"


def test_every_answer_is_a_flag_of_a_recipe_and_no_question_is():
    flags = {f"--{name}" for recipe in (digits, hw1, rapid) for name in signature(recipe.main).parameters}
    assert ELSEWHERE.keys() <= flags
    assert not {f"--{word}" for theirs in ELSEWHERE.values() for word in theirs.split()} & flags


def test_an_empty_word_is_two_lines_too(capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(hw1.main, [""])
    assert capsys.readouterr().err.splitlines()[0] == "error: unrecognized arguments: "


def test_a_flag_for_a_positional_argument_is_answered_with_its_name(capsys):
    def label(model: Path, bs: int = 8):
        "Label photos."

    with pytest.raises(SystemExit, match="2"):
        parsed(label, ["--model", "model.onnx"])
    assert capsys.readouterr().err.startswith("error: unknown flag --model, give MODEL by itself\n")


HEAVY = {"torch", "fastai", "timm", "albumentations", "sklearn", "matplotlib", "onnxruntime", "ray", "pandas"}


@pytest.mark.parametrize("argument", ["--help", "--bogus"])
@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values() if not module.startswith("recipes.")])
def test_help_and_a_wrong_option_load_no_heavy_library(module, argument):
    words = [sys.executable, "-X", "importtime", "-m", module, argument]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (0 if argument == "--help" else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "toolkit.command" in imported
    assert not HEAVY & imported
