"""A fastai Learner around a model and its data loaders, with declared attributes for its callbacks."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import fastai.callback.hook  # noqa: F401  gives Learner summary
import fastai.callback.schedule  # noqa: F401  gives Learner lr_find, fit_one_cycle, fine_tune
import fastai.vision.learner  # noqa: F401  knows how show_batch, show_results and plot_top_losses draw photos
from fastai.callback.core import Callback, CancelFitException, TrainEvalCallback
from fastai.data.load import DataLoader
from fastai.learner import CastToTensor
from fastai.learner import Learner as FastaiLearner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from fastai.torch_core import trainable_params
from fastcore.basics import listify
from torch import nn
from torch.optim import AdamW, Optimizer

from toolkit.data.dataloaders import PhotoLoaders
from toolkit.data.workers import kept_workers
from toolkit.learner.accumulate import AccumulateGradients
from toolkit.learner.cuda_graphs.callback import CudaGraphs
from toolkit.learner.device import mixed_precision, pick_precision
from toolkit.learner.guards import OTHER_FITS, LastPhoto, Validation, checked_callback
from toolkit.learner.loss_scaler import LossScaler
from toolkit.learner.performance import ChannelsLast, compiled, fast_math, layout_for, uncompiled, whole_batches
from toolkit.learner.profiler import EpochTimer, Profile
from toolkit.learner.recorder import Progress, Recorder
from toolkit.models.frozen_body import freeze_body
from toolkit.options import FREE_NAMES, Options
from toolkit.ranges import check_ranges

SomeCallback = TypeVar("SomeCallback", bound=Callback)
Callbacks = Callback | Iterable[Callback] | None


class Learner(FastaiLearner):
    """fastai's Learner, which also cleans up after an error or Ctrl-C, and has attributes that callbacks read.

    An error ends `fit` as fastai's own cancelling does: every callback restores what it changed, and the model is in
    eval mode. Then the error is raised. torch's global flags, the memory that one step leaves to the next and the
    workers are kept during a fit's passes only.

    One event comes before fastai's `before_fit`: in `count_epochs` a run's checkpoint and a linear probe set
    `epochs_done`, `in_run` and `resumed`. Schedules compute the length of the whole fit from them.
    """

    options: Options = Options()  # the values finally used
    own_options: Mapping[str, Any] = MappingProxyType({})  # the recipe's own options beside the shared ones
    free: frozenset[str] = FREE_NAMES  # options that may change when the run is resumed
    recipe: str = "own"  # the recipe's name
    command: Sequence[str] = ()  # what starts the recipe's command, such as python -m recipes.hw1
    folder: Path | None = None  # of the run to come, where a search keeps what it has done
    plan: Callable[["Learner"], None] | None = None  # called once after `auto` was searched; it may change the epochs
    precision: str = "fp32"  # of the forward pass
    exact: bool = False  # computes to the bit what a plain loop does
    fault: BaseException | None = None  # the error that ends this fit
    epochs_done: int = 0  # training epochs before this fit, of the run it resumes; -1 if a linear probe comes first
    in_run: bool = False  # this fit is a run's: training.fit.fit writes its files
    resumed: bool = False  # the run has trained before this fit
    lr_curve: Any = None  # toolkit.evaluation.results.Curve, measured by the learning-rate finder
    time_spent: EpochTimer | None = None  # of the last run
    profiles: Sequence[Profile] = ()  # of the last run, if --profile was given
    searched: Mapping[str, Any] = MappingProxyType({})  # what searches compared, for recipe.json

    def callback(self, kind: type[SomeCallback]) -> SomeCallback | None:
        "The first callback of class `kind`, None if there is none."
        return next((callback for callback in self.cbs if isinstance(callback, kind)), None)

    @property
    def accum(self) -> int:
        "Batches per optimiser step."
        return accumulate.n if (accumulate := self.callback(AccumulateGradients)) else 1

    def optimizer_steps(self, epochs: int | None = None) -> int:
        "Optimiser steps of `epochs` epochs; by default of the whole fit, including those a resumed run has taken."
        epochs = self.epochs_done + self.n_epoch if epochs is None else epochs
        return epochs * -(-len(self.dls.train) // self.accum)

    @property
    def is_plain_fit(self) -> bool:
        "True in `fit`. fastai also runs predictions, validate and lr_find as fits; fit_one_cycle has its own schedule."
        return self.opt is not None and not any(isinstance(callback, OTHER_FITS) for callback in self.cbs)

    def to_fp16(self) -> "Learner":
        "Compute the forward pass in float16 from now on, with the loss scaled."
        return self._to("fp16")

    def to_bf16(self) -> "Learner":
        "Compute the forward pass in bfloat16 from now on. Raises ValueError for a GPU that lacks it."
        return self._to("bf16")

    def to_fp32(self) -> "Learner":
        "Compute the forward pass in float32 from now on."
        return self._to("fp32")

    def _to(self, precision: str) -> "Learner":
        self.precision = pick_precision(precision, self.dls.device)
        mixed_precision(self.model, self.dls.device, precision)
        self.remove_cbs([callback for callback in self.cbs if isinstance(callback, LossScaler)])
        return self.add_cbs([LossScaler()] * (precision == "fp16"))

    def add_cb(self, cb: Callback | type[Callback]) -> "Learner":
        "fastai's. Raises ValueError for a callback that repeats a part of this learner."
        return super().add_cb(checked_callback(cb))

    def freeze(self) -> None:
        "Train the classifier and the norms only, whatever the optimiser's groups are; `unfreeze` ends it."
        self.unfreeze()
        freeze_body(self.model)

    def validate(self, ds_idx: int = 1, dl: DataLoader | None = None, cbs: Callbacks = None) -> list:
        "fastai's. `is_plain_fit` is False meanwhile."
        return super().validate(ds_idx, dl, [Validation(), *listify(cbs)])

    def end_with(self, error: BaseException) -> NoReturn:
        "End the fit; for callbacks. `fit` then raises `error` itself; fastai would change its message."
        self.fault = error
        raise CancelFitException

    def _call_one(self, event_name: str) -> None:
        "Skip callbacks without this event; fastai's lookup costs more than most callbacks do."
        if event_name == "before_fit":
            self.epochs_done, self.in_run, self.resumed = 0, False, False
            self._call_one("count_epochs")
        for callback in self.cbs.sorted("order"):
            if hasattr(type(callback), event_name) or event_name in vars(callback) or event_name == "after_fit":
                callback(event_name)

    def _do_fit(self) -> None:
        try:
            with fast_math(self.dls.device, self.exact), whole_batches(self.dls.device, self.exact):
                with kept_workers(self.dls):
                    super()._do_fit()
        except CancelFitException:
            raise
        except (Exception, KeyboardInterrupt) as error:
            self.end_with(error)

    def _do_one_batch(self) -> None:
        size = self.dl.bs if isinstance(self.dl, DataLoader) else None  # None too if its data set makes the batches
        with uncompiled() if len(self.xb[0]) < (size or 0) else nullcontext():
            super()._do_one_batch()

    def _do_epoch_validate(self, ds_idx: int = 1, dl: DataLoader | None = None) -> None:
        with fast_math(self.dls.device, self.exact):
            super()._do_epoch_validate(ds_idx, dl)

    def _end_cleanup(self) -> None:
        super()._end_cleanup()
        fault, self.fault = self.fault, None
        if fault is not None:
            self.model.eval()
            self.opt.zero_grad()
            raise fault


def make_learner(
    options: Options,
    dls: PhotoLoaders,
    model: nn.Module,
    loss: nn.Module,
    opt_func: Callable[..., Optimizer] = AdamW,
    cbs: Iterable[Callback] = (),
    splitter: Callable[[nn.Module], list] = trainable_params,
) -> Learner:
    """Return a fastai Learner with a torch optimiser at --lr, accuracy as metric, --precision and the callbacks `cbs`.

    It computes channels last, with a fused optimiser if torch has one, and on CUDA in TF32. With --exact its results
    are those of a plain loop, to the bit. With --compile torch compiles the forward pass and its gradient; their
    rounding then differs. A short batch is computed without. With --cuda_graphs it has the callback `CudaGraphs`.
    options: `toolkit.learner.device.resolved`, with a number for --lr. opt_func: such as `partial(SGD, momentum=0.9)`.
    """
    check_ranges({"lr": options.lr})
    memory_format = layout_for(model, dls.device, options.exact)
    own = [TrainEvalCallback(), Recorder(), Progress(), CastToTensor(), ChannelsLast(memory_format), LastPhoto()]
    own += [LossScaler()] * (options.precision == "fp16") + [CudaGraphs()] * options.cuda_graphs
    fused = {} if options.exact or "fused" not in inspect.signature(opt_func).parameters else {"fused": True}
    learn = Learner(
        dls,
        mixed_precision(model.to(dls.device, memory_format=memory_format), dls.device, options.precision),
        loss_func=loss.to(dls.device) if isinstance(loss, nn.Module) else loss,  # fastai moves it when a fit begins
        opt_func=partial(OptimWrapper, opt=opt_func, **fused),
        lr=options.lr,
        splitter=splitter,
        metrics=accuracy,
        path=Path(),  # lr_find saves below it; the data's folder, fastai's default, may be read-only and is not ours
        default_cbs=False,
        cbs=[*own, *cbs],
    )
    learn.options, learn.precision, learn.exact = options, options.precision, options.exact
    if options.compile:
        compiled(model, dls.device)
    return learn
