"""A command while it imports its libraries: Ctrl-C and SIGTERM end it in one line, and no garbage is looked for."""

import gc
import os
import signal

from toolkit import ranks


def end_at_once(number: int, frame: object) -> None:
    "Handle a signal while libraries are imported: end the process, since there is nothing to tidy up yet."
    if ranks.rank() == 0:
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
    os._exit(130)


def while_starting() -> None:
    """Let SIGINT (Ctrl-C) and SIGTERM `end_at_once` until `toolkit.command` takes over; an ignored one stays ignored.

    Python's garbage collector rests until `started`. It would walk again and again over what libraries define, which is
    no garbage: a fifth of the time that torch, fastai and timm take to import.
    """
    gc.disable()
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, end_at_once)


def started() -> None:
    """Let the garbage collector work again after `while_starting`, but not on what the libraries have made (gc.freeze).

    So a collection is short, and forked processes do not copy that memory.
    """
    if not gc.isenabled():
        gc.collect()
        gc.freeze()
        gc.enable()
