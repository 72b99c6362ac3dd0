"The display of a run while it trains: a bar or plain lines, and its page."

import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext

from fastai.callback.core import Callback
from fastcore.imports import IN_NOTEBOOK

from toolkit.evaluation.results import HISTORY
from toolkit.learner.learner import Learner
from toolkit.pages.run_page import write_report
from toolkit.run import Run, load
from toolkit.training.checkpoint import Checkpoint

PAGE = 0.03  # share of a fit's time that goes into its page, at most


def shown(learn: Learner) -> AbstractContextManager:
    """Within it a fit shows fastai's bar in a notebook or a terminal, and elsewhere one plain line an epoch.

    The bar's control characters would flood a pipe or a file.
    """
    if IN_NOTEBOOK or (sys.stdout and sys.stdout.isatty()):
        return nullcontext()
    stack = ExitStack()
    for part in (learn.no_bar(), learn.no_logging(), learn.added_cbs(EpochLines())):
        stack.enter_context(part)
    return stack


class RunPage(Callback):
    "Writes report.html after an epoch, in at most PAGE of the time."

    order = 72  # after Checkpoint

    def __init__(self, run: Run):
        self.target, self.due = run, 0.0

    def after_epoch(self) -> None:
        start = time.perf_counter()
        if start < self.due:
            return
        try:
            write_report(load(self.target.folder))  # afresh: a Run keeps what it has read
        except OSError as error:
            self.learn.end_with(error)
        now = time.perf_counter()
        self.due = now + (1 / PAGE - 1) * (now - start)


class EpochLines(Callback):
    "One plain line an epoch, the row that went into history.csv."

    order = 75  # after Checkpoint

    def after_epoch(self) -> None:
        checkpoint = self.learn.callback(Checkpoint)
        row = dict(zip(HISTORY, checkpoint.rows[-1], strict=True))
        print(
            f"epoch {row['epoch']}/{checkpoint.epochs}  train_loss {row['train_loss']:.4f}  valid_loss "
            f"{row['valid_loss']:.4f}  accuracy {row['accuracy']:.4f}  lr {row['lr']:.1e}  {row['seconds']:.1f} s",
            flush=True,
        )
