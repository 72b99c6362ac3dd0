"""Ctrl-C and SIGTERM during training: the run is saved at the next optimiser step."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolkit import ranks

if TYPE_CHECKING:
    from toolkit.training.checkpoint import Checkpoint


@contextmanager
def stopping_at_a_step(checkpoint: "Checkpoint") -> Iterator[None]:
    """Have a signal to end make `checkpoint` save and stop at the next step; a second raises KeyboardInterrupt at once.

    On several ranks, which stop together, any of them may get it; a second signal within 5 s is the same one, passed on
    by the launcher.
    If the terminal was closed, what is written to it from then on is dropped: the writing would fail.
    """
    asked, soon = 0.0, 5 if ranks.count() > 1 else 0
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        _forget_closed(terminals)
        if checkpoint.stop:
            if time.monotonic() - asked < soon:
                return
            raise KeyboardInterrupt
        checkpoint.stop, asked = True, time.monotonic()
        if ranks.rank() == 0:
            os.write(2, b"stopping after this optimiser step; once more to stop at once\n")  # a print may be under way

    handlers = _to_replace() if threading.current_thread() is threading.main_thread() else {}
    for number in handlers:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _forget_closed(terminals: list[int]) -> None:
    "Have those of the open files `terminals`, which were terminals, lead nowhere that are none any more."
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        if not os.isatty(number):
            os.dup2(nowhere, number)
    os.close(nowhere)


def _to_replace() -> dict[int, Any]:
    """Handlers of Ctrl-C, of a system's or cluster's request to end, of a closed terminal. Signals that are ignored, as
    under nohup, are left out.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
