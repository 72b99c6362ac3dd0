"""Run a function as a command: its signature is the command line, its errors are the exit status.

    def main(
        data: Path,                                    # no default: a positional argument
        loss: Literal["ce", "focal"] = "ce",           # this comment is the flag's help
        seeds: tuple[int, ...] = (0,),                 # takes one value or more
        image_size: int = 224,                         # --image_size, as the parameter is spelled
        bs: int | Literal["auto"] = 128,               # a number or that word
        lr: Annotated[float, Doc("learning rate")] = 0.1,  # Doc is the help if there is one
        export: bool = True,                           # a True default becomes --no-export
    ):
        "What the command does."

    if __name__ == "__main__":
        run_script(main)

Exit status:
    0    done
    1    a bug of ours: the traceback is shown
    2    the user's input or machine is wrong: one or two lines on stderr
    130  interrupted, by Ctrl-C or SIGTERM
    141  the reader of a pipe left: what had been written is kept
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from toolkit import ranks
from toolkit.commandline.parsing import given
from toolkit.commandline.process import interruptible, named, occupy_closed_streams, quiet, quiet_others
from toolkit.commandline.startup import started
from toolkit.errors import user_message


def run_script(function: Callable, status: Callable[[object], int] = lambda result: 0) -> NoReturn:
    """Call `function` with the arguments in sys.argv, and end the process with an exit status.

    status: the exit status that a result stands for, e.g. `lambda unread: 2 if unread else 0`.
    """
    sys.exit(run(function, sys.argv[1:], status))


def run(function: Callable, arguments: list[str], status: Callable[[object], int] = lambda result: 0) -> int:
    "Call `function` with the command line's `arguments`; return the exit status. Bugs propagate as they are."
    occupy_closed_streams()
    started()
    if fault := ranks.fault():
        print(f"error: {fault}", file=sys.stderr)
        return 2
    try:
        with quiet(), interruptible(), quiet_others():
            result = function(**given(function, arguments))
            if sys.stdout:
                sys.stdout.flush()
            return status(result)
    except KeyboardInterrupt as interrupt:
        if ranks.rank() == 0:
            print(interrupt if str(interrupt) else "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError as error:  # the reader of a pipe left (`| head`); later flushes go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _print_notes(error)
        return 141
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        if (message := user_message(error)) is None:
            raise
        print(named(f"error: {message}") + "\n", end="", file=sys.stderr)  # in one go: other processes write too
        _print_notes(error)
        return 2


def _print_notes(error: Exception) -> None:
    "Print the notes added to the error on its way, such as what is saved and how to resume."
    with contextlib.suppress(BrokenPipeError):  # stderr may be the pipe whose reader left
        for note in getattr(error, "__notes__", []):
            print(note, file=sys.stderr)
