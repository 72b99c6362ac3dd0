"""The run folder: where its files lie, how they are written so that none is ever seen half, what recipe.json says.

Free of torch at import, so that `export` can read a run without it.
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
from toolkit.files import file_lock, read_json
from toolkit.schema import metrics_fault, read_recipe

if TYPE_CHECKING:
    import torch
    from fastai.learner import Learner
    from torch import nn

LIBRARIES = "torch torchvision timm fastai albumentations opencv-python numpy onnx onnxruntime".split()


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
            if not any(each.exists() for each in locks):  # it has not ended
                path.unlink(missing_ok=True)
    return held


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
        return read_json(self.path(name))

    @cached_property
    def recipe(self) -> dict[str, Any]:
        "recipe.json, as `toolkit.schema.read_recipe` returns it."
        return read_recipe(self.path("recipe.json"))

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
        "A Learner with this run's best weights, to predict; nothing is unpickled. See `learner.rebuild`."
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
        from toolkit.models.timm_model import create_model, load_weights

        arch, size = self.recipe["model"]["arch"], self.recipe["preprocess"]["crop"]
        model = create_model(arch, len(self.recipe["classes"]), "none", image_size=size)
        load_weights(model, self.path("best.safetensors"))
        return model.to(device).eval()


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
