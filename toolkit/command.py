"""A function's signature is its command line, its help and its Python API: fastcore's `call_parse`, with manners.

    @command
    def main(
        data: Path,                                                  # no default: a positional argument
        loss: Annotated[str, {"choices": ["ce", "focal"]}] = "ce",   # this comment is the flag's help
        seeds: list[int] = [0],                                      # takes one value or more
        image_size: int = 224,                                       # --image_size, as the parameter is spelled
        bs: int | Literal["auto"] = 128,                             # a number or that word
        export: bool = True,                                         # a True default becomes --no-export
    ):
        "What the command does."

Imported, `main` is the plain function. Where its file is started (`python -m pkg.module`), the decorator reads sys.argv
and runs it: so the decorated function comes last in its file. Exit status:
    0    done
    1    a bug of ours: the traceback is shown
    2    the user's input or machine is wrong: one or two lines on stderr
    130  interrupted, by Ctrl-C or SIGTERM
    141  the reader of a pipe left: what had been written is kept
"""

import contextlib
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from toolkit import ranks

HOUSE = [str(Path(__file__).resolve().parents[1] / package) + os.sep for package in ("recipes", "toolkit", "export")]


def command(function: Callable | None = None, *, status: Callable[[object], int] = lambda result: 0) -> Callable:
    """`function` itself; where its file is being run as a script, the run happens here and ends the process.

    status: the exit status that a result stands for, e.g. `@command(status=lambda unread: 2 if unread else 0)`.
    """
    frame = inspect.currentframe().f_back
    if function is None:
        return lambda decorated: _command(decorated, status, frame)
    return _command(function, status, frame)


def _command(function, status, frame):
    if _runs_as_script(frame):
        frame.f_globals[function.__name__] = function  # the name its own body knows is bound only after the decorator
        sys.exit(run(function, sys.argv[1:], status))
    return function


def _runs_as_script(frame) -> bool:
    "Whether `frame` is the top level of the file that was started: not an import, a notebook cell, a worker process."
    names = frame.f_globals
    return frame.f_locals is names and names.get("__name__") == "__main__" and bool(names.get("__file__"))


def run(function: Callable, arguments: list[str], status: Callable[[object], int] = lambda result: 0) -> int:
    "Calls `function` with the command line's `arguments`; the exit status. Bugs propagate as they are."
    _occupy_closed_streams()
    try:
        with _quiet(), _terminable(), ranks.quiet_others():
            result = function(**parsed(function, arguments))
            if sys.stdout:
                sys.stdout.flush()
            return status(result)
    except KeyboardInterrupt as interrupt:
        if ranks.rank() == 0:
            print(interrupt if str(interrupt) else "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError as error:  # the reader of a pipe left (`| head`); later flushes go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _tell_notes(error)
        return 141
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        if (message := user_message(error)) is None:
            raise
        print(ranks.named(f"error: {message}"), file=sys.stderr)
        _tell_notes(error)
        return 2


def _tell_notes(error: Exception) -> None:
    "What was added to the error on its way, such as what is saved and how to go on."
    with contextlib.suppress(BrokenPipeError):  # stderr may be the pipe whose reader left
        for note in getattr(error, "__notes__", []):
            print(note, file=sys.stderr)


def _occupy_closed_streams() -> None:
    "Where stdin, stdout or stderr was closed, the next file opened would get its number, and what is printed."
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


@contextlib.contextmanager
def _terminable():
    "SIGTERM ends a command as Ctrl-C does, so that it tidies up."

    def interrupt(number, frame):
        raise KeyboardInterrupt("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet():
    "Without the libraries' warnings, which a user can do nothing about; ours are shown, and so is what -W asks for."
    import logging
    import warnings

    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what a library logs and nobody handles
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"(__main__|recipes|toolkit|export)\b")
        yield


# What is the user's, what is a bug


def user_message(error: Exception) -> str | None:
    """The line or two to tell the user, or None where `error` is a bug.

    OSErrors are the user's machine wherever they come from. Other errors are meant for the user if a `raise` of this
    house made them: a ValueError out of a library, or out of `int("x")`, is something we failed to check.
    """
    if worker := _worker_message(error) or _killed_worker(error.__context__):
        return worker
    if isinstance(error, OSError):
        lines = [line for line in str(error).splitlines() if line.strip()][:2]
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else "\n".join(lines)
    return str(error) if _raised_by_us(error) else None


def _raised_by_us(error: Exception) -> bool:
    import dis

    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return _is_ours(code.co_filename) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _is_ours(file: str) -> bool:
    "In this house's packages, or the very file that is being run (someone's own recipe)."
    main = getattr(sys.modules["__main__"], "__file__", None)
    return os.path.abspath(file).startswith(tuple(HOUSE)) or bool(
        main and os.path.abspath(file) == os.path.abspath(main)
    )


def _worker_message(error: Exception) -> str | None:
    """What a DataLoader worker met, if it is for the user.

    torch raises the error again in this process, of the same type, with the worker's traceback as its text:
    `Caught ValueError in DataLoader worker process 0.`, the frames, `ValueError: the message`. Where the system killed
    a worker, it says so in a RuntimeError.
    """
    if killed := _killed_worker(error):
        return killed
    text = str(error).rstrip()
    frames = list(re.finditer(r'^  File "(.+)", line \d+, in .+\n +(.+)$', text, re.MULTILINE))
    if not re.match(r"Caught \w+ in DataLoader worker process", text) or not frames:
        return None
    file, statement = frames[-1].groups()
    raised_by_us = _is_ours(file) and statement.startswith("raise ")
    if not (isinstance(error, OSError) or raised_by_us):
        return None
    return text[frames[-1].end() :].partition(f"\n{type(error).__name__}: ")[2]


def _killed_worker(error: BaseException | None) -> str | None:
    """The message for an error by which torch says that a worker is gone; None for another error.

    torch raises it wherever the main process is, in a thread's start for one, and there CPython raises a KeyError over
    it. "exited unexpectedly" has the signal, if there was one, in its cause.
    """
    gone = [match for each in (error, error and error.__cause__) if (match := _worker_gone(each))]
    if not gone:
        return None
    signal = next((match["signal"] for match in gone if match["signal"]), "")
    why = next(why for name, why in WHY_KILLED.items() if signal.startswith(name))
    return f"{gone[-1][0].rstrip('. ')}: a process that reads photos is gone, {why}"


def _worker_gone(error: BaseException | None) -> re.Match | None:
    pattern = r"DataLoader worker \(pid.+?\) (is killed by signal: (?P<signal>[\w ]+)|exited unexpectedly[\w ]*)"
    return re.match(pattern, str(error)) if isinstance(error, RuntimeError) else None


WHY_KILLED = {
    "Killed": "as if memory ran out; try fewer --workers, or 0",
    "Bus error": "as if shared memory was full; make /dev/shm larger (docker's --shm-size), or try fewer --workers",
    "": "as if memory ran out or a library failed in it, which it may have said above; try fewer --workers, or 0",
}


# The command line


def parsed(function: Callable, arguments: list[str]) -> dict:
    "Keyword arguments for `function`; exits with 2 and two lines where `arguments` do not fit its signature."
    parser = _parser(function)
    values = vars(parser.parse_args(_as_declared(parser, arguments)))
    return {name: values[name] for name in inspect.signature(function).parameters}


def _parser(function):
    "fastcore's parser of the signature, its flags spelled as the parameters are, its complaints in two lines."
    import argparse

    from fastcore.script import anno_parser

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            needed = " ".join(action.dest.upper() for action in self._actions if not action.option_strings)
            self.exit(
                2, f"error: {message}\nusage: {self.prog} {needed} [flags]; --help lists them\n".replace("  ", " ")
            )

    signature = anno_parser(function)
    declared = get_type_hints(function)
    for action in signature._actions:
        action.option_strings = [_as_spelled(flag, action.dest) for flag in action.option_strings]
        if get_origin(declared.get(action.dest)) in (Union, UnionType):
            action.type = _one_of(get_args(declared[action.dest]))
            action.metavar = action.metavar and f"({action.type.__name__.replace(' or ', '|')})"
        if get_origin(action.type) in (list, tuple):
            action.nargs, action.type = "+", get_args(action.type)[0]
            action.metavar = action.metavar and f"({action.type.__name__})"
    # parents= registers the renamed flags
    return Parser(
        prog=_typed_name(),
        description=(inspect.getdoc(function) or "").partition("\n\n")[0],
        parents=[signature],
        add_help=False,
        formatter_class=signature.formatter_class,
    )


def _one_of(kinds: tuple) -> Callable[[str], object]:
    "What reads a value of the first of `kinds` that takes it: types, or a Literal's words; fastcore knows no Literal."
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    types = [kind for kind in kinds if get_origin(kind) is not Literal and kind is not NoneType]

    def read(text: str) -> object:
        if text in words:
            return text
        for kind in types:
            with contextlib.suppress(ValueError):
                return kind(text)
        raise ValueError

    read.__name__ = " or ".join(
        [kind.__name__.lower() for kind in types] + words
    )  # argparse says it: "invalid ... value"
    return read


def _as_spelled(flag: str, name: str) -> str:
    "`--image_size` for fastcore's `--image-size`, `--no-save_best` for its `--no-save-best`."
    return flag.replace(name.replace("_", "-"), name) if flag.startswith("--") else flag


def _typed_name() -> str:
    "What the user typed to start this: `python -m recipes.hw1`."
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {Path(sys.argv[0]).name}"


def _as_declared(parser, arguments: list[str]) -> list[str]:
    """`arguments` with `--image-size` forgiven for `--image_size`; an unknown flag ends the run, naming the nearest.

    So does an abbreviation: what it stands for would change with the next flag added.
    """
    flags = {flag.replace("_", "-"): flag for action in parser._actions for flag in action.option_strings}
    for hidden in ("--pdb", "--xtra"):  # fastcore's own
        flags.pop(hidden, None)
    declared = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return declared + arguments[index:]
        name, equals, value = argument.partition("=")
        if name.startswith("-") and not re.fullmatch(r"-|-[\d.].*", name):
            name = flags.get(name.replace("_", "-")) or parser.error(_unknown(name, flags.values()))
        declared.append(name + equals + value)
    return declared


def _unknown(name: str, flags) -> str:
    import difflib

    nearest = difflib.get_close_matches("--" + name.lstrip("-"), flags, n=1, cutoff=0.5)
    return f"unknown flag {name}" + (f", the nearest is {nearest[0]}" if nearest else "")
