"""The files that a run goes on from: last.pt, all that it needs to go on with the same bits, and its best weights."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from toolkit.errors import reason_of
from toolkit.evaluation.best_epoch import HISTORY
from toolkit.files import replacing, write_atomic

NEXT_BEST = ".best.{}.safetensors"  # by the epoch


@dataclass(frozen=True)
class Best:
    "The epoch whose weights best.safetensors holds; 0 before the first."

    epoch: int = 0
    accuracy: float = -1.0
    loss: float = math.inf


@dataclass(frozen=True)
class EpochProgress:
    "How far an epoch has come at the beginning of an optimiser step."

    seen: int = 0  # photos trained on
    total: float | Tensor = 0.0  # the sum of their losses
    seconds: float = 0.0
    rate: float | None = None  # the learning rate at the epoch's beginning; None before that, and if it is not known


@dataclass
class TrainState:
    "A run's state after an epoch, or at an optimiser step inside the next one."

    epoch: int  # epochs finished
    epochs: int | None  # epochs planned; None if the version that wrote it did not say
    history: list[list[float]]  # rows of history.csv
    best: Best
    inside: EpochProgress
    bs: int  # smaller than asked for if memory ran out
    accum: int
    model: dict[str, Tensor]
    opt: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]  # by name: the state of a schedule, of a loss scaler, of averaged weights
    random: dict[str, Any]  # as `toolkit.learner.random_state.random_state` returns it


def write_state(path: Path, state: TrainState) -> None:
    """Write last.pt, whole and readable or not at all: it is read back before it replaces the old one.

    Raises OSError (disk full, read-only folder), and ValueError for a state that `read_state` would not take.
    """
    content = vars(state) | {"best": vars(state.best), "inside": vars(state.inside)}
    with replacing(path) as beside, beside.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch 2.14 puts an error of its own over the file's
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        try:
            read_state(beside, mmap=True)
        except ValueError as error:
            raise ValueError(
                f"the state of this run can't be kept in {path}, which stays as it was: {error}"
            ) from error


def write_best(folder: Path, model: nn.Module, epoch: int) -> None:
    """Write the weights of the best epoch beside best.safetensors, which `settle_best` replaces by them.

    last.pt is written in between. A kill, or a disk that is full, then leaves the best weights that last.pt tells of.
    """
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(folder / NEXT_BEST.format(epoch), safetensors.torch.save(weights))


def settle_best(folder: Path, state: TrainState) -> None:
    "Replace best.safetensors by the weights that `write_best` wrote, if they are of the best epoch of `state`."
    for path in folder.glob(NEXT_BEST.format("*")):
        if path.name == NEXT_BEST.format(state.best.epoch):
            path.replace(folder / "best.safetensors")
        else:
            path.unlink()


def resumed_state(folder: Path) -> TrainState | None:
    "`read_state` of the run in `folder`, whose best.safetensors then has the weights that the state tells of."
    state = read_state(folder / "last.pt")
    if state:
        settle_best(folder, state)
    return state


def read_state(path: Path, mmap: bool = False) -> TrainState | None:
    """Load last.pt with weights_only=True; None if it is missing. Raises ValueError if it is not our checkpoint.

    mmap: leave the tensors' values in the file, which must stay as long as they are used.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file makes torch.load raise anything
        raise ValueError(f"{path} can't be read ({reason_of(error)}): restore it, or begin a new run") from error
    content = upgraded(content)
    if not _is_state(content):
        raise ValueError(f"{path} is not a state that this version reads: begin a new run")
    parts = {"best": Best(**content["best"]), "inside": EpochProgress(**content["inside"])}
    return TrainState(**content | parts)


def upgraded(content: object) -> object:
    """Return the content of a last.pt as this version writes it, if an earlier version or this one wrote it.

    Commit 8bbe1e4 did not record the number of epochs planned, the best epoch's validation loss and the first learning
    rate of an unfinished epoch. The loss stands in the history; the other two become None.
    """
    if not isinstance(content, dict) or "epochs" in content:
        return content
    try:
        best, inside = content["best"], content["inside"]
        loss = content["history"][best["epoch"] - 1][HISTORY.index("valid_loss")] if best["epoch"] else math.inf
        return content | {"epochs": None, "best": {"loss": loss} | best, "inside": {"rate": None} | inside}
    except (IndexError, KeyError, TypeError):
        return content


def _names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() == _names(TrainState)
        and type(content["epoch"]) is int
        and type(content["epochs"]) in (int, type(None))
        and isinstance(content["history"], list)
        and len(content["history"]) == content["epoch"]
        and all(type(row) is list and len(row) - len(HISTORY) in (0, 1) for row in content["history"])  # see --best
        and all(isinstance(content[name], dict) for name in ("best", "inside"))
        and (content["best"].keys(), content["inside"].keys()) == (_names(Best), _names(EpochProgress))
    )
