"""The callback that writes a run's files, and goes on with the same bits from where last.pt stands."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from fastai.callback.core import Callback, CancelFitException

from toolkit import ranks
from toolkit.evaluation.best_epoch import best_row, history_columns
from toolkit.features.doubts import FILE, write_doubts
from toolkit.files import write_csv
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.finetuning.weight_average import WeightAverage
from toolkit.learner.accumulate import all_samples, loss_sum
from toolkit.learner.device import lacks_memory
from toolkit.learner.guards import NaNGuard
from toolkit.learner.random_state import random_state, set_random_state
from toolkit.learner.schedule import Unfit
from toolkit.run import Run
from toolkit.training.out_of_memory import StepStart, can_halve, halve_batch
from toolkit.training.restore import check_schedule, check_there, learner_state, restore
from toolkit.training.state import Best, EpochProgress, TrainState, resumed_state, settle_best, write_best, write_state


class Checkpoint(Callback):
    """Writes a run's files after each epoch, and goes on from where last.pt stands, inside an epoch too.

    last.pt is the truth: it holds the history too, so that a kill between two files loses and doubles nothing. The best
    weights are those of the best epoch by the figure `best`. last.pt is also written every `save_every` steps, and at
    the next step after `stop` was set, which then ends the fit with KeyboardInterrupt. A NaNGuard beside it keeps a
    loss that is not finite from being saved. Of several ranks the first writes; all stop at the same step.
    """

    order = 70  # after the Recorder and the schedule

    def __init__(self, run: Run, epochs: int, save_every: int = 0, best: str = "accuracy"):
        self.target, self.epochs, self.save_every, self.stop = run, epochs, save_every, False
        self.chosen_by, self.columns = best, history_columns(best)
        self.finished, self.rows, self.best, self.inside = 0, [], Best(), EpochProgress()
        self.halved: str | None = None  # the message on smaller batches, if memory ran out
        self.state = ranks.from_first(lambda: resumed_state(run.folder))  # the next fit goes on from it
        if self.state:
            self._go_to(self.state)
        self.saved, self.begun = self._position(), run.path("recipe.json").is_file()

    def _go_to(self, state: TrainState) -> None:
        self.finished, self.rows, self.best, self.inside = state.epoch, [*state.history], state.best, state.inside

    def _position(self) -> str:
        inside = f" and {self.inside.seen} photos of the next" if self.inside.seen else ""
        return f"{self.finished} of {self.epochs} epochs{inside}"

    # The events of fastai's loop

    def count_epochs(self) -> None:
        self.learn.epochs_done += self.finished
        self.learn.in_run, self.learn.resumed = True, bool(self.finished or self.inside.seen)

    def before_fit(self) -> None:
        self.random, self.step = None, StepStart(self.model)
        self.whole = False  # this epoch has been trained and validated, and is not written yet
        if self.state:
            try:
                check_schedule(self.learn, self.state, self.epochs)
                self._restore(self.state)
            except Unfit as error:
                self.learn.end_with(error)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                path, reason = self.target.path("last.pt"), f"{type(error).__name__}: {error}".splitlines()[0]
                self.learn.end_with(ValueError(f"{path} is not a state of this run ({reason}): begin a new one"))
        self.group = self.learn.accum

    def before_train(self) -> None:
        self.seen, self.total = self.inside.seen, 0.0 if ranks.rank() else self.inside.total
        self.dl.sampler_state.next_epoch, self.dl.sampler_state.skip = self.finished, self.seen
        self.skipped = self.seen // self.dl.bs
        self.start = time.perf_counter() - self.inside.seconds
        self.rate = self.opt.hypers[-1]["lr"] if self.inside.rate is None else self.inside.rate
        self._mark_step()  # before MixUp, and whatever else comes with a batch, draws

    def before_batch(self) -> None:
        if self.training:
            self.learn.iter += self.skipped

    def before_step(self) -> None:
        self.step.intact = False

    def after_step(self) -> None:
        self.step.intact = True

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
        probe = self.learn.callback(LinearProbe)
        if probe and probe.probing:  # an epoch without steps
            self.seen, loss = len(self.dls.data.train), torch.tensor(probe.found["loss"])
            self.total = 0 * loss if ranks.rank() else loss * self.seen
            self._mark_step()
            if probe.doubts is not None and ranks.rank() == 0:
                with self._writing():
                    write_doubts(self.target.path(FILE), probe.doubts)

    def after_validate(self) -> None:
        self.whole = True

    def after_epoch(self) -> None:
        self.finished, self.inside, self.whole = self.finished + 1, EpochProgress(), False
        found = {"lr": self.rate, "seconds": time.perf_counter() - self.start}
        found |= {"train_loss": ranks.total(self.total) / self.seen, "valid_loss": self.recorder.loss.value}
        found |= {metric.name: metric.value for metric in self.recorder.metrics}
        self.rows.append([self.finished, *(float(found[name]) for name in self.columns[1:])])
        if (best := best_row(self.rows, self.chosen_by))["epoch"] == self.finished:
            self.best = Best(self.finished, best["accuracy"], best["valid_loss"])
        with self._writing():
            if self.best.epoch == self.finished and ranks.rank() == 0:
                average = self.learn.callback(WeightAverage)
                write_best(self.target.folder, average.validated if average else self.model, self.finished)
            self._write(self._state(self.inside, random_state()))
            self.write_history()

    def after_cancel_fit(self) -> None:
        self.halved = self._halve() if lacks_memory(self.learn.fault) else None
        if self.whole and self.learn.fault is None:  # ended by a callback before this one, such as fastai's early stop
            with suppress(CancelFitException):  # of an error in writing, which is the fit's fault then
                self.after_epoch()

    # Files

    def write_history(self) -> None:
        "Write history.csv, as last.pt has it."
        if ranks.rank() == 0:
            write_csv(self.target.path("history.csv"), self.columns, self.rows)

    def _save_step(self) -> None:
        self.learn.callback(NaNGuard).check()
        with self._writing():
            self._write(self._state(replace(self.inside, total=ranks.total(self.inside.total)), self.step.random))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        "An error in the block ends the fit. So does a run folder that is no longer there: it would be made anew."
        try:
            if self.begun:
                check_there(self.target.folder)
            yield
        except OSError as error:
            self.learn.end_with(error)

    def _write(self, state: TrainState) -> None:
        if ranks.rank() == 0:
            write_state(self.target.path("last.pt"), state)
            settle_best(self.target.folder, state)
        self.saved = self._position()

    def _mark_step(self) -> None:
        "Remember what the next optimiser step begins with."
        if self.random:  # a resumed epoch's first
            set_random_state(self.random)
            self.random = None
        self.inside = EpochProgress(self.seen, self.total, time.perf_counter() - self.start, self.rate)
        self.step.mark()

    def _state(self, inside: EpochProgress, random: dict[str, Any]) -> TrainState:
        own = self.finished, self.epochs, self.rows, self.best, inside
        return TrainState(*own, **learner_state(self.learn), random=random)

    def _restore(self, state: TrainState) -> None:
        restore(self.learn, state)
        self._go_to(state)
        if self.inside == EpochProgress():
            set_random_state(state.random)
        else:
            self.random = state.random  # to be set at the first step, after the data loader has drawn

    def _halve(self) -> str | None:
        "Have the next fit begin at the last step, with smaller batches. Return the line on it, None if it can't."
        if not can_halve(self.learn, self.step):
            return None
        self.step.restore_averages()
        state = self._state(self.inside, self.step.random)
        if (smaller := halve_batch(state)) is None:
            return None
        self.state = smaller
        batches = f"{smaller.accum} batches of {smaller.bs} to a step, not {state.accum} of {state.bs}"
        return f"out of memory: going on with {batches}"
