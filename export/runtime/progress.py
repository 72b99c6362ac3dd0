"""A progress bar on stderr if that is a terminal, and lines that do not run into the bar."""

import re
import sys
import time
from collections.abc import Iterable, Iterator

CLEAR = "\r\033[K"
"Clears the bar from the terminal's line."


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"Codes that a terminal obeys. The names of files may hold them."


def print_line(line: str) -> None:
    "Print `line` on stderr, over the bar if there is one, with escapes such as \\x1b in place of control codes."
    shown = CONTROL.sub(lambda code: f"\\x{ord(code[0]):02x}", line)
    print(f"{CLEAR if _on_terminal() else ''}{shown}", file=sys.stderr)


def with_bar(items: Iterable, done: int, total: int) -> Iterator:
    "Yield the items, numbers `done` + 1 to `total`, with a bar on stderr if that is a terminal."
    if not _on_terminal():
        yield from items
        return
    started = drawn = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - drawn > 0.1 or done + count == total:
            filled = 30 * (done + count) // total
            rate = count / (now - started)
            bar = f"[{'#' * filled}{'.' * (30 - filled)}] {done + count}/{total} {rate:.0f} images/s"
            print(CLEAR + (bar if done + count < total else ""), end="", file=sys.stderr, flush=True)
            drawn = now


def _on_terminal() -> bool:
    return bool(sys.stderr) and sys.stderr.isatty()
