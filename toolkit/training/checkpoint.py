"""The callback that writes a run's files, and resumes from last.pt with the same bits."""

import time
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from fastai.callback.core import Callback

from toolkit import ranks
from toolkit.evaluation.results import HISTORY
from toolkit.files import write_atomic, write_csv
from toolkit.finetuning.linear_probe import LinearProbe
from toolkit.learner.accumulate import AccumulateGradients, all_samples, loss_sum
from toolkit.learner.guards import NaNGuard
from toolkit.learner.random_state import random_state, set_random_state
from toolkit.learner.schedule import Unfit
from toolkit.run import Run
from toolkit.training.learner_state import check_schedules, evaluated_weights, restore_learner, stateful_parts
from toolkit.training.out_of_memory import StepStart, halve_batch
from toolkit.training.state import Best, EpochProgress, TrainState, read_state, write_state


class Checkpoint(Callback):
    """Writes a run's files after each epoch, and resumes from last.pt, inside an epoch too.

    last.pt is the truth. It also holds the history, so that a kill between two files loses and repeats no row. The best
    weights are those with the highest validation accuracy; among equals, those with the lowest validation loss. last.pt
    is also written every `save_every` optimiser steps. If `stop` is set, it is written at the next step, and the fit
    ends with KeyboardInterrupt. The learner needs a NaNGuard too: it keeps weights from being saved after a loss that
    is not finite. Rank 0 reads and writes, and all ranks stop at the same step.
    """

    order = 70  # after the Recorder and the schedule

    def __init__(self, run: Run, epochs: int, save_every: int = 0):
        self.target, self.epochs, self.save_every, self.stop = run, epochs, save_every, False
        self.finished, self.rows, self.best, self.inside = 0, [], Best(), EpochProgress()
        self.halved: str | None = None  # the message on smaller batches, if memory ran out
        self.state = ranks.from_first(lambda: read_state(run.path("last.pt")))  # the next fit goes on from it
        if self.state:
            self._go_to(self.state)
        self.saved = self._position()

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
        if self.state:
            try:
                check_schedules(self.learn, self.state, self.epochs)
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
        self._mark_step()  # before MixUp and the like draw random numbers in a batch

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

    def after_epoch(self) -> None:
        self.finished, self.inside = self.finished + 1, EpochProgress()
        accuracy, loss = float(self.recorder.metrics[0].value), float(self.recorder.loss.value)
        figures = float(ranks.total(self.total)) / self.seen, loss, accuracy, self.rate
        self.rows.append([self.finished, *figures, time.perf_counter() - self.start])
        try:
            if (accuracy, -loss) > (self.best.accuracy, -self.best.loss):
                self.best = Best(self.finished, accuracy, loss)
                self._write_best()
            self._write(self._state(self.inside, random_state()))
            self.write_history()
        except OSError as error:
            self.learn.end_with(error)

    def after_cancel_fit(self) -> None:
        self.halved = self._halve() if isinstance(self.learn.fault, torch.OutOfMemoryError) else None

    # Files

    def _write_best(self) -> None:
        if ranks.rank() == 0:
            write_atomic(self.target.path("best.safetensors"), safetensors.torch.save(evaluated_weights(self.learn)))

    def write_history(self) -> None:
        "Write history.csv with the rows that last.pt holds."
        if ranks.rank() == 0:
            write_csv(self.target.path("history.csv"), HISTORY, self.rows)

    def _save_step(self) -> None:
        self.learn.callback(NaNGuard).check()
        inside = replace(self.inside, total=ranks.total(self.inside.total))
        try:
            self._write(self._state(inside, self.step.random))
        except OSError as error:
            self.learn.end_with(error)

    def _write(self, state: TrainState) -> None:
        if ranks.rank() == 0:
            write_state(self.target.path("last.pt"), state)
        self.saved = self._position()

    # The state

    def _mark_step(self) -> None:
        "Remember the state at the start of the next optimiser step."
        if self.random:  # at the first step of a resumed epoch
            set_random_state(self.random)
            self.random = None
        self.inside = EpochProgress(self.seen, self.total, time.perf_counter() - self.start, self.rate)
        self.step.mark()

    def _state(self, inside: EpochProgress, random: dict[str, Any]) -> TrainState:
        return TrainState(
            epoch=self.finished,
            epochs=self.epochs,
            history=self.rows,
            best=self.best,
            inside=inside,
            bs=self.dls.train.bs,
            accum=self.group,
            model=self.model.state_dict(),
            opt=self.opt.state_dict(),
            callbacks={name: part.state_dict() for name, part in stateful_parts(self.learn).items()},
            random=random,
        )

    def _restore(self, state: TrainState) -> None:
        self._go_to(state)
        restore_learner(self.learn, state)
        if self.inside == EpochProgress():
            set_random_state(state.random)
        else:
            self.random = state.random  # set at the first step, after the data loader has drawn

    def _halve(self) -> str | None:
        """Let the next fit start at the last optimiser step with batches half as large. Return the message on it.

        Return None if that is not possible: the batch has one photo, the learner has no AccumulateGradients, the
        optimiser stopped half-way, or other ranks wait for this one inside the step.
        """
        accumulate = self.learn.callback(AccumulateGradients)
        if self.step.random is None or not self.step.intact or ranks.count() > 1 or accumulate is None:
            return None
        self.step.restore_averages()
        state = self._state(self.inside, self.step.random)
        smaller = halve_batch(state)
        if smaller is None:
            return None
        self.state = smaller
        less, more = f"{smaller.accum} batches of {smaller.bs}", f"{state.accum} of {state.bs}"
        return f"out of memory: going on with {less} to a step, not {more}"
