"""The run folder: its files, its lock, and its recipe.json, data set, model and Learner.

Importing this module does not import torch, so that `export` can read a run without it.
"""

import importlib.metadata
import re
import subprocess
import time
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from toolkit import ranks
from toolkit.data.dataset import DataSet, recorded_dataset
from toolkit.data.on_disk.folds import FOLDS, HELD_OUT, fold_folder, holds_folds
from toolkit.files import file_lock, is_unicode, read_json
from toolkit.schema import metrics_fault, read_recipe

if TYPE_CHECKING:
    import torch
    from fastai.learner import Learner
    from torch import nn

HALF_WRITTEN = r"\.(.+\.(?:json|csv|html|png|pt|safetensors|onnx|npy|parquet|zip|md|txt|asked|partial))\.[a-z0-9_]{8}"
"The name of a temporary file of `toolkit.files.replacing`, of a kind that a run folder may hold."

BEGUN = ("recipe.json", "search.json", FOLDS, HELD_OUT)
"The files that a run begins with."

LIBRARIES = "torch torchvision timm fastai albumentations opencv-python numpy onnx onnxruntime".split()


def lock(folder: Path) -> FileLock:
    """Lock `folder` for this process, as long as the result lives, and delete what a killed run left half written.

    The operating system releases the lock when the process ends in any way. Raises FileExistsError if another process
    holds it, OSError if the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = file_lock(folder / ".lock", timeout=0, is_singleton=True)  # one per process: a notebook may start again
    try:
        held.acquire()
    except Timeout as error:
        raise FileExistsError(f"{folder} is in use by a run that has not ended: give another --out, or wait") from error
    for path in folder.glob(".*"):
        if name := re.fullmatch(HALF_WRITTEN, path.name):
            locks = (folder / f".{name[1]}{kind}.lock" for kind in ("", ".partial"))
            if not any(each.exists() for each in locks):  # its writer is still running
                path.unlink(missing_ok=True)
    return held


@dataclass(frozen=True)
class Run:
    "A run folder that exists and holds a recipe.json."

    folder: Path
    held: FileLock | None = field(default=None, repr=False, compare=False)  # the lock, if this process writes the run

    def path(self, name: str) -> Path:
        "The path of the file `name` of this run."
        return self.folder / name

    def read_json(self, name: str) -> Any:
        "The content of a JSON file of this run. Raises FileNotFoundError, or ValueError if it is not JSON."
        return read_json(self.path(name))

    @cached_property
    def recipe(self) -> dict[str, Any]:
        "The content of recipe.json, as `toolkit.schema.read_recipe` returns it."
        return read_recipe(self.path("recipe.json"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        "The content of metrics.json; empty before the evaluation. Raises ValueError for a figure that is not a number."
        if not self.path("metrics.json").exists():
            return {}
        figures = self.read_json("metrics.json")
        if fault := metrics_fault(figures):
            raise ValueError(f"{self.path('metrics.json')} {fault}: it was not written by a recipe")
        return figures

    def learner(self, device: str = "auto") -> "Learner":
        "A Learner with this run's best weights, to predict. Nothing is unpickled. See `toolkit.learner.rebuild`."
        from toolkit.learner.rebuild import rebuild

        return rebuild(self.recipe, self.path("best.safetensors"), device)

    def dataset(self) -> DataSet:
        "The data set this run was trained on. Warns and returns one without photos if they are gone or have changed."
        data, fault = recorded_dataset(self.recipe)
        if fault:
            warnings.warn(f"the photos of {self.folder} {fault}: its data set is without photos", stacklevel=2)
        return data

    def model(self, device: "str | torch.device" = "cpu") -> "nn.Module":
        """timm's model with this run's best weights, on `device`, in evaluation mode.

        It takes normalised float32 [batch, 3, crop, crop] and returns logits [batch, classes]. Nothing is unpickled.
        Raises FileNotFoundError if there are no weights yet, ValueError if they do not fit.
        """
        from toolkit.models.pretrained import load_weights
        from toolkit.models.timm_model import create_model

        arch, size = self.recipe["model"]["arch"], self.recipe["preprocess"]["crop"]
        model = create_model(arch, len(self.recipe["classes"]), "none", image_size=size)
        load_weights(model, self.path("best.safetensors"))
        return model.to(device).eval()


def load(folder: str | Path) -> Run:
    "The run in `folder`. Raises FileNotFoundError if there is none, ValueError for the folder of several folds."
    run = Run(Path(folder))
    if holds_folds(run.folder):
        raise ValueError(f"{folder} is of --folds, and each fold is a run: give {fold_folder(run.folder, 1)} ...")
    if not run.path("recipe.json").is_file():
        raise FileNotFoundError(f"{folder} is not a run folder (no recipe.json): give a folder that a recipe wrote")
    return run


def new_folder(recipe: str, loss: str, out: str | Path | None, resume: bool) -> Path:
    """The folder that a run writes to: `out`, or runs/<recipe>/<time>-<loss>. Rank 0 decides.

    Raises ValueError for `resume` without `out` or of another recipe's run, FileExistsError if `out` holds something
    and `resume` is off, NotADirectoryError if `out` is a file.
    """
    return ranks.from_first(lambda: _new_folder(recipe, loss, out, resume))


def _new_folder(recipe: str, loss: str, out: str | Path | None, resume: bool) -> Path:
    if out is None:
        if resume:
            raise ValueError("--resume without --out: say which run to go on with, as in --out runs/x --resume")
        return _unused(Path("runs") / recipe / f"{time.strftime('%Y%m%d-%H%M%S')}-{loss}")
    folder = Path(out)
    if not is_unicode(str(out)):
        raise ValueError(f"--out {str(out)!r} is not Unicode text: give a folder whose name is")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: give a folder for the run")
    if folder.exists() and any(folder.iterdir()) and not resume:
        held = "already holds a run" if (folder / "recipe.json").exists() or holds_folds(folder) else "is not empty"
        raise FileExistsError(f"--out {out} {held}: give another folder, or add --resume to go on with the run there")
    if folder.is_dir() and not any((folder / name).exists() for name in BEGUN) and not holds_folds(folder):
        if strange := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
            raise FileExistsError(f"--out {out} holds {strange[0]} and no run: give another folder")
    if (folder / "recipe.json").is_file():
        same_recipe(load(folder), recipe)
    elif resume and not holds_folds(folder):
        print(f"--resume: {out} holds no run yet; a new run begins", flush=True)
    return folder


def same_recipe(run: Run, recipe: str) -> None:
    "Raise ValueError if another recipe started the run."
    if (first := run.recipe["recipe"]) != recipe:
        raise ValueError(
            f"--resume {run.folder}: it was begun by the recipe {first}, now it is {recipe}; resume it by that, or "
            "give another --out"
        )


def _unused(folder: Path) -> Path:
    "`folder`, or the first of folder-2, folder-3 … that does not exist (two runs may start in the same second)."
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def versions() -> dict[str, str]:
    "The installed version of each library that a result depends on. A missing library is left out."
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
    "The git commit of this code, with '+' if files have changed since; None outside a git checkout."
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))  # fails for code inside another repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
