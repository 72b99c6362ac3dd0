"""What is wrong with a data set, before an epoch is spent on it: `python -m toolkit.check DATA`.

Every photo is decoded, by the reader that training uses, and hashed. What counts as wrong, and what as a warning, is
in toolkit/findings.py. `readable` is the part that recipes run: training and validation photos, once per state of them.
"""

import hashlib
import json
import shlex
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import PIL
from fastcore.xdg import xdg_cache_home
from tqdm import tqdm

import toolkit.photo
from toolkit import ranks
from toolkit.command import command
from toolkit.data import DataSet, find_data
from toolkit.findings import STATES, Finding, counted, find_faults, judged, same_content
from toolkit.run import write_atomic
from toolkit.verdicts import Verdict, verdicts

LISTED = 20  # lines of a list on a terminal; --json has all


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
    key.update(Path(toolkit.photo.__file__).read_bytes())
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


# The command


class Report(NamedTuple):
    "A data set and all that is amiss in it."

    data: DataSet
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        return not any(finding.state == "wrong" for finding in self.findings)


def check(data: str | Path, seed: int = 0, workers: int | None = None) -> Report:
    "What is amiss in the data set at `data`. Raises what `find_data` raises, and ValueError for fewer than one worker."
    refusals = []
    try:
        found = find_data(data, seed)
    except ValueError as error:  # the rest is looked at all the same, where that is possible
        found = find_data(data, seed, lone=True)
        refusals.append(Finding("wrong", "lone", str(error), [], []))
    paths = [*found.train, *found.valid, *found.test.values()]
    return Report(found, [*refusals, *find_faults(found, judged(found, _verdicts(paths, workers)))])


def as_json(report: Report) -> str:
    "One object: data, sound, photos (of each split), classes (photos of each, by split), findings."
    data, held_out = report.data, Counter(report.data.valid.values())
    return json.dumps(
        {
            "data": str(data.path),
            "sound": report.sound,
            "photos": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
            "classes": {name: {"train": data.counts[name], "valid": held_out[name]} for name in data.classes},
            "findings": [
                {"state": finding.state, "kind": finding.kind, "text": finding.text, "items": finding.items}
                for finding in report.findings
            ],
        }
    )  # ASCII, so that any terminal takes it, and names that are not unicode come back as they were


def as_text(report: Report) -> Iterable[str]:
    "The lines for a person."
    data, held_out = report.data, Counter(report.data.valid.values())
    parts = f"{len(data.train)} photos to train on, {len(data.valid)} to validate, {len(data.test)} to predict"
    yield f"{printable(str(data.path))}: {len(data.classes)} classes, {parts}\n"
    names = {name: printable(name) for name in data.classes[:LISTED]}
    column = max(_width(name) for name in [*names.values(), "class"])
    yield f"{'class':<{column}}  train  valid"
    for name, shown in names.items():
        yield f"{shown}{' ' * (column - _width(shown))}  {data.counts[name]:>5}  {held_out[name]:>5}"
    yield from _more(data.classes)
    yield f"{'all':<{column}}  {len(data.train):>5}  {len(data.valid):>5}\n"
    for finding in report.findings:
        yield f"{finding.state:<7}  {finding.text}"
        yield from (f"         {printable(line)}" for line in finding.lines[:LISTED])
        yield from (f"         {line}" for line in _more(finding.lines))
    states = Counter(finding.state for finding in report.findings)
    told = [
        f"{states[state]} {state}{'s' * (states[state] > 1 and state != 'wrong')}" for state in STATES if states[state]
    ]
    yield ", ".join(told or ["all well"]) + ("" if report.sound else ": training on this would be unsound")


def _more(items: list) -> Iterable[str]:
    if len(items) > LISTED:
        yield f"... and {len(items) - LISTED} more"


def printable(text: str) -> str:
    "`text` on one line, in characters that stdout has; the others escaped."
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    "Columns that a terminal gives it."
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@command(status=lambda report: 0 if report.sound else 2)
def main(
    data: Path,  # folder with train/ and val/, folder of class folders, or CSV with columns path,label
    json: bool = False,  # one JSON object on stdout, with every file, for programs
    workers: int | None = None,  # processes that read photos; one a core unless given
    seed: int = 0,  # of the split, where the data does not come split
) -> Report:
    "Say what is wrong with a data set; exit status 2 where training on it would be unsound."
    report = check(data, seed, workers)
    print(as_json(report) if json else "\n".join(as_text(report)))
    return report
