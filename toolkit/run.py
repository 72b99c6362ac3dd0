"""The run folder: where its files lie, how they are written so that none is ever seen half, what recipe.json says.

Free of torch at import, so that `export` can read a run without it.
"""

import csv
import importlib.metadata
import io
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from toolkit import ranks
from toolkit.outside import metrics_fault, parse_json, recipe_fault

if TYPE_CHECKING:
    from fastai.learner import Learner

LIBRARIES = "torch torchvision timm fastai albumentations opencv-python numpy onnx onnxruntime".split()


def target_of(path: Path) -> Path:
    """The file that is written for `path`: the one a symbolic link leads to, else `path` itself; it may be new.

    Raises IsADirectoryError or FileExistsError if something else is there: a device or a pipe would be lost.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    if os.path.lexists(target) and not target.is_file():  # a link is still one here if it leads to itself
        raise FileExistsError(f"{path} is no regular file, and would be replaced by one: give another name")
    return target


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; after the block it is flushed to disk and takes the name `path` at once.

    A symbolic link stays, and the file that it leads to is replaced. If the block raises, `path` is as it was and the
    temporary file gone. Raises OSError (disk full, read-only folder) and as `target_of` does.
    """
    path = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(beside)):  # a full disk says so without a name
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def file_lock(path: Path, **options: Any) -> FileLock:
    """filelock's lock of the file `path`, which is made first: one that it can't make it takes for another's.

    Raises OSError where it can't be made. options: filelock's.
    """
    try:
        path.touch()
    except OSError as error:
        raise type(error)(f"{path.parent} can't be written to ({error.strerror}): give another folder") from error
    return FileLock(path, **options)


def lock(folder: Path) -> FileLock:
    """Hold `folder` for this process alone, as long as the result lives, and clear what a killed one left half written.

    The system lets go of it however the process ends. Raises FileExistsError where another process holds it, OSError
    where it can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = file_lock(folder / ".lock", timeout=0, is_singleton=True)  # one a process: a notebook may begin again
    try:
        held.acquire()
    except Timeout as error:
        raise FileExistsError(f"{folder} is in use by a run that has not ended: give another --out, or wait") from error
    for path in folder.glob(".*"):
        if name := re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", path.name):  # what `replacing` writes beside
            locks = (folder / f".{name[1]}{kind}.lock" for kind in ("", ".partial"))
            if not any(each.exists() for each in locks):  # an export or prediction that has not ended: `export.journal`
                path.unlink(missing_ok=True)
    return held


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    "A rename is on disk only when its folder is; Windows cannot open a folder and needs no such thing."
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`, whole or not at all. Text is written as UTF-8 with its newlines as they are; a file
    name in it that is not UTF-8 keeps its bytes.
    """
    with replacing(path) as beside:
        beside.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    "Write `value` as indented JSON, whole or not at all. Raises ValueError for NaN and infinity, which are not JSON."
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # of a file name that is not UTF-8: escapes keep it
        text = json.dumps(value, indent=2, allow_nan=False)
    write_atomic(path, text + "\n")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    "Write a CSV, whole or not at all, as Python's csv module reads it back."
    table, text = [list(row) for row in (header, *rows)], io.StringIO()
    # Python 3.11 leaves a lone carriage return unquoted, and then can't read it back
    quoting = csv.QUOTE_ALL if any("\r" in str(cell) for row in table for cell in row) else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows(table)
    write_atomic(path, text.getvalue())


@dataclass(frozen=True)
class Run:
    "A run folder that exists and holds a recipe.json."

    folder: Path
    held: FileLock | None = field(default=None, repr=False, compare=False)  # of a run that is being written

    def path(self, name: str) -> Path:
        "Where the file `name` of this run lies."
        return self.folder / name

    def read_json(self, name: str) -> Any:
        "Content of a JSON file of this run. Raises FileNotFoundError, or ValueError naming a file that is not JSON."
        path = self.path(name)
        try:
            return parse_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}): restore it, or start a new run") from error

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """recipe.json: recipe, created, options, classes (in index order), preprocess, augment, model, data, weights,
        versions, git. Raises ValueError where one of the first eight can't be followed.
        """
        recipe = self.read_json("recipe.json")
        if fault := recipe_fault(recipe):
            raise ValueError(f"{self.path('recipe.json')} {fault}: it was not written by a recipe of this version")
        return recipe

    @cached_property
    def metrics(self) -> dict[str, Any]:
        "metrics.json; empty before the run has been evaluated. Raises ValueError where a figure is none."
        if not self.path("metrics.json").exists():
            return {}
        figures = self.read_json("metrics.json")
        if fault := metrics_fault(figures):
            raise ValueError(f"{self.path('metrics.json')} {fault}: it was not written by a recipe")
        return figures

    def learner(self, device: str = "auto") -> "Learner":
        "A Learner with this run's best weights, to predict; nothing is unpickled. See `toolkit.learner.rebuild`."
        from toolkit.learner import rebuild

        return rebuild(self, device)


def load(folder: str | Path) -> Run:
    "The run in `folder`. Raises FileNotFoundError when there is none."
    run = Run(Path(folder))
    if not run.path("recipe.json").is_file():
        raise FileNotFoundError(f"{folder} is not a run folder (no recipe.json): give a folder that a recipe wrote")
    return run


def new_folder(recipe: str, loss: str, out: str | Path | None, resume: bool) -> Path:
    """The folder a run writes to: `out`, or runs/<recipe>/<time>-<loss>; of several processes the first decides.

    Raises ValueError for `resume` without `out` and for that of another recipe's run, FileExistsError when `out` holds
    something and `resume` is off, NotADirectoryError when `out` is a file.
    """
    return ranks.from_first(lambda: _new_folder(recipe, loss, out, resume))


def _new_folder(recipe: str, loss: str, out: str | Path | None, resume: bool) -> Path:
    if out is None:
        if resume:
            raise ValueError("--resume without --out: say which run to go on with, as in --out runs/x --resume")
        return _unused(Path("runs") / recipe / f"{time.strftime('%Y%m%d-%H%M%S')}-{loss}")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: give a folder for the run")
    if folder.exists() and any(folder.iterdir()) and not resume:
        held = "already holds a run" if (folder / "recipe.json").exists() else "is not empty"
        raise FileExistsError(f"--out {out} {held}: give another folder, or add --resume to go on with the run there")
    if (folder / "recipe.json").is_file():
        same_recipe(load(folder), recipe)
    return folder


def same_recipe(run: Run, recipe: str) -> None:
    "Raises ValueError where another recipe than this began the run."
    if (begun := run.recipe["recipe"]) != recipe:
        raise ValueError(
            f"--resume {run.folder}: it was begun by recipes.{begun}, now it is {recipe}; resume it by that, or give "
            "another --out"
        )


def _unused(folder: Path) -> Path:
    "`folder`, or the first of folder-2, folder-3 … that does not exist (two runs may start in the same second)."
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def versions() -> dict[str, str]:
    "The installed version of each library that a result depends on; one that is absent is left out."
    found = {}
    for name in LIBRARIES:
        for distribution in (name, f"{name}-gpu"):  # onnxruntime-gpu carries the module onnxruntime
            try:
                found[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def git_revision() -> str | None:
    "The commit this code stands at, with '+' when it was changed since; None outside a git checkout."
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))  # installed inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
