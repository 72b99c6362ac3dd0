"""The command line of a signature, run as real commands."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Literal

import pytest
from typing_extensions import Doc

from recipes import digits, hw1, rapid
from toolkit.command import parsed
from toolkit.commandline import parsing
from toolkit.commandline.names import COMMANDS
from toolkit.commandline.suggestions import ELSEWHERE
from toolkit.errors import user_message

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
from pathlib import Path
from typing import Annotated
from toolkit.command import run_script
"""
END = """
if __name__ == "__main__":
    run_script(main)
"""
OPTIONS = (
    HEAD
    + '''
def main(
    data: Path,  # where the photos are, 100 % of them
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

    What no one needs to read on a terminal.
    """
    print(sorted(locals().items()))
'''
    + END
)


def start(script: str, folder: Path, *arguments: str, python=(), **options) -> subprocess.CompletedProcess:
    "Runs the text `script` as a file, with `arguments`."
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *python, str(file), *arguments], capture_output=True, text=True, env=environment, **options
    )


def body(statements: str) -> str:
    "A command without options that does this."
    return HEAD + "\ndef main():\n" + textwrap.indent(textwrap.dedent(statements), "    ") + "\n" + END


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


def test_what_is_not_given_has_the_signatures_default(tmp_path):
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
    assert "no one needs" not in done.stdout
    for said in (
        "where the photos are, 100 % of them",
        "--image_size",
        "pixels (default: 224)",
        "{ce,focal}",
        "--no-save_best",
    ):
        assert said in done.stdout
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--bs 1.5", "argument --bs: invalid int or auto value: '1.5'"),
        ("--lr Auto", "argument --lr: invalid float or auto value: 'Auto'"),
        ("--n auto", "argument --n: invalid int value: 'auto'"),
    ],
)
def test_neither_number_nor_word_is_two_lines_that_say_what_is_taken(arguments, message, capsys):
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


# What the user typed is wrong


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
        ("train my photos", "unrecognized arguments: train my photos"),
    ],
)
def test_what_people_type_elsewhere_is_answered_with_ours(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(hw1.main, words.split())
    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"


def test_every_flag_that_stands_for_anothers_is_there_and_takes_no_flag_of_ours():
    flags = {f"--{name}" for recipe in (digits, hw1, rapid) for name in signature(recipe.main).parameters}
    assert ELSEWHERE.keys() <= flags
    assert not {f"--{word}" for theirs in ELSEWHERE.values() for word in theirs.split()} & flags


def test_an_empty_word_is_two_lines_too(capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(hw1.main, [""])
    assert capsys.readouterr().err.splitlines()[0] == "error: unrecognized arguments: "


def test_what_is_given_without_a_flag_here_is_told_where_a_flag_is_given(capsys):
    def label(model: Path, bs: int = 8):
        "Label photos."

    with pytest.raises(SystemExit, match="2"):
        parsed(label, ["--model", "model.onnx"])
    assert capsys.readouterr().err.startswith("error: unknown flag --model, give MODEL by itself\n")


# What the user gave is wrong, what is a bug


@pytest.mark.parametrize(
    ("statements", "stderr"),
    [
        ('raise ValueError("--bs 0: give 1 or more")', "error: --bs 0: give 1 or more\n"),
        ('raise FileNotFoundError("data: no such folder")', "error: data: no such folder\n"),
        ('raise ImportError("ray is missing: pip install ray")', "error: ray is missing: pip install ray\n"),
        ('open("/gone/file")', "error: /gone/file: No such file or directory\n"),
        ('Path("/").write_text("x")', "error: /: Is a directory\n"),
        ('import os; raise OSError(28, os.strerror(28))', "error: [Errno 28] No space left on device\n"),
        ('try: int("x")\nexcept ValueError as e: raise ValueError("x: no number") from e', "error: x: no number\n"),
    ],
)  # fmt: skip
def test_what_the_user_gave_is_a_message_and_status_2(tmp_path, statements, stderr):
    done = start(body(statements), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", stderr)


def test_an_error_of_the_toolkits_own_modules_is_a_message(tmp_path):
    done = start(body('from toolkit import run; run.load("nowhere")'), tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: nowhere is not a run folder (no recipe.json): give a folder that a recipe wrote\n"


@pytest.mark.parametrize(
    "statements",
    [
        'int("x")',
        "a, b = [1, 2, 3]",
        'import json; json.loads("{")',
        "import numpy; numpy.zeros(3).reshape(2)",
        'raise KeyError("loss")',
        "assert 1 == 2",
        "raise ArithmeticError",
    ],
)
def test_a_bug_is_a_traceback_and_status_1(tmp_path, statements):
    done = start(body(statements), tmp_path)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert statements.partition("; ")[2] or statements in done.stderr


def test_what_a_loader_worker_met_is_told_as_if_it_were_met_here(tmp_path):
    script = """
    import sys
    from torch.utils.data import DataLoader
    from toolkit.command import run_script

    class Photos:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            if sys.argv[1] == "ours":
                raise ValueError("a.jpg: not a photo;" + ""
                                 " leave it out")
            if sys.argv[1] == "system":
                open("/gone/a.jpg")
            int("x")

    def main(kind: str):
        next(iter(DataLoader(Photos(), num_workers=1)))

    if __name__ == "__main__":
        run_script(main)
    """
    ours, system, bug = (start(script, tmp_path, kind) for kind in ("ours", "system", "bug"))
    assert (ours.returncode, ours.stderr) == (2, "error: a.jpg: not a photo; leave it out\n")
    assert (system.returncode, system.stderr) == (2, "error: [Errno 2] No such file or directory: '/gone/a.jpg'\n")
    assert bug.returncode == 1
    assert "ValueError: Caught ValueError in DataLoader worker" in bug.stderr


# How else a command ends


def test_what_a_result_stands_for_is_the_status(tmp_path):
    status = "lambda unread: 2 if unread else 0"
    script = HEAD + "def main(n: int):\n    return ['a'] * n\n" + END.replace("main)", f"main, status={status})")
    assert start(script, tmp_path, "0").returncode == 0
    assert start(script, tmp_path, "3").returncode == 2
    assert start(body("return ['a', 'result', 'of', 'use', 'in', 'Python']"), tmp_path).returncode == 0
    assert start(body("raise SystemExit(7)"), tmp_path).returncode == 7


def test_an_interruption_is_one_line_and_130(tmp_path):
    script = body('import time; print("on", flush=True); time.sleep(60)')
    file = tmp_path / "script.py"
    file.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("module", "library"), [("recipes.hw1", "torch"), ("toolkit.check", "cv2"), ("export.predict", "numpy")]
)
@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "terminated\n")])
def test_an_interruption_of_its_imports_is_one_line_and_130_too(module, library, number, told, tmp_path):
    "They take seconds; here a library of that name takes a minute."
    (tmp_path / f"{library}.py").write_text('import time; print("on", flush=True); time.sleep(60)')
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
    )
    assert process.stdout.readline() == "on\n"
    process.send_signal(number)
    assert process.communicate()[1] == told
    assert process.returncode == 130


def test_an_imported_toolkit_leaves_signals_as_they_are():
    code = "import signal, {}; print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))"
    plain, ours = (
        subprocess.run([sys.executable, "-c", code.format(name)], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in ("os", "toolkit.commandline.startup")
    )
    assert ours.stdout == plain.stdout
    assert "default_int_handler" in plain.stdout


def test_a_command_of_others_that_uses_the_toolkit_keeps_its_own_signals(tmp_path):
    "Its Ctrl-C must tidy up: ours would end the process at once."
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text("import toolkit")
    (package / "train.py").write_text("import signal; print(signal.getsignal(signal.SIGINT).__name__)")
    words = [sys.executable, "-m", "theirs.train"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout == "default_int_handler\n", done.stderr


def test_a_recipe_that_lies_elsewhere_is_as_quiet(tmp_path):
    "fastai's import warns, unless toolkit's came before it, as in what people begin from: a copy of ours."
    shutil.copy(hw1.__file__, tmp_path / "mine.py")
    words = [sys.executable, "mine.py", "--help"]
    quiet = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "usage: python mine.py" in quiet.stdout


def test_a_recipe_may_say_what_it_saved_when_interrupted(tmp_path):
    done = start(body('raise KeyboardInterrupt("saved after epoch 3; --resume goes on")'), tmp_path)
    assert (done.returncode, done.stderr) == (130, "saved after epoch 3; --resume goes on\n")


@pytest.mark.parametrize(
    "statements",
    [
        'for n in range(100_000): print("line", n)',
        'import time; print("on", flush=True); time.sleep(0.5); print("more")',
    ],
)
def test_a_reader_that_leaves_ends_it_quietly(tmp_path, statements):
    file = tmp_path / "script.py"
    file.write_text(body(statements))
    process = subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},  # what is in the buffer is the point
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


NOISE = """
import logging, warnings
exec(compile("import warnings; warnings.warn('from a library')", "library.py", "exec"), {"__name__": "library"})
logging.getLogger("library").warning("logged")
warnings.warn("from us")
"""


def test_libraries_warnings_are_silent_in_a_command_and_ours_are_not(tmp_path):
    done = start(body(NOISE), tmp_path)
    assert "UserWarning: from us" in done.stderr
    assert "library" not in done.stderr
    assert "logged" not in done.stderr
    assert "from a library" in start(body(NOISE), tmp_path, python=("-W", "always")).stderr


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


def test_importing_it_changes_no_filter_and_brings_no_heavy_library():
    code = (
        "import sys, warnings, toolkit; before = list(warnings.filters); import toolkit.command; "
        "assert warnings.filters == before; "
        "print({'torch', 'fastai', 'timm', 'numpy', 'tyro', 'typing_extensions'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


def raised_over(first):
    try:
        raise RuntimeError(first)
    finally:
        raise KeyError("thread")


def test_a_worker_that_the_system_killed_is_told_though_another_error_was_raised_over_it():
    "torch raises the first in whatever the main process does; where it starts a thread, CPython raises a KeyError."
    with pytest.raises(KeyError) as dead_worker:
        raised_over("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert user_message(dead_worker.value).startswith("DataLoader worker (pid 7) is killed by signal: Killed:")
    with pytest.raises(KeyError) as other:
        raised_over("any other")
    assert user_message(other.value) is None


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ("Killed. ", "as if memory ran out; try fewer --workers, or 0"),
        (
            "Bus error. It is possible that dataloader's workers are out of shared memory.",
            "as if shared memory was full",
        ),
        ("Aborted. ", "as if memory ran out or a library failed in it"),
    ],
)
def test_a_worker_that_exited_unexpectedly_is_told_by_the_signal_in_the_errors_cause(signal, why):
    "torch raises these two, one from the other, if a worker dies while its mini-batch is waited for."
    error = RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")
    error.__cause__ = RuntimeError(f"DataLoader worker (pid 7) is killed by signal: {signal}")
    message = user_message(error)
    assert message.startswith(f"DataLoader worker (pid 7) is killed by signal: {signal.partition('.')[0]}")
    assert f": a process that reads photos is gone, {why}" in message
    error.__cause__ = None
    assert user_message(error).startswith("DataLoader worker (pid(s) 7, 8) exited unexpectedly: ")
