"""A function's signature is its command line, its help and its Python API: fastcore's `call_parse`, with manners.

    def main(
        data: Path,                                                  # no default: a positional argument
        loss: Annotated[str, {"choices": ["ce", "focal"]}] = "ce",   # this comment is the flag's help
        seeds: list[int] = [0],                                      # takes one value or more
        image_size: int = 224,                                       # --image_size, as the parameter is spelled
        bs: int | Literal["auto"] = 128,                             # a number or that word
        export: bool = True,                                         # a True default becomes --no-export
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
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from toolkit import ranks
from toolkit.errors import user_message
from toolkit.startup import end_at_once


def run_script(function: Callable, status: Callable[[object], int] = lambda result: 0) -> NoReturn:
    """Call `function` with the arguments in sys.argv, and end the process with an exit status.

    status: the exit status that a result stands for, e.g. `lambda unread: 2 if unread else 0`.
    """
    sys.exit(run(function, sys.argv[1:], status))


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
        print(ranks.named(f"error: {message}") + "\n", end="", file=sys.stderr)  # in one go: other processes write too
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
    "Ctrl-C and SIGTERM end a command by a KeyboardInterrupt, so that it tidies up."

    def interrupt(number, frame):
        raise KeyboardInterrupt("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
            if words := re.fullmatch("unrecognized arguments: (.*)", message, re.DOTALL):
                flags = {flag for action in self._actions for flag in action.option_strings}
                message = _without_flag(words[1], flags) or message
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
            name = flags.get(name.replace("_", "-")) or parser.error(_unknown(name, flags.values(), parser))
        declared.append(name + equals + value)
    return declared


ELSEWHERE = {  # our flags, and what other tools' users type for them
    "--data": "data_dir data_path dataset root",
    "--arch": "model model_name backbone architecture",
    "--weights": "pretrained checkpoint initial_checkpoint",
    "--epochs": "num_epochs n_epochs max_epochs num_train_epochs",
    "--lr": "learning_rate lr0 base_lr",
    "--bs": "batch_size batch b per_device_train_batch_size",
    "--accum": "grad_accum_steps gradient_accumulation_steps accumulate",
    "--image_size": "img_size imgsz input_size img resolution",
    "--workers": "num_workers j dataloader_num_workers",
    "--out": "output output_dir out_dir save_dir",
}


def _ours(name: str, flags) -> str | None:
    "The flag among `flags` that is meant where another tool's is typed."
    word = name.lstrip("-").replace("-", "_")
    return next((flag for flag, theirs in ELSEWHERE.items() if flag in flags and word in theirs.split()), None)


def _without_flag(words: str, flags) -> str | None:
    "What to say of words that no flag takes, `photos` or `epochs=3`; None where it is not known what they mean."
    if not words.strip():
        return None
    name, equals, value = words.split()[0].partition("=")
    flag = f"--{name}" if f"--{name}" in flags else _ours(name, flags)
    if equals and flag:
        return f"{words}: values are given by flags, here {flag} {value}"
    return f"{words}: data is given by its flag, --data {words}" if "--data" in flags and " " not in words else None


def _unknown(name: str, flags, parser) -> str:
    import difflib

    if ours := _ours(name, flags):
        return f"unknown flag {name}, here it is {ours}"
    if name.lstrip("-") in [action.dest for action in parser._actions if not action.option_strings]:
        return f"unknown flag {name}, give {name.lstrip('-').upper()} by itself"
    nearest = difflib.get_close_matches("--" + name.lstrip("-"), flags, n=1, cutoff=0.5)
    return f"unknown flag {name}" + (f", the nearest is {nearest[0]}" if nearest else "")
