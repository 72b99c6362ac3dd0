"""Which process of a job this is, and what its processes, called ranks, tell each other.

A launcher (`accelerate launch`, `torchrun`) starts them, and says in their environment which is which. Without one
there is rank 0 of 1, and nothing here does anything. The first rank decides, writes and speaks; the others train too.
Free of torch at import.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
STEP = timedelta(minutes=10)  # what one rank may take longer than another to a step, before the job is given up
PATIENCE = timedelta(days=7)  # what the first may take to read all photos; should it die, the launcher ends the others


def count() -> int:
    "How many processes this job has."
    return int(os.environ.get("WORLD_SIZE", 1)) if {"RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def rank() -> int:
    "The number of this process, from 0."
    return int(os.environ["RANK"]) if count() > 1 else 0


def local_rank() -> int:
    "Its number on this machine, from 0."
    return int(os.environ.get("LOCAL_RANK", rank())) if count() > 1 else 0


def local_count() -> int:
    "How many processes of this job are on this machine."
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def share(samples: int) -> range:
    "Which of a mini-batch's `samples` are this rank's: a slice, as large as the other ranks' or one larger or smaller."
    return range(rank() * samples // count(), (rank() + 1) * samples // count())


# What ranks tell each other


@functools.cache
def join() -> Any:
    "Meet the other ranks, once; the group of processes that waits with patience. Raises ConnectionError without them."
    import torch
    import torch.distributed as dist

    with meeting():
        both = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if both else "gloo", timeout=STEP)
        return dist.new_group(backend="gloo", timeout=PATIENCE)


def from_first(make: Callable[[], T]) -> T:
    "What `make()` gives on the first rank, which alone calls it."
    if count() == 1:
        return make()
    import torch.distributed as dist

    group, made = join(), [make() if rank() == 0 else None]
    with meeting():
        dist.broadcast_object_list(made, src=0, group=group)
    return made[0]


def largest(number: int) -> int:
    "The largest `number` of all ranks."
    if count() == 1:
        return number
    import torch
    import torch.distributed as dist

    told = torch.tensor(int(number))
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told)


def add_up(tensor: "torch.Tensor") -> "torch.Tensor":
    "`tensor`, in it now the sum over all ranks."
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def total(number: "float | torch.Tensor") -> "float | torch.Tensor":
    "The sum of a `number` over all ranks, in float64; `number` itself where there is one."
    if count() == 1:
        return number
    import torch

    return float(add_up(torch.tensor(float(number), dtype=torch.float64)))


@contextmanager
def first_here() -> Iterator[None]:
    "The first rank of each machine goes through the block before its others, which find what it left on the disk."
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
def meeting() -> Iterator[None]:
    "Around what ranks do together: where another one is gone, torch's errors, of several types, are a ConnectionError."
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise ConnectionError(f"another of the {count()} processes has ended, or has not answered for long") from error


# The end


def end(error: BaseException) -> BaseException:
    "`error`, which all ranks met together, for the first to raise; for the others what ends them quietly."
    return SystemExit(0) if rank() else error


def separate() -> None:
    "After the last thing that ranks do together: the first goes on as if it had been alone, the others end here."
    if count() == 1:
        return
    import torch.distributed as dist

    if rank():
        raise SystemExit(0)
    dist.destroy_process_group()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}  # for fastai too, which goes by it


@contextmanager
def quiet_others() -> Iterator[None]:
    "Inside, only the first rank's stdout and stderr are there."
    if rank() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def named(message: str) -> str:
    """`message` of an error, for stderr; of another rank than the first, it says whose, and comes a little later: where
    the first met the same, it has told, and the launcher has ended this process by then.
    """
    if rank() == 0:
        return message
    time.sleep(5)
    return f"process {rank()} of {count()}: {message}"
