"""Ctrl-C and SIGTERM while a command starts: one line and exit status 130."""

import os
import signal

from toolkit import ranks


def end_at_once(number: int, frame: object) -> None:
    "A signal's handler while a command's libraries are imported: nothing is under way that would have to be tidied up."
    if ranks.rank() == 0:
        os.write(2, b"interrupted\n" if number == signal.SIGINT else b"terminated\n")
    os._exit(130)


def while_starting() -> None:
    "Have SIGINT (Ctrl-C) and SIGTERM `end_at_once`, until `toolkit.command` takes over; not where they are ignored."
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, end_at_once)
