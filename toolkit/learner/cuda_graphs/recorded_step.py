"""The forward and the backward pass of a network, recorded as CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from toolkit.errors import reason_of
from toolkit.learner.device import lacks_memory
from toolkit.learner.random_state import random_state, set_random_state

Launch = Callable[[], None]
WARM_UPS = 3
"Passes before a recording, in which libraries allocate and plan: as many as torch.cuda.make_graphed_callables makes."


class RecordedStep:
    """The forward and the backward pass of `model` on one batch, recorded; a call computes them on other images.

    images: [batch, 3, height, width], on the model's device. The recording leaves weights, batch norm's averages and
    random generators as they are.
    The gradient is recorded for aliases of the weights. A weight's own gradient goes to the stream on which an earlier
    batch computed it, and a recording ends in an error if it meets another stream.
    Raises ValueError for a network that can't be recorded, torch.OutOfMemoryError if there is no memory for it.
    torch's make_graphed_callables does not serve: before 2.14 it can't record while another thread uses the GPU, as the
    one that pins the next batches does.
    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, model: nn.Module, images: Tensor):
        self.own, self.images = OwnForward(model), images.detach().clone()
        self.aliases = {
            name: weight.detach().requires_grad_(weight.requires_grad) for name, weight in self.own.named_parameters()
        }
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.kept: list[Tensor] | None = None
        with preserved(model):
            try:
                self._record()
            except RuntimeError as error:
                if lacks_memory(error) or lacks_memory(error.__context__):
                    raise torch.OutOfMemoryError("no memory for a recording") from None
                raise ValueError(
                    f"--cuda_graphs: the network can't be recorded ({reason_of(first_of(error))}): "
                    "leave --cuda_graphs out"
                ) from error
        self.places = {gradient.data_ptr() for gradient in self.gradients if gradient is not None}

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
            self.logits = functional_call(self.own, self.aliases, (self.images,))

    def _backward(self) -> None:
        trained = [alias for alias in self.aliases.values() if alias.requires_grad]
        self.gradients = torch.autograd.grad(self.logits, trained, self.gradient, allow_unused=True)

    @torch.no_grad()
    def keep_gradients(self) -> None:
        "If the weights' gradients lie in the recording's memory, which the next replay overwrites, move them away."
        own = [weight for weight in self.weights if weight.grad is not None]
        if not own or own[0].grad.data_ptr() not in self.places:
            return
        self.kept = self.kept or [torch.empty_like(weight.grad) for weight in own]
        torch._foreach_copy_(self.kept, [weight.grad for weight in own])
        for weight, kept in zip(own, self.kept, strict=True):
            weight.grad = kept


def first_of(error: RuntimeError) -> Exception:
    "The error that made a recording fail: torch ends such a recording by another one."
    return error.__context__ if isinstance(error.__context__, RuntimeError) else error


class OwnForward(nn.Module):
    "A model's forward pass as it is now, without the hooks of the model itself."

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.pass_of_now = model, model.forward

    def forward(self, images: Tensor) -> Tensor:
        return self.pass_of_now(images)


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
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        torch.cuda.current_stream().wait_stream(stream)


def recorded(function: Launch, stream: torch.cuda.Stream, pool: Any = None) -> tuple[Launch, Any]:
    "Record what `function` has the GPU do. Return a function that does it again, and the recording's memory pool."
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    with torch.cuda.stream(before):  # torch leaves the other stream current if a recording fails
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            function()
    return graph.replay, graph.pool()
