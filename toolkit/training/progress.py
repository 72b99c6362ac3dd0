"""Progress of a run while it trains: a bar or plain lines, and its page."""

import statistics
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext

from fastai.callback.core import Callback
from fastcore.imports import IN_NOTEBOOK

from toolkit.evaluation.best_epoch import HISTORY
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.learner.learner import Learner
from toolkit.pages.run_page import write_report
from toolkit.run import Run, load
from toolkit.training.checkpoint import Checkpoint

PAGE = 0.03  # share of a fit's time that goes into its page, at most
SHOWN = 10  # seconds that a page is there to be looked at before the last one is written, at least


def shown(learn: Learner) -> AbstractContextManager:
    """Inside, a fit shows fastai's bar in a notebook or a terminal, else one plain line an epoch.

    The bar's control characters would flood a pipe or a file.
    """
    if IN_NOTEBOOK or (sys.stdout and sys.stdout.isatty()):
        return nullcontext()
    stack = ExitStack()
    for part in (learn.no_bar(), learn.no_logging(), learn.added_cbs(EpochLines())):
        stack.enter_context(part)
    return stack


class RunPage(Callback):
    "Writes report.html after an epoch, in at most PAGE of the time, if training goes on for SHOWN seconds or more."

    order = 72  # after Checkpoint

    def __init__(self, run: Run):
        self.target, self.due = run, 0.0

    def after_epoch(self) -> None:
        start, checkpoint = time.perf_counter(), self.learn.callback(Checkpoint)
        seconds = checkpoint.rows[-1][checkpoint.columns.index("seconds")]
        if start < self.due or (checkpoint.epochs - checkpoint.finished) * seconds < SHOWN:
            return
        try:
            write_report(load(self.target.folder))  # a new Run, because a Run caches what it has read
        except OSError as error:
            self.learn.end_with(error)
        now = time.perf_counter()
        self.due = now + (1 / PAGE - 1) * (now - start)


class EpochLines(Callback):
    """One plain line an epoch: the row that went into history.csv, and the time that is left.

    That time is the median duration of the epochs that this process has trained, for each epoch to come. A linear probe
    is no such epoch. What comes after training is not in it.
    """

    order = 75  # after Checkpoint

    def __init__(self):
        self.seconds: list[float] = []
        self.probed = False  # this epoch was a linear probe

    def after_train(self) -> None:
        probe = self.learn.callback(LinearProbe)
        self.probed = bool(probe and probe.probing)

    def after_epoch(self) -> None:
        checkpoint = self.learn.callback(Checkpoint)
        row = dict(zip(checkpoint.columns, checkpoint.rows[-1], strict=True))
        chosen = "".join(f"  {name} {row[name]:.4f}" for name in checkpoint.columns[len(HISTORY) :])
        if not self.probed:
            self.seconds.append(row["seconds"])
        probe = "  linear probe" if self.probed else ""
        print(
            f"epoch {row['epoch']}/{checkpoint.epochs}  train_loss {row['train_loss']:.4f}  valid_loss "
            f"{row['valid_loss']:.4f}  accuracy {row['accuracy']:.4f}{chosen}  lr {row['lr']:.1e}  "
            f"{row['seconds']:.1f} s{probe}{time_left(self.seconds, checkpoint.epochs - row['epoch'])}",
            flush=True,
        )


def time_left(seconds: list[float], epochs: int) -> str:
    "Words on the time that `epochs` more epochs take if they take the median of `seconds`; none if either is empty."
    if not seconds or epochs <= 0:
        return ""
    left = epochs * statistics.median(seconds)
    if left < 99.5:
        return f"  about {left:.0f} s left"
    minutes = left / 60
    return f"  about {minutes:.0f} min left" if minutes < 99.5 else f"  about {minutes / 60:.1f} h left"
