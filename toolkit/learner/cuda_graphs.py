"""CUDA graphs: the GPU runs a batch's forward and backward pass as one recorded program, instead of kernel by kernel.

A small network's kernels are done before the host has launched the next ones. From a graph the host launches all of
them at once. On an H200 a step of mobilenetv2 at 64 photos of 224 pixels took 8.9 ms instead of 30.5, one of resnet152
at 128 photos 50.1 ms instead of 116.0 (LOG.md, 28 Nov 2026).
"""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

from toolkit.errors import reason_of
from toolkit.learner.random_state import random_state, set_random_state

Launch = Callable[[], None]
WARM_UPS = 3
"Passes before a recording, in which libraries allocate and plan: as many as torch.cuda.make_graphed_callables makes."

SEEN = 3
"A kind of batch is recorded when it has come so often: a recording takes the time of ten steps."


class CudaGraphs(Callback):
    """Trains by a CUDA graph of the network's forward and backward pass: `learn.add_cb(CudaGraphs())`.

    Loss, optimiser step and short batches are computed as without it. A new size of image and a changed network, such
    as one with layers frozen, are recorded anew. A network draws from Python's generators only while it is recorded.
    Ends the fit with a ValueError if a layer has hooks, and for a network that can't be recorded.
    """

    name, order, run_valid = "cuda_graphs", 97, False  # after all callbacks that change the batch

    def before_fit(self) -> None:
        self._forget()
        self.weights, self.layers = list(self.model.parameters()), list(self.model.modules())  # once: it takes 4 ms

    def before_batch(self) -> None:
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
        if self.replays and self.learn.accum > 1 and self.iter % self.learn.accum == 0:
            self.step.keep_gradients()

    def after_fit(self) -> None:
        self.after_pred()
        self._forget()

    def _recorded(self, images: Tensor) -> "RecordedStep":
        begun = time.perf_counter()
        try:
            check_hooks(self.model)
            step = RecordedStep(self.model, images)
        except ValueError as error:
            self.learn.end_with(error)
        shape = " x ".join(map(str, images.shape))
        print(f"--cuda_graphs: batches of {shape} recorded in {time.perf_counter() - begun:.1f} s", flush=True)
        return step

    def after_pred(self) -> None:
        "Give the model its own forward pass, for whoever calls it next."
        if isinstance(vars(self.model).get("forward"), RecordedStep):
            del self.model.forward
            vars(self.model).update({"forward": self.own_forward} if self.own_forward else {})

    def _forget(self) -> None:
        self.kind, self.times, self.step, self.own_forward, self.replays = None, 0, None, None, False
        self.weights, self.layers = [], []


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


class RecordedStep:
    """The forward and the backward pass of `model` on one batch, recorded; a call computes them on other images.

    images: [batch, 3, height, width], on the model's device. The recording leaves weights, batch norm's averages and
    random generators as they are. Raises ValueError for a network that can't be recorded.
    torch's make_graphed_callables does not serve: before 2.14 it can't record while another thread uses the GPU, as the
    one that pins the next batches does.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, model: nn.Module, images: Tensor):
        self.forward, self.images = model.forward, images.detach().clone()
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.kept: list[Tensor] | None = None
        with preserved(model):
            try:
                self._record()
            except RuntimeError as error:
                for cause in (error, error.__context__):  # torch ends a recording without memory by another error
                    if isinstance(cause, torch.OutOfMemoryError):
                        raise cause from None
                raise ValueError(
                    f"--cuda_graphs: the network can't be recorded ({reason_of(error)}): leave --cuda_graphs out"
                ) from error

    def __call__(self, images: Tensor) -> Tensor:
        "The logits of the images, [batch, classes]. Their gradient flows to the weights."
        return _Replay.apply(self, images, *self.weights)

    def _record(self) -> None:
        with side_stream() as stream:
            for _ in range(WARM_UPS):
                self._forward()
                self.gradient = torch.zeros_like(self.logits)
                self._backward()
        self.replay_forward, pool = recorded(self._forward, stream)
        self.replay_backward, _ = recorded(self._backward, stream, pool)

    def _forward(self) -> None:
        with torch.enable_grad():
            self.logits = self.forward(self.images)

    def _backward(self) -> None:
        self.gradients = torch.autograd.grad(self.logits, self.weights, self.gradient, allow_unused=True)

    @torch.no_grad()
    def keep_gradients(self) -> None:
        "Have the weights' gradients in memory of their own: the next replay overwrites the recording's."
        own = [weight for weight in self.weights if weight.grad is not None]
        self.kept = self.kept or [torch.empty_like(weight.grad) for weight in own]
        torch._foreach_copy_(self.kept, [weight.grad for weight in own])
        for weight, kept in zip(own, self.kept, strict=True):
            weight.grad = kept


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: RecordedStep, images: Tensor, *weights: Tensor) -> Tensor:
        ctx.step = step
        step.images.copy_(images)
        step.replay_forward()
        return step.logits.detach().clone()  # the next batch overwrites the recording's

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        ctx.step.gradient.copy_(gradient)
        ctx.step.replay_backward()
        return None, None, *(None if each is None else each.detach() for each in ctx.step.gradients)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    "Afterwards the model's buffers and all random generators are as before."
    buffers, random = [(buffer, buffer.clone()) for buffer in model.buffers()], random_state()
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        set_random_state(random)


@contextmanager
def side_stream() -> Iterator[torch.cuda.Stream]:
    "Inside, the GPU works on a stream of its own, which a recording needs."
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield stream
    torch.cuda.current_stream().wait_stream(stream)


def recorded(function: Launch, stream: torch.cuda.Stream, pool: Any = None) -> tuple[Launch, Any]:
    "Record what `function` has the GPU do. Return a function that does it again, and the recording's memory pool."
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        function()
    return graph.replay, graph.pool()
