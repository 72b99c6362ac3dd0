"""The faults of a data set, found from its decoded photos. No file is touched.

"wrong" makes training unsound: a training or validation photo that can't be read, or the same content in two splits (it
is measured on photos it has seen) or under two classes. A "warning" may be intended. A "note" does no harm.
"""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from toolkit.data.checks.decode import DecodeResult
from toolkit.data.dataset import DataSet
from toolkit.errors import first_few

STATES = ("wrong", "warning", "note")
FEW = 10  # training photos; a class with fewer is near-empty
TINY = 32  # pixels; a shorter side tells a network little
NARROW = 4  # times as long as wide: a square from its centre shows less than a quarter of such a photo
HUGE = 50  # times the pixels of the median photo
NAMES_PER_LINE = 5  # in a list of equal names or photos


class CheckedPhoto(NamedTuple):
    file: str  # relative to the data set's root
    split: str  # train, valid or test
    label: str | None  # None in test
    result: DecodeResult


@dataclass(frozen=True)
class Finding:
    state: str  # one of STATES
    kind: str  # one word, for programs
    text: str  # what was found, and how often
    lines: list[str]  # one per item
    items: list[Any]  # for programs


def checked_photos(data: DataSet, results: dict) -> list[CheckedPhoto]:
    "Every photo of `data` that has a result, in order. results: by path."
    labelled = [("train", *pair) for pair in data.train.items()] + [("valid", *pair) for pair in data.valid.items()]
    rows = [*labelled, *(("test", path, None) for path in data.test.values())]
    return [
        CheckedPhoto(data.relative(path), split, label, results[path]) for split, path, label in rows if path in results
    ]


def find_faults(data: DataSet, photos: list[CheckedPhoto]) -> list[Finding]:
    "All findings, in the order of STATES."
    found = [
        *unreadable(photos),
        *same_content(photos),
        *near_empty(data),
        *extreme_sizes(photos),
        *confusable_names(data, photos),
    ]
    return in_order(found)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    "The findings in the order of STATES."
    return sorted(findings, key=lambda finding: STATES.index(finding.state))


def unreadable(photos: Iterable[CheckedPhoto]) -> Iterator[Finding]:
    "Photos that can't be read: wrong in training and validation, a warning in test."
    refused = [photo for photo in photos if photo.result.reason]
    used = [photo for photo in refused if photo.split != "test"]
    test = [photo for photo in refused if photo.split == "test"]
    for state, kind, group, use in (
        ("wrong", "unreadable", used, "train or validate on"),
        ("warning", "unreadable_test", test, "predict"),
    ):
        if group:
            lines = [f"{photo.file}: {photo.result.reason}" for photo in group]
            items = [{"file": photo.file, "split": photo.split, "reason": photo.result.reason} for photo in group]
            yield Finding(state, kind, f"{counted(group)} to {use} can't be read", lines, items)


def same_content(photos: Iterable[CheckedPhoto]) -> Iterator[Finding]:
    "Files that are equal byte for byte. Those that can't be read are left to `unreadable`."
    leaks, conflicts, copies = [], [], []
    for group in _groups(photos, lambda photo: None if photo.result.reason else photo.result.digest):
        splits, labels = {photo.split for photo in group}, {photo.label for photo in group} - {None}
        if len(splits) > 1:
            leaks.append(group)
        if len(labels) > 1:
            conflicts.append(group)
        if len(splits) == 1 and len(labels) < 2:
            copies.append(group)
    for state, kind, groups, where in (
        ("wrong", "leak", leaks, "in another split"),
        ("wrong", "conflict", conflicts, "under another class"),
        ("note", "copies", copies, "in their own split and class"),
    ):
        if groups:
            lines = [_equal(_described(photo, kind) for photo in group) for group in groups]
            items = [_as_items(group) for group in groups]
            yield Finding(state, kind, f"{counted(groups)} with copies {where}", lines, items)


def near_empty(data: DataSet) -> Iterator[Finding]:
    "Classes with few photos to train on, or none to validate on."
    held_out = Counter(data.valid.values())
    few = sorted((name for name in data.classes if data.counts[name] < FEW), key=data.counts.get)
    none = [name for name in data.classes if not held_out[name]]
    for kind, names, lack in (
        ("few_train", few, f"fewer than {FEW} photos to train on"),
        ("no_valid", none, "no photo to validate on"),
    ):
        if names:
            lines = [f"{name}: {data.counts[name]} to train on, {held_out[name]} to validate" for name in names]
            items = [{"class": name, "train": data.counts[name], "valid": held_out[name]} for name in names]
            yield Finding("warning", kind, f"{counted(names, 'class', 'classes')} with {lack}", lines, items)


def extreme_sizes(photos: Iterable[CheckedPhoto]) -> Iterator[Finding]:
    "Photos that are very small, very narrow, or far larger than most."
    read = [photo for photo in photos if not photo.result.reason]
    usual = median(photo.result.width * photo.result.height for photo in read) if read else 0
    for kind, text, is_extreme in (
        ("tiny", f"with a side of less than {TINY} pixels", lambda short, long: short < TINY),
        ("narrow", f"over {NARROW} times as long as wide", lambda short, long: long > NARROW * short),
        ("huge", f"with over {HUGE} times the pixels of most", lambda short, long: short * long > HUGE * usual),
    ):
        group = [photo for photo in read if is_extreme(*sorted((photo.result.width, photo.result.height)))]
        if group:
            sizes = [(photo.file, photo.result.width, photo.result.height) for photo in group]
            lines = [f"{file}: {width} x {height}" for file, width, height in sizes]
            items = [{"file": file, "width": width, "height": height} for file, width, height in sizes]
            yield Finding("warning", kind, f"{counted(group)} {text}", lines, items)


def confusable_names(data: DataSet, photos: Iterable[CheckedPhoto]) -> Iterator[Finding]:
    "Names that macOS or Windows take for one: they differ only in case, or in how an accent is written."
    classes = _groups(data.classes, _folded)
    files = _groups((photo.file for photo in photos), _folded_name)
    for kind, groups, noun in (("class_names", classes, "class name"), ("file_names", files, "file name")):
        if groups:
            text = f"{counted(groups, noun, noun + 's')} in several spellings, which are one on macOS and Windows"
            yield Finding("warning", kind, text, [_equal(group) for group in groups], groups)


def counted(items: list, one: str = "photo", more: str = "photos") -> str:
    "The number of items, with their noun."
    return f"{len(items)} {one if len(items) == 1 else more}"


def _groups(items: Iterable, key: Callable[[Any], Any]) -> list[list]:
    "The items that share their key with another, together. A key of None is shared with no item."
    first, groups = {}, {}
    for item in items:
        value = key(item)
        if value is not None and first.setdefault(value, item) is not item:
            groups.setdefault(value, [first[value]]).append(item)
    return list(groups.values())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _folded_name(file: str) -> tuple[str, str]:
    folder, _, name = file.rpartition("/")
    return folder, _folded(name)


def _described(photo: CheckedPhoto, kind: str) -> str:
    "The photo's file; for a conflict also its class, which the path in a CSV does not show."
    return f"{photo.file} ({photo.label})" if kind == "conflict" and photo.label is not None else photo.file


def _as_items(group: list[CheckedPhoto]) -> list[dict[str, str | None]]:
    return [{"file": photo.file, "split": photo.split, "class": photo.label} for photo in group]


def _equal(names: Iterable[str]) -> str:
    return first_few(list(names), NAMES_PER_LINE, " = ")


def printable(text: str) -> str:
    "`text` on one line, in characters that stdout can print; the others are escaped."
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def width(text: str) -> int:
    "The number of columns that `text` takes on a terminal."
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
