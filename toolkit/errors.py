"""Tell the user's errors from our bugs, and turn a user's error into a line or two."""

import dis
import os
import re
import sys
from collections.abc import Sequence

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # links unresolved, as in the frames of a traceback
PACKAGES = tuple(os.path.join(HERE, package) + os.sep for package in ("recipes", "toolkit", "export"))

WHY_KILLED = {
    "Killed": "as if memory ran out; try fewer --workers, or 0",
    "Bus error": "as if shared memory was full; make /dev/shm larger (docker's --shm-size), or try fewer --workers",
    "": "as if memory ran out or a library failed in it (see above); try fewer --workers, or 0",
}


def user_message(error: Exception) -> str | None:
    """Return a line or two for the user, or None if `error` is a bug.

    An OSError is the user's machine, wherever it comes from. Any other error is for the user if a `raise` of ours made
    it: a ValueError out of a library, or out of `int("x")`, is something we failed to check.
    """
    if worker := _worker_message(error) or _killed_worker(error.__context__):
        return worker
    if isinstance(error, OSError):
        lines = [line for line in str(error).splitlines() if line.strip()][:2]
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else "\n".join(lines)
    return str(error) if _raised_by_us(error) else None


def _raised_by_us(error: Exception) -> bool:
    "Return whether a `raise` statement of ours made the error."
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return _is_ours(code.co_filename) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _is_ours(file: str) -> bool:
    "Return whether a file is in our packages, or is the file that is being run (someone's own recipe)."
    main = getattr(sys.modules["__main__"], "__file__", None)
    return os.path.abspath(file).startswith(PACKAGES) or bool(main and os.path.abspath(file) == os.path.abspath(main))


def _worker_message(error: Exception) -> str | None:
    """Return the message of an error in a DataLoader worker if it is for the user, else None.

    torch raises the error again in this process, of the same type, with the worker's traceback as its text:
    `Caught ValueError in DataLoader worker process 0.`, the frames, `ValueError: the message`. If the system killed a
    worker, torch raises a RuntimeError.
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
    """Return the message for an error by which torch reports that a worker is gone; None for another error.

    torch raises it at any point of the main process. If that is the start of a thread, CPython raises a KeyError over
    it. The cause of "exited unexpectedly" names the signal, if there was one.
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


def first_few(names: Sequence[str], limit: int = 3, separator: str = ", ") -> str:
    "Return the first `limit` names, and how many more there are."
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def reason_of(error: Exception) -> str:
    "Return in a few words why torch.load refused a file of more than weights; its own text says how to run it."
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"more than tensors: {named[1]}"
    return first_line(error)[:160]


def first_line(error: BaseException) -> str:
    "Return the first line of the message, or the name of the error's class if there is none."
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
