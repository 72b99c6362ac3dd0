"""The processes of a job, called ranks: their numbers, and what they exchange.

A launcher (`accelerate launch`, `torchrun`) starts them and numbers them in their environment. Without a launcher there
is rank 0 of 1, and the functions here do nothing. Rank 0 decides, writes and prints; the others only train.
Importing this module does not import torch.
"""

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
STEP = timedelta(minutes=10)  # a rank that comes this much later to a step than another ends the job
PATIENCE = timedelta(days=7)  # rank 0 may take this long to read all photos; if it dies, the launcher ends the others


def count() -> int:
    "The number of processes of this job."
    return int(os.environ.get("WORLD_SIZE", 1)) if {"RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    "The number of this process in the job, from 0."
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_rank() -> int:
    "The number of this process on its machine, from 0."
    return int(os.environ.get("LOCAL_RANK", rank())) if count() > 1 else 0


def local_count() -> int:
    "The number of this job's processes on this machine."
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def share(samples: int) -> range:
    "This rank's slice of a batch of `samples`. The slices of two ranks differ by one sample at most."
    return range(rank() * samples // count(), (rank() + 1) * samples // count())


def fault() -> str | None:
    "Return what is wrong with the numbers that a launcher gave this process, None if nothing is."
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        if 0 <= rank() < count() and 0 <= local_rank() < local_count():
            return None
    except ValueError:
        pass
    given = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    return (
        f"{given} in the environment: a launcher counts RANK from 0 to below WORLD_SIZE, LOCAL_RANK to below "
        "LOCAL_WORLD_SIZE; unset them for one process"
    )


def check_alone(what: str) -> None:
    "Raises ValueError if there are several processes."
    if count() > 1:
        raise ValueError(f"{what} on {count()} processes: start it without a launcher")


# Exchange between ranks


@functools.cache
def join() -> Any:
    "Join the other ranks; return a process group that waits for PATIENCE. Raises ConnectionError if one is missing."
    import torch
    import torch.distributed as dist

    with meeting(), _ended_by_signals():
        both = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=STEP)
        return dist.new_group(backend="gloo", timeout=PATIENCE)


def from_first(make: Callable[[], T]) -> T:
    "Return, on every rank, the result of `make()` on rank 0, which alone calls it."
    if count() == 1:
        return make()
    import torch.distributed as dist

    group, made = join(), [make() if rank() == 0 else None]
    with meeting():
        dist.broadcast_object_list(made, src=0, group=group)
    return made[0]


def largest(number: int) -> int:
    "The largest `number` over all ranks."
    if count() == 1:
        return number
    import torch
    import torch.distributed as dist

    most = torch.tensor(int(number))
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def add_up(tensor: "torch.Tensor") -> "torch.Tensor":
    "Replace `tensor`, in place, by its sum over all ranks; return it."
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def total(number: "float | torch.Tensor") -> "float | torch.Tensor":
    "The sum of `number` over all ranks, in float64: a float, or an array as a tensor; itself if there is one rank."
    if count() == 1:
        return number
    import torch

    if isinstance(number, torch.Tensor) and number.ndim:
        return add_up(number.to("cpu", torch.float64))
    return float(add_up(torch.tensor(float(number), dtype=torch.float64)))


@contextmanager
def first_here() -> Iterator[None]:
    "Run the block on each machine's first rank before its other ranks, which find on disk what the first one wrote."
    if count() == 1:
        yield
        return
    import torch.distributed as dist

    group = join()
    if local_rank() == 0:
        yield
    with meeting():
        dist.barrier(group)
    if local_rank() != 0:
        yield


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    "Inside, Ctrl-C and SIGTERM end the process at once: torch waits without running Python, so also its handlers."
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    replaced = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in replaced:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])


@contextmanager
def meeting() -> Iterator[None]:
    "Around an exchange of ranks: raise ConnectionError in place of torch's several errors for a rank that is gone."
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise ConnectionError(f"another of the {count()} processes has ended, or has not answered for long") from error


# The end


def end(error: BaseException) -> BaseException:
    "The exception to raise for an `error` that all ranks met: the error itself on rank 0, a silent exit on the others."
    return SystemExit(0) if rank() else error


def separate() -> None:
    "Leave the job after the last exchange: rank 0 goes on as if it were alone, the others exit."
    if count() == 1:
        return
    import torch.distributed as dist

    if rank():
        raise SystemExit(0)
    dist.destroy_process_group()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}  # fastai reads them too
