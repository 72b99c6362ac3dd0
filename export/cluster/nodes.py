"""The nodes of a Ray cluster, and the share of one that an actor gets."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from export.runtime.providers import DEVICES
from toolkit.errors import first_line

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_LOG_LEVEL": "CRITICAL"}
"No usage report over the network, and no log on the terminal; Ray keeps its log under /tmp/ray."


class Share(NamedTuple):
    "The device, CPUs and GPUs of each actor, and the largest number of actors."

    device: str
    cpus: int
    gpus: float
    actors: int


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect, for the block, to the cluster at `address`, else at RAY_ADDRESS, else to a new one on this machine.

    A connection that the caller's program already has is used and kept. Raises ImportError without Ray,
    ConnectionError if there is no cluster.
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
            # Ray prints there that its processes died, and starts them again
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
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray would wait forever
        ray.init(address, log_to_driver=False, logging_level="fatal", **alone)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster at {address}: {first_line(error)}\n"
            f"give --address HOST:PORT of one that `ray start` started, or none for this machine alone{_token_hint()}"
        ) from error


def _token_hint() -> str:
    """Return what to try if this machine has a token of Ray's, which `ray start` asks for and a program does not send.

    Source: https://docs.ray.io/en/latest/ray-security/token-auth.html
    """
    if "RAY_AUTH_MODE" in os.environ or not Path("~/.ray/auth_token").expanduser().is_file():
        return ""
    return "; ~/.ray/auth_token is here: if the cluster asks for a token, set RAY_AUTH_MODE=token"


def resources() -> list[dict[str, float]]:
    "The resources of each node that is up: CPU, GPU if it has any, ..."
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def share_of(nodes: list[dict[str, float]], device: str, share: float | None, actors: int | None) -> Share:
    """The share of an actor: `share` CPUs (default: 4, or all of a smaller node), or GPUs (default: 1) with their CPUs.

    actors: the largest number (default: as many as the nodes hold). device auto: cuda if a node has a GPU; a line on
    stderr says so.
    Raises ValueError if no node has that much.
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
            "or --actors if the cluster starts nodes by itself"
        )
    if kind == "CPU":
        return Share(device, int(wanted), 0, actors or held)
    beside = [int(cpus * wanted / amount) for amount, cpus in amounts if amount >= wanted]
    return Share(device, max(1, min(beside, default=1)), wanted, actors or held)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    "Set environment variables in the block, unless they are set already."
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    "Restore SIGTERM's handler after the block: Ray installs one that prints a stack and ends the process."
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
    "Send stderr to `sink` in the block, including what C++ code below Python writes."
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
