"""The callback that trains by CUDA graphs."""

import gc
import time
from collections.abc import Hashable

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

from toolkit.learner.cuda_graphs.recorded_step import RecordedStep

SEEN = 3
"A kind of batch is recorded when it has come so often: a recording takes the time of ten steps."


class CudaGraphs(Callback):
    """Trains by a CUDA graph of the network's forward and backward pass: `learn.add_cb(CudaGraphs())`.

    Loss, optimiser step and short batches are computed as without it. A new size of image and a changed network, such
    as one with layers frozen, are recorded anew. A network draws from Python's generators only while it is recorded.
    If there is no memory for a recording, training goes on without.
    Ends the fit with a ValueError if a layer has hooks, and for a network that can't be recorded.
    """

    name, order, run_valid = "cuda_graphs", 97, False  # after all callbacks that change the batch

    def before_fit(self) -> None:
        self._forget()
        self.weights, self.layers = list(self.model.parameters()), list(self.model.modules())  # once: it takes 4 ms

    def before_batch(self) -> None:
        self.after_pred()  # if a callback left the batch before out
        images, self.replays = self.xb[0], False
        if len(images) != self.dl.bs or len(images) == 1:  # for one photo LastPhoto has hooks
            return
        if (kind := kind_of(self.weights, self.layers, images)) != self.kind:
            self.kind, self.times, self.step = kind, 0, None
        self.times += 1
        if self.times == SEEN:
            self.step = self._recorded(images)
        if self.step is not None:
            self.replays, self.own_forward = True, vars(self.model).get("forward")
            self.model.forward = self.step

    def after_backward(self) -> None:
        if self.replays and self.learn.accum > 1:
            self.step.keep_gradients()

    def before_validate(self) -> None:
        self.after_pred()

    def after_fit(self) -> None:
        self.after_pred()
        self._forget()

    def _recorded(self, images: Tensor) -> "RecordedStep | None":
        "The recording, or None if there is no memory for one."
        begun, batches = time.perf_counter(), f"--cuda_graphs: batches of {' x '.join(map(str, images.shape))}"
        try:
            check_hooks(self.model)
            step = RecordedStep(self.model, images)
        except ValueError as error:
            self.learn.end_with(error)
        except torch.OutOfMemoryError:
            step = None
        if step is None:
            gc.collect()  # of what the failed recording had
            torch.cuda.empty_cache()
            print(f"{batches} are not recorded: there is no memory for that beside an ordinary step", flush=True)
            return None
        print(f"{batches} recorded in {time.perf_counter() - begun:.1f} s", flush=True)
        return step

    def after_pred(self) -> None:
        "Give the model its own forward pass, for whoever calls it next."
        if isinstance(vars(self.model).get("forward"), RecordedStep):
            del self.model.forward
            vars(self.model).update({"forward": self.own_forward} if self.own_forward else {})

    def _forget(self) -> None:
        self.kind, self.times, self.step, self.own_forward, self.replays = None, 0, None, None, False
        self.weights, self.layers = [], []
        self.learn.loss_grad = None  # the last batch's, which keeps the recording


def kind_of(weights: list[Tensor], layers: list[nn.Module], images: Tensor) -> Hashable:
    "All that a recording depends on. weights, layers: all of the model, which is the first of the layers."
    trained = tuple((weight.data_ptr(), weight.requires_grad) for weight in weights)
    modes = tuple(layer.training for layer in layers)
    return images.shape, images.stride(), images.dtype, vars(layers[0]).get("autocast"), trained, modes


def check_hooks(model: nn.Module) -> None:
    "Raises ValueError if a layer has hooks, which a graph leaves out. Those of the model itself are called as ever."
    for name, layer in model.named_modules():
        hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
        if name and any(hooks):
            raise ValueError(
                f"--cuda_graphs: the network's {name} has hooks, which a graph leaves out: leave --cuda_graphs out"
            )
