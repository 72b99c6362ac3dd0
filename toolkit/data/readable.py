"""Check that the photos of a data set can be read. The outcome is remembered until a file changes."""

import hashlib
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastcore.xdg import xdg_cache_home

from toolkit import ranks
from toolkit.data.checks.decode import DecodeResult, decode_all, decode_with_progress
from toolkit.data.checks.findings import checked_photos, counted, printable, same_content
from toolkit.data.checks.others import files_not_read
from toolkit.data.checks.without import without_listed
from toolkit.data.dataset import DataSet, find_data
from toolkit.data.on_disk.folds import HELD_OUT, is_fold, read_held_out
from toolkit.data.on_disk.photo_files import file_states
from toolkit.data.photo import decoder_digest
from toolkit.data.sources.source import Columns
from toolkit.errors import first_few
from toolkit.files import write_atomic
from toolkit.options import Options


class FoldUnknown(FileNotFoundError):
    "The run folder of a fold does not say yet which photos it holds out. data: all photos."

    def __init__(self, message: str, data: DataSet):
        super().__init__(message)
        self.data = data


def open_dataset(options: Options) -> DataSet:
    """The data set at `options.data`, all its training and validation photos readable; with --fold without its photos.

    Photos listed in `options.without` are left out first.
    Raises ValueError and FileNotFoundError as `find_data`, `without_listed` and `readable` do, and FoldUnknown for a
    fold whose run folder has no held_out.csv.
    """
    data = find_data(options.data, options.seed, columns=Columns(options.image_column, options.label_column))
    if options.without:
        data = without_listed(data, options.without)
    data = readable(data, options.skip_unreadable)
    return without_fold(data, options) if options.fold else data


def without_fold(data: DataSet, options: Options) -> DataSet:
    "Return `data` without the training photos in held_out.csv. Raises ValueError if they are not among them."
    if options.out is None or not is_fold(options.out):
        raise FoldUnknown(
            f"{(options.out or Path()) / HELD_OUT}: no such file; it says what --fold {options.fold} holds out, "
            f"and a recipe's command with --folds {options.folds} writes it",
            data,
        )
    photos = {data.relative(photo): photo for photo in data.train}
    held_out = read_held_out(options.out)
    gone = [name for name, label in held_out.items() if name not in photos or data.train[photos[name]] != label]
    if gone:
        raise ValueError(
            f"{first_few([printable(name) for name in gone])} of {options.out / HELD_OUT}: not among the photos to "
            f"train on in {data.name} with that label; bring them back, or give another --out"
        )
    return data.holding_out({photos[name] for name in held_out})


def readable(data: DataSet, skip_unreadable: bool = False, workers: int | None = None) -> DataSet:
    """Return `data`, with its squareness, if all its photos to train or validate on can be read, or with
    `skip_unreadable` the rest of it.

    Each photo is decoded once: the outcome is kept in the user's cache folder until a file changes. A warning on stderr
    tells of content that stands in both splits or under two classes, and of files among the photos that are not read.
    Raises ValueError for photos that can't be read, for a class that has no others, and for fewer than one worker.
    """
    outcome = _outcome(data, workers)
    if warnings := [*outcome["warnings"], *(finding.text for finding in files_not_read(data))]:
        print(f"warning: {', '.join(warnings)}: `{_command(data)}` lists them", file=sys.stderr)
    data, reasons = replace(data, squareness=outcome["squareness"]), outcome["unreadable"]
    unread = {path: reasons[name] for path in (*data.train, *data.valid) if (name := data.relative(path)) in reasons}
    if not unread:
        return data
    names = [printable(data.relative(path)) for path in unread]
    if not skip_unreadable:
        faults = [f"{name}: {reason}" for name, reason in zip(names, unread.values(), strict=True)]
        raise ValueError(
            f"{counted(unread)} in {data.name} can't be read: {first_few(faults, separator='; ')}\n"
            f"`{_command(data)}` lists them all; --skip_unreadable leaves them out"
        )
    left = data.without(unread)
    print(f"left out {counted(unread)} that can't be read: {first_few(names)}")
    return left


def _command(data: DataSet) -> str:
    return f"python -m toolkit.check {shlex.quote(data.name)}"


@ranks.first_here()
def _outcome(data: DataSet, workers: int | None) -> dict[str, Any]:
    """The faults of the photos to train and validate on: {"unreadable": {file: reason}, "warnings": [text],
    "squareness": of `squareness`}.

    Photos that could be read are remembered. Those that could not are tried again: the cause may lie outside the file.
    """
    file, paths = _cache_file(data), [*data.train, *data.valid]
    outcome = _remembered(file)
    if outcome and _still_unreadable(data, outcome, workers):
        return outcome
    started = time.monotonic()
    photos = checked_photos(data, decode_with_progress(paths, workers))
    if (seconds := time.monotonic() - started) > 1:
        print(f"checked {counted(photos)} in {seconds:.1f} s")
    outcome = {
        "unreadable": {photo.file: photo.result.reason for photo in photos if photo.result.reason},
        "warnings": [finding.text for finding in same_content(photos) if finding.state == "wrong"],
        "squareness": squareness([photo.result for photo in photos]),
    }
    _remember(file, outcome)
    return outcome


def squareness(results: list[DecodeResult]) -> float:
    "The mean over photos of their shorter side divided by the longer: the share of a photo in its central square."
    shares = [min(each.width, each.height) / max(each.width, each.height) for each in results if each.width]
    return sum(shares) / len(shares) if shares else 1.0


def _still_unreadable(data: DataSet, outcome: dict[str, Any], workers: int | None) -> bool:
    paths = [path for path in (*data.train, *data.valid) if data.relative(path) in outcome["unreadable"]]
    return all(result.reason for _, result in decode_all(paths, workers))


def _cache_file(data: DataSet) -> Path | None:
    "The file of the outcome: another one if a photo, a label or the decoder changes. None if the user has no home."
    states = file_states([*data.train, *data.valid]).hex()
    key = hashlib.sha256(f"{data.fingerprints[1]} {decoder_digest()} {states}".encode())
    try:
        return xdg_cache_home() / "rapid-finetune" / "checked" / f"{key.hexdigest()}.json"
    except RuntimeError:  # the system does not know this user, as in a container
        return None


def _remembered(file: Path | None) -> dict[str, Any] | None:
    "The outcome in `file`; None if there is no file or it is damaged."
    try:
        outcome = json.loads(file.read_bytes()) if file else None
    except (OSError, ValueError):
        return None
    kinds = {"unreadable": dict, "warnings": list, "squareness": float}
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
