"""Ctrl-C and SIGTERM while a command imports its libraries: one line and exit status 130."""

import os
import signal

from toolkit import ranks


def end_at_once(number: int, frame: object) -> None:
    "Handle a signal while libraries are imported: end the process, since there is nothing to tidy up yet."
    if ranks.rank() == 0:
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
    os._exit(130)


def while_starting() -> None:
    "Let SIGINT (Ctrl-C) and SIGTERM `end_at_once` until `toolkit.command` takes over; an ignored one stays ignored."
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, end_at_once)
