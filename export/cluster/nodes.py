"""The nodes of a Ray cluster, and the share of one that an actor gets."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

from export.runtime.metadata import first_line
from export.runtime.providers import DEVICES

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_LOG_LEVEL": "CRITICAL"}
"No report to Ray's makers over the network, and no log on the terminal; its files under /tmp/ray have it."


class Share(NamedTuple):
    "What an actor gets, and how many there are at most."

    device: str
    cpus: int
    gpus: float
    actors: int


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster at `address`, else RAY_ADDRESS's, else one of this machine for the block.

    One that the caller's program has already is used and kept. Raises ImportError without Ray, ConnectionError where
    there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise ImportError("--engine ray needs Ray: pip install 'ray[data]'") from None
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    with _environment(QUIET), _sink() as sink:
        with _onto(sink), _same_sigterm():
            _connect(address)
        try:
            # Ray prints there what becomes of its processes, which it starts again
            with contextlib.redirect_stdout(sink):
                yield
        finally:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    alone = {"include_dashboard": False} if address == "local" else {}
    try:
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would wait for ever
        ray.init(address, log_to_driver=False, logging_level="fatal", **alone)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster at {address}: {first_line(error)}\n"
            "give --address HOST:PORT of one that `ray start` began, or none for this machine alone"
        ) from error


def resources() -> list[dict[str, float]]:
    "Of each node that is up: CPU, GPU where it has some, ..."
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share_of(nodes: list[dict[str, float]], device: str, share: float | None, actors: int | None) -> Share:
    """What an actor gets: `share` CPUs (4 unless given, or a smaller node's all), or GPUs (1 unless given) and the CPUs
    that go with them. `actors`: at most so many, else what the nodes hold. auto: cuda where a node has a GPU, said so.

    Raises ValueError where no node has so much.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if device == "auto":
        device = "cuda" if any(node.get("GPU") for node in nodes) else "cpu"
        print(f"device auto: {device}, of {len(nodes)} node{'s' if len(nodes) > 1 else ''}", file=sys.stderr)
    kind = "CPU" if device == "cpu" else "GPU"
    amounts = [(node.get(kind, 0), node.get("CPU", 0)) for node in nodes]
    wanted = share or (1 if kind == "GPU" else max(1, min(4, max(amount for amount, _ in amounts))))
    if (wanted > 1 or kind == "CPU") and wanted != int(wanted):
        raise ValueError(f"--share {share}: give a whole number, or with GPUs a part of 1")
    held = sum(int(amount / wanted) for amount, _ in amounts)
    if not (actors or held):
        largest = max(amount for amount, _ in amounts)
        raise ValueError(
            f"an actor is to have {wanted:g} {kind}s, and no node has more than {largest:g}: give a smaller --share, "
            "or --actors where the cluster brings up nodes by itself"
        )
    if kind == "CPU":
        return Share(device, int(wanted), 0, actors or held)
    beside = [int(cpus * wanted / amount) for amount, cpus in amounts if amount >= wanted]
    return Share(device, max(1, min(beside, default=1)), wanted, actors or held)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    "Variables that are set in the block, where they are not set already."
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    "What SIGTERM does is after the block what it was before: Ray has it print a stack and end the process."
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _sink() -> Iterator:
    with open(os.devnull, "w") as sink:
        yield sink


@contextlib.contextmanager
def _onto(sink) -> Iterator[None]:
    "stderr, also that of the C++ below Python."
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
