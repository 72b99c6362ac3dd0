"""What is amiss in a data set, by its photos' verdicts. Pure: no file is touched.

"wrong" makes training unsound: a training or validation photo that can't be read, the same content in two splits (what
is measured there was seen before) or under two classes. "warning" is what may be meant so; "note" what does no harm.
"""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from toolkit.data.dataset import DataSet
from toolkit.data.decode_check import Verdict

STATES = ("wrong", "warning", "note")
FEW = 10  # training photos; a class of fewer is near-empty
TINY = 32  # pixels; a shorter side says little to a network
NARROW = 4  # times as long as wide: a square from its centre shows less than a quarter of such a photo
HUGE = 50  # times the pixels of the median photo
SAME = 5  # names on the line that says they are the same


class Photo(NamedTuple):
    file: str  # relative to the data set's root
    split: str  # train, valid or test
    label: str | None  # None in test
    verdict: Verdict


@dataclass(frozen=True)
class Finding:
    state: str  # one of STATES
    kind: str  # one word, for programs
    text: str  # what, how many
    lines: list[str]  # one for each item
    items: list[Any]  # for programs


def judged(data: DataSet, verdicts: dict) -> list[Photo]:
    "Every photo of `data` that is in `verdicts` (by path), in order."
    labelled = [("train", *pair) for pair in data.train.items()] + [("valid", *pair) for pair in data.valid.items()]
    rows = [*labelled, *(("test", path, None) for path in data.test.values())]
    return [Photo(data.relative(path), split, label, verdicts[path]) for split, path, label in rows if path in verdicts]


def find_faults(data: DataSet, photos: list[Photo]) -> list[Finding]:
    "All that is amiss, what is wrong first."
    found = [
        *unreadable(photos),
        *same_content(photos),
        *near_empty(data),
        *extreme_sizes(photos),
        *alike(data, photos),
    ]
    return sorted(found, key=lambda finding: STATES.index(finding.state))


def unreadable(photos: Iterable[Photo]) -> Iterator[Finding]:
    refused = [photo for photo in photos if photo.verdict.reason]
    used = [photo for photo in refused if photo.split != "test"]
    test = [photo for photo in refused if photo.split == "test"]
    for state, kind, held, use in (
        ("wrong", "unreadable", used, "train or validate on"),
        ("warning", "unreadable_test", test, "predict"),
    ):
        if held:
            lines = [f"{photo.file}: {photo.verdict.reason}" for photo in held]
            items = [{"file": photo.file, "split": photo.split, "reason": photo.verdict.reason} for photo in held]
            yield Finding(state, kind, f"{counted(held)} to {use} can't be read", lines, items)


def same_content(photos: Iterable[Photo]) -> Iterator[Finding]:
    "Files that are byte for byte the same. What can't be read is left to `unreadable`."
    leaks, conflicts, copies = [], [], []
    for group in _groups(photos, lambda photo: None if photo.verdict.reason else photo.verdict.digest):
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
            lines = [_same(_placed(photo, kind) for photo in group) for group in groups]
            yield Finding(state, kind, f"{counted(groups)} with copies {where}", lines, [_places(g) for g in groups])


def near_empty(data: DataSet) -> Iterator[Finding]:
    held_out = Counter(data.valid.values())
    few = sorted((name for name in data.classes if data.counts[name] < FEW), key=data.counts.get)
    none = [name for name in data.classes if not held_out[name]]
    for kind, names, said in (
        ("few_train", few, f"fewer than {FEW} photos to train on"),
        ("no_valid", none, "no photo to validate on"),
    ):
        if names:
            lines = [f"{name}: {data.counts[name]} to train on, {held_out[name]} to validate" for name in names]
            items = [{"class": name, "train": data.counts[name], "valid": held_out[name]} for name in names]
            yield Finding("warning", kind, f"{counted(names, 'class', 'classes')} with {said}", lines, items)


def extreme_sizes(photos: Iterable[Photo]) -> Iterator[Finding]:
    read = [photo for photo in photos if not photo.verdict.reason]
    usual = median(photo.verdict.width * photo.verdict.height for photo in read) if read else 0
    for kind, said, extreme in (
        ("tiny", f"with a side of less than {TINY} pixels", lambda short, long: short < TINY),
        ("narrow", f"over {NARROW} times as long as wide", lambda short, long: long > NARROW * short),
        ("huge", f"with over {HUGE} times the pixels of most", lambda short, long: short * long > HUGE * usual),
    ):
        held = [photo for photo in read if extreme(*sorted((photo.verdict.width, photo.verdict.height)))]
        if held:
            sizes = [(photo.file, photo.verdict.width, photo.verdict.height) for photo in held]
            lines = [f"{file}: {width} x {height}" for file, width, height in sizes]
            items = [{"file": file, "width": width, "height": height} for file, width, height in sizes]
            yield Finding("warning", kind, f"{counted(held)} {said}", lines, items)


def alike(data: DataSet, photos: Iterable[Photo]) -> Iterator[Finding]:
    "Names that are one name on macOS or Windows: they differ only in case, or in how an accent is written."
    classes = _groups(data.classes, _folded)
    files = _groups((photo.file for photo in photos), _folded_name)
    for kind, groups, what in (("class_names", classes, "class name"), ("file_names", files, "file name")):
        if groups:
            said = f"{counted(groups, what, what + 's')} in several spellings, which are one on macOS and Windows"
            yield Finding("warning", kind, said, [_same(group) for group in groups], groups)


def counted(items: list, one: str = "photo", more: str = "photos") -> str:
    return f"{len(items)} {one if len(items) == 1 else more}"


def _groups(items: Iterable, key: Callable[[Any], Any]) -> list[list]:
    "Those items that share their key with another, together; a key of None is shared with nobody."
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


def _placed(photo: Photo, kind: str) -> str:
    "Its file, and for a conflict its class, which a CSV's path does not show."
    return f"{photo.file} ({photo.label})" if kind == "conflict" and photo.label is not None else photo.file


def _places(group: list[Photo]) -> list[dict[str, str | None]]:
    return [{"file": photo.file, "split": photo.split, "class": photo.label} for photo in group]


def _same(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SAME} more" if len(names) > SAME else ""
    return " = ".join(names[:SAME]) + more


def printable(text: str) -> str:
    "`text` on one line, in characters that stdout has; the others escaped."
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    "Columns that a terminal gives it."
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
