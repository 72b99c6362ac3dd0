"""An ordinary fastai Learner around a model and its loaders; and that of a run, rebuilt without unpickling."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

import fastai.callback.hook  # noqa: F401  gives Learner summary
import fastai.callback.schedule  # noqa: F401  gives it lr_find, fit_one_cycle, fine_tune
import fastai.vision.learner  # noqa: F401  knows how show_batch, show_results and plot_top_losses draw photos
import torch
from fastai.callback.core import Callback, CancelFitException, TrainEvalCallback
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import CastToTensor
from fastai.learner import Learner as FastaiLearner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed as set_seed  # for recipes, where an import of fastai would come before toolkit's
from fastai.torch_core import trainable_params
from fastcore.basics import listify
from torch import nn

from toolkit.data.workers import kept_workers
from toolkit.learner.callbacks import LastPhoto, LossScaler, Progress, Recorder
from toolkit.learner.device import mixed_precision, pick_precision
from toolkit.learner.performance import Layout, at_speed, compiled, uncompiled, whole_batches


class Validation(Callback):
    "There while `Learner.validate` runs."


class Learner(FastaiLearner):
    """fastai's Learner, whose `fit` is tidy after an error or Ctrl-C too: they end it as fastai's own cancelling does,
    so that every callback puts back what it changed and the model is in eval mode, and then go on their way.
    Torch's global flags, the memory that steps leave to one another and the workers are kept for its passes only.
    """

    fault: BaseException | None = None
    exact, precision = False, "fp32"

    def to_fp16(self) -> "Learner":
        "The forward pass in float16 from now on, with the loss scaled; what `precision` is in a recipe."
        return self._to("fp16")

    def to_bf16(self) -> "Learner":
        "The forward pass in bfloat16 from now on. Raises ValueError for a GPU that lacks it."
        return self._to("bf16")

    def to_fp32(self) -> "Learner":
        "The forward pass in float32 from now on."
        return self._to("fp32")

    def _to(self, precision: str) -> "Learner":
        self.precision = pick_precision(precision, self.dls.device)
        mixed_precision(self.model, self.dls.device, precision)
        self.remove_cbs([callback for callback in self.cbs if isinstance(callback, LossScaler)])
        if precision == "fp16":
            self.add_cb(LossScaler())
        return self

    def add_cb(self, cb: Callback | type[Callback]) -> "Learner":
        "fastai's. Raises ValueError for one that would do again what this learner does."
        cb = cb() if isinstance(cb, type) else cb
        if isinstance(cb, MixedPrecision | NonNativeMixedPrecision):
            raise ValueError(
                "fastai's MixedPrecision beside our own precision: call learn.to_fp16() or to_bf16() instead"
            )
        if isinstance(cb, GradientAccumulation):
            raise ValueError(
                "fastai's GradientAccumulation beside our own: give --accum instead, accum= in a notebook, the number "
                "of mini-batches to an optimiser step"
            )
        return super().add_cb(cb)

    def validate(
        self, ds_idx: int = 1, dl: DataLoader | None = None, cbs: Callback | Iterable[Callback] | None = None
    ) -> list:
        "fastai's, which callbacks can tell from a fit: see `toolkit.learner.schedule.is_plain_fit`."
        return super().validate(ds_idx, dl, [Validation(), *listify(cbs)])

    def end_with(self, error: BaseException) -> NoReturn:
        "Called by a callback: end the fit, which then raises `error` as it is; fastai would put words before it."
        self.fault = error
        raise CancelFitException

    def _call_one(self, event_name: str) -> None:
        "fastai's, past callbacks that have nothing to do: to look for it takes it longer than most of them work."
        for callback in self.cbs.sorted("order"):
            if hasattr(type(callback), event_name) or event_name in vars(callback) or event_name == "after_fit":
                callback(event_name)

    def _do_fit(self) -> None:
        try:
            with at_speed(self.dls.device, self.exact), whole_batches(self.dls.device, self.exact):
                with kept_workers(self.dls):
                    super()._do_fit()
        except CancelFitException:
            raise
        except (Exception, KeyboardInterrupt) as error:
            self.end_with(error)

    def _do_one_batch(self) -> None:
        short = len(self.xb[0]) < (getattr(self.dl, "bs", None) or 0)
        with uncompiled() if short else nullcontext():
            super()._do_one_batch()

    def _do_epoch_validate(self, ds_idx: int = 1, dl: DataLoader | None = None) -> None:
        with at_speed(self.dls.device, self.exact):
            super()._do_epoch_validate(ds_idx, dl)

    def _end_cleanup(self) -> None:
        super()._end_cleanup()
        fault, self.fault = self.fault, None
        if fault is not None:
            self.model.eval()
            self.opt.zero_grad()
            raise fault


def make_learner(
    dls: DataLoaders,
    model: nn.Module,
    loss: nn.Module,
    lr: float,
    precision: str = "fp32",
    cbs: Iterable[Callback] = (),
    exact: bool = False,
    compile: bool = False,
    splitter: Callable[[nn.Module], list] = trainable_params,
) -> Learner:
    """A fastai Learner: torch's AdamW with its defaults at `lr`, accuracy, forward passes in `precision`, `cbs`.

    It computes channels last, with a fused optimiser and on CUDA in TF32, or, for `exact`, to the bit what a plain loop
    does. `compile` has torch compile the forward pass and its gradient, which rounds in yet another way; a mini-batch
    that is short, as an epoch's last one, is computed without, because torch would compile again for its size.
    `learn.precision` says which precision. Everything fastai's Learner has works on it.
    """
    memory_format = torch.contiguous_format if exact else torch.channels_last
    own = [TrainEvalCallback(), Recorder(), Progress(), CastToTensor(), Layout(memory_format), LastPhoto()]
    own += [LossScaler()] if precision == "fp16" else []
    learn = Learner(
        dls,
        mixed_precision(model.to(dls.device, memory_format=memory_format), dls.device, precision),
        loss_func=loss,
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, **({} if exact else {"fused": True})),
        lr=lr,
        splitter=splitter,
        metrics=accuracy,
        path=Path(),  # lr_find saves below it; the data's folder, fastai's default, may be read-only and is not ours
        default_cbs=False,
        cbs=[*own, *cbs],
    )
    learn.precision, learn.exact = precision, exact
    if compile:
        compiled(model, dls.device)
    return learn
