"""A linear probe: the head becomes the best linear classifier of the frozen body's features, computed once."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import LRFinder, ParamScheduler
from fastcore.foundation import L
from torch import Tensor, nn

from toolkit import ranks
from toolkit.features import extract
from toolkit.features.doubts import Doubt
from toolkit.features.find_doubts import Labelled, find_doubts
from toolkit.features.fit_linear import STEPS_TO_COMPARE, fit_linear
from toolkit.finetuning.mixup_cutmix import own_loss
from toolkit.learner.learner import Learner

MOST_DOUBTED = 5000  # training photos; of more, `toolkit.check --features` takes the time that doubts need
Known = tuple[Tensor, Tensor, np.ndarray]  # features and labels of `features_of`, and thumbnails
STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # of the L2 penalty, strongest first


def linear_probe(learn: Learner, seen: dict[str, Any] | None = None, known: Known | None = None) -> dict[str, Any]:
    """Put a linear classifier of the body's features into the head of `learn`, fitted to the training photos.

    Features are computed by one pass of the model in the learner's precision, on photos transformed as for validation,
    unless they are `known`.
    `fit_linear` finds the classifier for the learner's own loss, with the penalty that `_strength` chooses by a fifth
    of the photos, held out; in the end it is fitted to all of them.
    seen: a dict that then holds the "features" and the "thumbnails" of the training photos, as numpy arrays; see
    `toolkit.features.extract.features_and_thumbnails`.
    Returns {"l2", "held_out" (accuracy on that fifth), "loss" (of the training photos), "seconds"}.
    Source: https://arxiv.org/abs/2202.10054 (linear probing, then fine-tuning); Breiman et al., Classification and
    Regression Trees, 1984 (the one-standard-error rule)

    Raises ValueError for a model whose classifier is not linear.
    """
    begun, heads = time.perf_counter(), linear_heads(learn.model)
    features, labels = _features(learn, seen, known)
    mean, deviation = features.mean(0), features.std().clamp_min(1e-12)
    features = (features - mean) / deviation
    zero = features.new_zeros(learn.dls.c, features.shape[1]), features.new_zeros(learn.dls.c)
    criterion = _as_sampled(own_loss(learn), learn, labels)
    l2, held_out, start = _strength(features, labels, criterion, zero)
    weight, bias, loss = fit_linear(features, labels, criterion, l2, start)
    with torch.no_grad():
        parts = (weight / deviation).split([head.weight[0].numel() for head in heads], dim=1)
        for head, part in zip(heads, parts, strict=True):  # the logits are the mean over the heads
            head.weight.copy_(len(heads) * part.view_as(head.weight))
            head.bias.copy_(bias - weight @ (mean / deviation))
    return {"l2": l2, "held_out": held_out, "loss": loss, "seconds": time.perf_counter() - begun}


def _as_sampled(loss: nn.Module, learn: Learner, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `loss`; if the sampler balances classes, its mean over photos weighted so that classes count alike.

    Raises ValueError for a loss without a `reduction`, which gives no value for each photo.
    """
    if learn.dls.train.sampler_state.sampling_weights is None:
        return loss
    if not hasattr(loss, "reduction"):
        raise ValueError(f"--sampler balanced: the probe can't weight the photos in {type(loss).__name__}")
    each, chances = deepcopy(loss), 1 / labels.bincount().clamp_min(1).float()
    each.reduction = "none"

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        return (each(logits, labels) * chances[labels]).sum() / chances[labels].sum()

    return weighted


def linear_heads(model: nn.Module) -> nn.ModuleList:
    "Return the layers from features to logits. Raises ValueError if they are not linear layers with a bias."
    return extract.linear_heads(model, "it can't be probed; give --no-probe, or another --arch")


def features_of(learn: Learner, thumbnails: list[np.ndarray] | None = None) -> tuple[Tensor, Tensor]:
    """Return the heads' input for each training photo, float32 [photos, features], and the labels, int64 [photos].

    thumbnails: a list to which those of each batch are appended, see `with_thumbnails`.
    """
    linear_heads(learn.model)
    workers = learn.dls.train.fake_l.num_workers
    loader = learn.dls.test_dl([*learn.dls.data.train], with_labels=True, num_workers=workers)
    if thumbnails is not None:
        loader = extract.with_thumbnails(loader, learn.dls.preprocess, thumbnails)
    features, labels = extract.head_inputs(learn.model, loader, learn.dls.device, learn.exact)
    return features, torch.cat([label for (label,) in labels]).as_subclass(Tensor)


def _features(learn: Learner, seen: dict[str, Any] | None, known: Known | None) -> tuple[Tensor, Tensor]:
    "Return what `features_of` returns, and fill `seen`."
    small: list[np.ndarray] = []
    features, labels = known[:2] if known else features_of(learn, *([] if seen is None else [small]))
    if seen is not None:
        thumbnails = known[2] if known else np.concatenate(small)
        seen |= {"features": features.cpu().numpy(), "thumbnails": thumbnails}
    return features, labels


def _strength(
    features: Tensor, labels: Tensor, loss: Callable, start: tuple[Tensor, Tensor]
) -> tuple[float, float, tuple[Tensor, Tensor]]:
    """Choose the L2 penalty on a 20 % hold-out by the one-standard-error rule.

    The strongest penalty of STRENGTHS wins whose accuracy is within a standard error of the best: a weak penalty looks
    good if held-out photos are nearly the same as others. Each fit starts from the one before it and is cut short.
    Returns the penalty, its accuracy on the hold-out, and its weight and bias.
    """
    fifth = torch.zeros_like(labels, dtype=torch.bool)
    fifth[labels.argsort(stable=True)[::5]] = True  # of every class
    found = []
    for l2 in STRENGTHS:
        *start, _ = fit_linear(features[~fifth], labels[~fifth], loss, l2, start, STEPS_TO_COMPARE)
        predicted = (features[fifth] @ start[0].T + start[1]).argmax(1)
        found.append((l2, float((predicted == labels[fifth]).float().mean()), start))
    best = max(accuracy for _, accuracy, _ in found)
    enough = best - math.sqrt(best * (1 - best) / int(fifth.sum()))
    return next(result for result in found if result[1] >= enough)


def is_probing(learn: Learner) -> bool:
    "True if a fit of `learn` is computing its linear probe."
    probe = learn.callback(LinearProbe)
    return bool(probe and probe.computing)


class LinearProbe(Callback):
    "The first epoch of a fit is a linear probe instead of training: `linear_probe`, then the usual validation."

    name, order = "probe", 80  # after Checkpoint, which starts the epoch
    most_doubted = MOST_DOUBTED  # training photos; of more it finds no doubts

    def __init__(self):
        self.found: dict[str, Any] | None = None  # what `linear_probe` returned
        self.ready: tuple[dict[str, Any], dict[str, Tensor]] | None = None  # what `probed` returned before the fit
        self.features: Known | None = None  # of the training photos, if they were computed before; see `know`
        self.of: tuple[int, list[int]] | None = None  # the data set and the versions of the weights of `features`
        self.computing = False  # the classifier
        self.probing = False  # this epoch is the probe
        self.doubts: list[Doubt] | None = None  # about the training photos, from the probe's features

    def know(self, features: Known) -> None:
        "Keep the features of the training photos for the probe."
        self.features, self.of = features, self._body()

    def known(self) -> Known | None:
        "Return the kept features if photos and weights are those that they were computed from, else None."
        return self.features if self.features and self.of == self._body() else None

    def _body(self) -> tuple[int, list[int]]:
        return id(self.dls.data), [weight._version for weight in self.model.parameters()]

    def count_epochs(self) -> None:
        "The epoch that the probe takes, or took in the run being resumed, is not one of training."
        self.learn.epochs_done -= int(self.found is None or self.learn.in_run)

    def before_fit(self) -> None:
        self.run = self.learn.is_plain_fit and self.found is None and not self.learn.resumed
        self.computing = False  # a fit before may have ended in it
        scheduler = self.learn.callback(ParamScheduler)
        # fine_tune and fit_one_cycle train another body than it was probed with
        if scheduler and not isinstance(scheduler, LRFinder):
            self.ready = self.features = None

    def before_train(self) -> None:
        if self.found is not None:
            return
        self.computing = True
        self.found, head = self.ready or ranks.from_first(self.probed)
        self.computing = False
        self.doubts = self.found.pop("doubts", None)
        linear_heads(self.model).load_state_dict(head)
        self.probing, self.features = True, None
        self.learn.dl = L()  # no batches: nothing else is trained
        self.dls.train.sampler_state.next_epoch += 1  # its epoch's draws are nobody's: a notebook's fit is a run's
        smooth = self.recorder.smooth_loss
        smooth.count, smooth.val = 1, torch.tensor(self.found["loss"]) * (1 - smooth.beta)

    def after_train(self) -> None:
        self.probing = False

    def probed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        "Return what `linear_probe` returns, with the `doubts` about the photos, and the head that it made."
        photos, seen = self.dls.data.train, {} if len(self.dls.data.train) <= self.most_doubted else None
        found = linear_probe(self.learn, seen, self.known())
        if seen:
            labelled = [Labelled(self.dls.data.relative(photo), "train", label) for photo, label in photos.items()]
            found["doubts"] = find_doubts(labelled, **seen, seed=self.learn.options.seed)
        head = linear_heads(self.model).state_dict()
        return found, {name: tensor.to("cpu", copy=True) for name, tensor in head.items()}
