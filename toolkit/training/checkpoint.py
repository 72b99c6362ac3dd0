"""The state that a run goes on from with the same bits: in last.pt after each epoch, and at steps inside one."""

import math
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from fastai.callback.core import Callback
from torch.optim.lr_scheduler import LRScheduler

from toolkit import ranks
from toolkit.errors import reason_of
from toolkit.evaluation.results import HISTORY
from toolkit.files import replacing, write_atomic, write_csv
from toolkit.learner.callbacks import all_samples, loss_sum
from toolkit.learner.performance import by_dtype
from toolkit.learner.random_state import random_state, set_random_state
from toolkit.learner.schedule import Unfit, check_extended
from toolkit.run import Run

BEGIN = {"seen": 0, "total": 0.0, "seconds": 0.0, "rate": None}
"How an epoch begins: photos trained on, the sum of their losses, seconds, its first learning rate."
NO_BEST = {"epoch": 0, "accuracy": -1.0, "loss": math.inf}
STATE = set("epoch epochs history best inside bs accum model opt callbacks random".split())  # what last.pt holds


class Checkpoint(Callback):
    """Writes a run's files after each epoch, and goes on from where last.pt stands, inside an epoch too.

    last.pt is the truth: it holds the history too, so that a kill between two files loses and doubles nothing. Weights
    are the best by validation accuracy; of equals by validation loss. last.pt is written every `save_every` optimiser
    steps too, and at the next one after `stop` was set, which then ends the fit with KeyboardInterrupt. Needs
    FiniteLoss beside it: what a loss that is not finite has reached is never saved. Of several processes the first
    reads and writes, and all of them stop at the same step.
    """

    order = 70  # after the Recorder and the schedule

    def __init__(self, run: Run, epochs: int, save_every: int = 0):
        self.target, self.epochs, self.save_every, self.stop = run, epochs, save_every, False
        self.state = ranks.from_first(lambda: read_state(run.path("last.pt")))
        self._stand(self.state or {"epoch": 0, "history": [], "best": NO_BEST, "inside": BEGIN})
        self.saved = self._position()

    def _stand(self, state: dict[str, Any]) -> None:
        self.finished, self.rows, self.best = state["epoch"], list(state["history"]), state["best"]
        self.inside = state["inside"]

    def _position(self) -> str:
        inside = f" and {self.inside['seen']} photos of the next" if self.inside["seen"] else ""
        return f"{self.finished} of {self.epochs} epochs{inside}"

    # The events of fastai's loop

    def before_fit(self) -> None:
        self.random, self.mark, self.stepping = None, None, False
        statistics = list(self.model.buffers())
        self.kept = by_dtype(
            [torch.empty_like(tensor) for tensor in statistics], statistics
        )  # made once, used each step
        if self.state:
            try:
                self._check_extended(self.state)
                self._restore(self.state)
            except Unfit as error:
                self.learn.end_with(error)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                path, reason = self.target.path("last.pt"), f"{type(error).__name__}: {error}".splitlines()[0]
                self.learn.end_with(ValueError(f"{path} is not a state of this run ({reason}): begin a new one"))
        self.group = self.accumulate.n if hasattr(self.learn, "accumulate") else 1

    def before_train(self) -> None:
        self.seen, self.total = self.inside["seen"], 0.0 if ranks.rank() else self.inside["total"]
        self.dl.draws.next_epoch, self.dl.draws.skip = self.finished, self.seen
        self.skipped = self.seen // self.dl.bs
        self.start = time.perf_counter() - self.inside["seconds"]
        self.rate = self.opt.hypers[-1]["lr"] if self.inside["rate"] is None else self.inside["rate"]
        self._mark_step()  # before MixUp, and what else comes with a mini-batch, draws

    def before_batch(self) -> None:
        if self.training:
            self.learn.iter += self.skipped

    def before_step(self) -> None:
        self.stepping = True

    def after_step(self) -> None:
        self.stepping = False

    def after_batch(self) -> None:
        if self.training:
            self.total = self.total + loss_sum(self.learn)
            self.seen = self.seen + all_samples(self.learn)
            if (self.iter + 1) % self.group and self.iter + 1 < self.n_iter:
                return  # between two optimiser steps
            self._mark_step()
        stop = ranks.largest(self.stop)
        if stop or (self.training and self.save_every and (self.iter + 1) // self.group % self.save_every == 0):
            self._save_step()
        if stop:
            self.learn.end_with(ranks.end(KeyboardInterrupt()))

    def after_train(self) -> None:
        if self.inside["seen"] != self.seen:  # a probe's epoch, which has no steps
            self._mark_step()

    def after_epoch(self) -> None:
        self.finished, self.inside = self.finished + 1, BEGIN
        accuracy, loss = float(self.recorder.metrics[0].value), float(self.recorder.loss.value)
        figures = float(ranks.total(self.total)) / self.seen, loss, accuracy, self.rate
        self.rows.append([self.finished, *figures, time.perf_counter() - self.start])
        try:
            if (accuracy, -loss) > (self.best["accuracy"], -self.best["loss"]):
                self.best = {"epoch": self.finished, "accuracy": accuracy, "loss": loss}
                self._write_best()
            self._write(self._state() | {"random": random_state()})
            self.write_history()
        except OSError as error:
            self.learn.end_with(error)

    def after_cancel_fit(self) -> None:
        self.halved = self._halve() if isinstance(self.learn.fault, torch.OutOfMemoryError) else None

    def _write_best(self) -> None:
        if ranks.rank() == 0:
            model = self.average.better if hasattr(self.learn, "average") else self.model
            weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            write_atomic(self.target.path("best.safetensors"), safetensors.torch.save(weights))

    def write_history(self) -> None:
        "history.csv, as last.pt has it."
        if ranks.rank() == 0:
            write_csv(self.target.path("history.csv"), HISTORY, self.rows)

    # Where a step begins, and the state there

    def _mark_step(self) -> None:
        "Remember what the next optimiser step begins with and its forward passes change."
        if self.random:  # a resumed epoch's first
            set_random_state(self.random)
            self.random = None
        passed = time.perf_counter() - self.start
        self.inside = {"seen": self.seen, "total": self.total, "seconds": passed, "rate": self.rate}
        for kept, statistics in self.kept:
            torch._foreach_copy_(kept, statistics)
        self.mark = random_state()

    def _save_step(self) -> None:
        self.finite_loss.check()
        inside = self.inside | {"total": ranks.total(self.inside["total"])}
        try:
            self._write(self._state() | {"inside": inside, "random": self.mark})
        except OSError as error:
            self.learn.end_with(error)

    def _write(self, state: dict[str, Any]) -> None:
        if ranks.rank() == 0:
            write_state(self.target.path("last.pt"), state)
        self.saved = self._position()

    def _state(self) -> dict[str, Any]:
        "All that a resume needs but the generators, of types that torch.load(weights_only=True) takes."
        return {
            "epoch": self.finished,
            "epochs": self.epochs,
            "history": self.rows,
            "best": self.best,
            "inside": self.inside,
            "bs": self.dls.train.bs,
            "accum": self.group,
            "model": self.model.state_dict(),
            "opt": self.opt.state_dict(),
            "callbacks": {name: part.state_dict() for name, part in self._parts().items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._stand(state)
        self.model.load_state_dict(state["model"])
        self.opt.load_state_dict(state["opt"])
        for name, part in self._parts().items():
            part.load_state_dict(state["callbacks"][name])
        self.dls.train.bs = self.dls.valid.bs = state["bs"]  # smaller than asked for where memory ran out
        if hasattr(self.learn, "accumulate"):
            self.accumulate.n = state["accum"]
        if self.inside == BEGIN:
            set_random_state(state["random"])
        else:
            self.random = state["random"]

    def _check_extended(self, state: dict[str, Any]) -> None:
        "Raises Unfit for more epochs than the run was planned for, if its schedule can't follow."
        for name, part in self._parts().items() if self.epochs > state["epochs"] else ():
            if isinstance(part, LRScheduler):
                check_extended(part, state["callbacks"][name])

    def _parts(self) -> dict[str, Any]:
        "Parts that keep state from step to step: the schedule, the loss scale and the average of the weights."
        names = ("scheduler", "scaler", "averaged")
        return {cb.name: getattr(cb, name) for cb in self.learn.cbs for name in names if name in vars(cb)}

    # Out of memory

    def _halve(self) -> str | None:
        """Have the next fit begin at the last optimiser step, the same photos to a step in mini-batches half as large.

        What to say about that; None where it can't be done: one photo a mini-batch, a learner without Accumulate, an
        optimiser that stopped half-way, or other processes, which wait for this one inside the step.
        """
        photos, bs = self.group * self.dls.train.bs, self.dls.train.bs
        alone = ranks.count() == 1
        if self.mark is None or self.stepping or bs == 1 or not hasattr(self.learn, "accumulate") or not alone:
            return None
        with torch.no_grad():
            for kept, statistics in self.kept:
                torch._foreach_copy_(statistics, kept)
        smaller = next(size for size in range(bs // 2, 0, -1) if photos % size == 0)
        accum = photos // smaller
        self.state = self._state() | {"random": self.mark, "bs": smaller, "accum": accum}
        return f"out of memory: going on with {accum} mini-batches of {smaller} to a step, not {self.group} of {bs}"


def write_state(path: Path, state: dict[str, Any]) -> None:
    """last.pt, whole and readable or not at all: it is read back before it takes the old one's place.

    Raises OSError (disk full, read-only folder), and ValueError for a state that `read_state` would not take.
    """
    with replacing(path) as beside, beside.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch 2.14 puts an error of its own over the file's
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        try:
            read_state(beside, mmap=True)
        except ValueError as error:
            raise ValueError(
                f"the state of this run can't be kept in {path}, which stays as it was: {error}"
            ) from error


def read_state(path: Path, mmap: bool = False) -> dict[str, Any] | None:
    """Load last.pt with weights_only=True; None if it is missing. Raises ValueError if it is not our checkpoint.

    mmap: leave the tensors' values in the file, which must stay as long as they are used.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file makes torch.load raise anything
        raise ValueError(f"{path} can't be read ({reason_of(error)}): restore it, or begin a new run") from error
    if not _is_state(state):
        raise ValueError(f"{path} is not a state that this version writes: begin a new run")
    return state


def _is_state(state: object) -> bool:
    return (
        isinstance(state, dict)
        and state.keys() == STATE
        and type(state["epoch"]) is type(state["epochs"]) is int
        and isinstance(state["history"], list)
        and [type(row) is list and len(row) for row in state["history"]] == [len(HISTORY)] * state["epoch"]
        and all(isinstance(state[name], dict) for name in ("best", "inside"))
        and (state["best"].keys(), state["inside"].keys()) == (NO_BEST.keys(), BEGIN.keys())
    )
