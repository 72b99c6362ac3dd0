"""How commands end: exit status, messages, signals, streams and warnings, run as real commands."""

import os
import shutil
import signal
import subprocess
import sys

import forked
import pytest
from script import END, HEAD, ROOT, body, start

from recipes import hw1

# The user's errors and our bugs


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
def test_a_users_error_is_a_message_and_status_2(tmp_path, statements, stderr):
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


def test_an_error_of_a_loader_worker_is_reported_as_one_of_the_command(tmp_path):
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
    ours, system, bug = (start(script, tmp_path, kind, run=forked.run) for kind in ("ours", "system", "bug"))
    assert (ours.returncode, ours.stderr) == (2, "error: a.jpg: not a photo; leave it out\n")
    assert (system.returncode, system.stderr) == (2, "error: [Errno 2] No such file or directory: '/gone/a.jpg'\n")
    assert bug.returncode == 1
    assert "ValueError: Caught ValueError in DataLoader worker" in bug.stderr


# How else a command ends


def test_the_status_is_computed_from_the_result(tmp_path):
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
    ("module", "library"), [("recipes.digits", "torch"), ("toolkit.check", "cv2"), ("export.predict", "numpy")]
)
@pytest.mark.parametrize(("number", "message"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "terminated\n")])
def test_an_interruption_while_libraries_are_imported_is_one_line_and_130(module, library, number, message, tmp_path):
    "The imports take seconds; here a library of that name takes a minute."
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
    assert process.communicate()[1] == message
    assert process.returncode == 130


def test_an_imported_toolkit_leaves_signals_as_they_are():
    code = "import signal, {}; print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))"
    plain, ours = (
        subprocess.run([sys.executable, "-c", code.format(name)], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in ("os", "toolkit.commandline.startup")
    )
    assert ours.stdout == plain.stdout
    assert "default_int_handler" in plain.stdout


def test_another_program_that_imports_the_toolkit_keeps_its_signals(tmp_path):
    "Ctrl-C must let it tidy up; our handler would end the process at once."
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text("import toolkit")
    (package / "train.py").write_text("import signal; print(signal.getsignal(signal.SIGINT).__name__)")
    words = [sys.executable, "-m", "theirs.train"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout == "default_int_handler\n", done.stderr


COLLECTING = """
import atexit, gc, sys
class Looking:
    def find_spec(self, name, *given):
        if name == "cv2":
            print("importing:", gc.isenabled())
sys.meta_path.insert(0, Looking())
atexit.register(lambda: print("in the end:", gc.isenabled(), gc.get_freeze_count() > 10_000))
"""


@pytest.mark.parametrize(
    ("words", "importing", "frozen"),
    [(["-m", "toolkit.check", "gone"], False, True), (["-c", "import toolkit, cv2"], True, False)],
)
def test_garbage_is_looked_for_once_the_libraries_of_a_command_are_imported(tmp_path, words, importing, frozen):
    (tmp_path / "sitecustomize.py").write_text(COLLECTING)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, env=environment)
    *before, after = done.stdout.splitlines()  # OpenCV imports itself twice
    assert set(before) == {f"importing: {importing}"}, done.stderr
    assert after == f"in the end: True {frozen}"


def test_a_recipe_in_a_file_elsewhere_is_as_quiet(tmp_path):
    "fastai warns when it is imported, unless toolkit was imported before. The file is a copy of one of our recipes."
    shutil.copy(hw1.__file__, tmp_path / "mine.py")
    words = [sys.executable, "mine.py", "--help"]
    quiet = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "usage: python mine.py" in quiet.stdout


def test_an_interruption_may_carry_a_message(tmp_path):
    done = start(body('raise KeyboardInterrupt("saved after epoch 3; --resume goes on")'), tmp_path)
    assert (done.returncode, done.stderr) == (130, "saved after epoch 3; --resume goes on\n")


@pytest.mark.parametrize(
    "statements",
    [
        'for n in range(100_000): print("line", n)',
        'import time; print("on", flush=True); time.sleep(0.5); print("more")',
    ],
)
def test_a_closed_pipe_ends_a_command_quietly(tmp_path, statements):
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


def test_importing_command_changes_no_warning_filter_and_loads_no_library():
    code = (
        "import sys, warnings, toolkit; before = list(warnings.filters); import toolkit.command; "
        "assert warnings.filters == before; "
        "print({'torch', 'fastai', 'timm', 'numpy', 'tyro', 'typing_extensions'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr
