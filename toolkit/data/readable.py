"""Whether the photos of a data set can be read; what was found is remembered until a file changes."""

import hashlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import PIL
from fastcore.xdg import xdg_cache_home
from tqdm import tqdm

import toolkit.data.photo
from toolkit import ranks
from toolkit.data.dataset import DataSet, find_data
from toolkit.data.decode_check import Verdict, verdicts
from toolkit.data.findings import counted, judged, printable, same_content
from toolkit.files import write_atomic
from toolkit.options import Options


def open_dataset(options: Options) -> DataSet:
    """The data set at `options.data`, all its training and validation photos readable.

    Raises ValueError and FileNotFoundError as `find_data` and `readable` do.
    """
    return readable(find_data(options.data, options.seed), options.skip_unreadable)


def readable(data: DataSet, skip_unreadable: bool = False, workers: int | None = None) -> DataSet:
    """`data`, if all its photos to train or validate on can be read; with `skip_unreadable`, what is left of it.

    Photos are decoded once: the outcome is kept in the user's cache folder until a file changes. Content that stands in
    both splits, or under two classes, is a line on stderr. Raises ValueError for photos that can't be read, for a class
    that has no others, and for fewer than one worker.
    """
    outcome = _outcome(data, workers)
    if outcome["warnings"]:
        print(f"warning: {', '.join(outcome['warnings'])}: `{_command(data)}` lists them", file=sys.stderr)
    names = outcome["unreadable"]
    unread = {path: names[name] for path in (*data.train, *data.valid) if (name := data.relative(path)) in names}
    if not unread:
        return data
    first = [printable(data.relative(path)) for path in list(unread)[:3]]
    more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
    if not skip_unreadable:
        told = "; ".join(f"{name}: {reason}" for name, reason in zip(first, unread.values(), strict=False))
        raise ValueError(
            f"{counted(unread)} in {data.path} can't be read: {told}{more}\n"
            f"`{_command(data)}` lists them all; --skip_unreadable leaves them out"
        )
    left = data.without(unread)
    print(f"left out {counted(unread)} that can't be read: {', '.join(first)}{more}")
    return left


def _command(data: DataSet) -> str:
    return f"python -m toolkit.check {shlex.quote(str(data.path))}"


@ranks.first_here()
def _outcome(data: DataSet, workers: int | None) -> dict[str, Any]:
    """What is wrong with the photos to train and validate on: {"unreadable": {file: reason}, "warnings": [text]}.

    What could be read is remembered; what could not is tried again, for the cause may lie outside the file.
    """
    file, paths = _cache_file(data), [*data.train, *data.valid]
    outcome = _remembered(file)
    if outcome and _still_unread(data, outcome, workers):
        return outcome
    begun = time.monotonic()
    photos = judged(data, _verdicts(paths, workers))
    if (seconds := time.monotonic() - begun) > 1:
        print(f"checked {counted(photos)} in {seconds:.1f} s")
    outcome = {
        "unreadable": {photo.file: photo.verdict.reason for photo in photos if photo.verdict.reason},
        "warnings": [finding.text for finding in same_content(photos) if finding.state == "wrong"],
    }
    _remember(file, outcome)
    return outcome


def _still_unread(data: DataSet, outcome: dict[str, Any], workers: int | None) -> bool:
    paths = [path for path in (*data.train, *data.valid) if data.relative(path) in outcome["unreadable"]]
    return all(verdict.reason for _, verdict in verdicts(paths, workers))


def _cache_file(data: DataSet) -> Path | None:
    "Where the outcome is kept: another file whenever a photo, a label, or the reader changes. None without a home."
    key = hashlib.sha256(f"{data.fingerprint} {cv2.__version__} {PIL.__version__}".encode())
    key.update(Path(toolkit.data.photo.__file__).read_bytes())
    for path in (*data.train, *data.valid):
        state = path.stat()
        line = f"{path.absolute()}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}\n"
        key.update(line.encode(errors="surrogatepass"))
    try:
        return xdg_cache_home() / "rapid-finetune" / "checked" / f"{key.hexdigest()}.json"
    except RuntimeError:  # the system does not know this user, as in a container
        return None


def _remembered(file: Path | None) -> dict[str, Any] | None:
    "What `file` holds; None where there is none, or it is damaged."
    try:
        outcome = json.loads(file.read_bytes()) if file else None
    except (OSError, ValueError):
        return None
    kinds = {"unreadable": dict, "warnings": list}
    whole = isinstance(outcome, dict) and all(isinstance(outcome.get(key), kind) for key, kind in kinds.items())
    return outcome if whole else None


def _remember(file: Path | None, outcome: dict[str, Any]) -> None:
    trouble = "this user has no home folder"
    if file:
        try:
            return write_atomic(file, json.dumps(outcome))
        except OSError as error:
            trouble = f"{file.parent} can't be written ({error.strerror or error})"
    print(f"note: the photos will be checked again next time, {trouble}", file=sys.stderr)


def _verdicts(paths: list[Path], workers: int | None) -> dict[Path, Verdict]:
    "By path, with a bar on stderr while it is a terminal."
    silent = not (sys.stderr and sys.stderr.isatty())
    return dict(tqdm(verdicts(paths, workers), total=len(paths), disable=silent, leave=False, unit=" photos"))
