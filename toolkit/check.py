"""Find the faults of a data set before an epoch is spent on it: `python -m toolkit.check DATA`.

Every photo is decoded, by the reader that training uses, and hashed. toolkit/data/checks/findings.py says what counts
as wrong and what as a warning. Recipes check their photos by `toolkit.data.readable`. With --features a network looks
at the photos too; toolkit/features/ has what its features show.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.command import run_script
from toolkit.commandline.spread import with_keywords
from toolkit.data.checks.decode import decode_with_progress
from toolkit.data.checks.findings import (
    STATES,
    Finding,
    checked_photos,
    counted,
    find_faults,
    in_order,
    printable,
    width,
)
from toolkit.data.checks.others import files_not_read
from toolkit.data.dataset import DataSet, find_data
from toolkit.data.sources.source import Columns
from toolkit.features.network_options import NetworkOptions

if TYPE_CHECKING:
    from toolkit.features.doubts import Doubt

LISTED = 20  # lines of a list on a terminal; --json has all


class Report(NamedTuple):
    "A data set and its faults."

    data: DataSet
    findings: list[Finding]
    doubts: list["Doubt"] | None = None  # those of the findings that features show; None if none were computed

    @property
    def sound(self) -> bool:
        return not any(finding.state == "wrong" for finding in self.findings)


def check(
    data: str | Path,
    seed: int = 0,
    workers: int | None = None,
    network: dict[str, Any] | None = None,
    columns: Columns | None = None,
) -> Report:
    """Find the faults of the data set at `data`.

    network: the arguments of `toolkit.features.network.seen_by`, for a network that looks at the photos as well.
    columns: of its tables, as for `toolkit.data.sources.source.open_source`.

    Raises as `find_data` does, but for a class of one photo, which is a finding; and ValueError for fewer than one
    worker.
    """
    refusals = []
    try:
        found = find_data(data, seed, columns=columns)
    except ValueError as error:  # the rest is checked all the same, if that is possible
        found = find_data(data, seed, allow_single=True, columns=columns)
        refusals.append(Finding("wrong", "lone", str(error), [], []))
    paths = [*found.train, *found.valid, *found.test.values()]
    photos = checked_photos(found, decode_with_progress(paths, workers))
    findings = in_order([*refusals, *find_faults(found, photos), *files_not_read(found)])
    if network is None:
        return Report(found, findings)
    from toolkit.features.network import seen_by
    from toolkit.features.summary import as_findings

    readable = [photo for photo in photos if not photo.result.reason]
    doubts = seen_by(found, readable, seed=seed, workers=workers, **network)
    return Report(found, in_order([*findings, *as_findings(doubts)]), doubts)


def as_json(report: Report) -> str:
    "One object: data, sound, photos (of each split), classes (photos of each, by split), findings."
    # in ASCII, which any terminal prints; names that are not Unicode are kept
    data, held_out = report.data, Counter(report.data.valid.values())
    return json.dumps(
        {
            "data": data.name,
            "sound": report.sound,
            "photos": {"train": len(data.train), "valid": len(data.valid), "test": len(data.test)},
            "classes": {name: {"train": data.counts[name], "valid": held_out[name]} for name in data.classes},
            "findings": [
                {"state": finding.state, "kind": finding.kind, "text": finding.text, "items": finding.items}
                for finding in report.findings
            ],
        }
    )


def as_text(report: Report) -> Iterable[str]:
    "The lines for a person."
    data = report.data
    parts = f"{len(data.train)} photos to train on, {len(data.valid)} to validate, {len(data.test)} to predict"
    yield f"{printable(data.name)}: {len(data.classes)} classes, {parts}\n"
    yield from _class_table(data)
    for finding in report.findings:
        yield f"{finding.state:<7}  {printable(finding.text)}"
        yield from (f"         {printable(line)}" for line in finding.lines[:LISTED])
        yield from (f"         {line}" for line in _more(finding.lines))
    states = Counter(finding.state for finding in report.findings)
    summary = [f"{n} {state}{'s' * (n > 1 and state != 'wrong')}" for state in STATES if (n := states[state])]
    yield ", ".join(summary or ["all well"]) + ("" if report.sound else ": training on this would be unsound")


def _class_table(data: DataSet) -> Iterable[str]:
    held_out = Counter(data.valid.values())
    names = {name: printable(name) for name in data.classes[:LISTED]}
    column = max(width(name) for name in [*names.values(), "class"])
    yield f"{'class':<{column}}  train  valid"
    for name, shown in names.items():
        yield f"{shown}{' ' * (column - width(shown))}  {data.counts[name]:>5}  {held_out[name]:>5}"
    yield from _more(data.classes)
    yield f"{'all':<{column}}  {len(data.train):>5}  {len(data.valid):>5}\n"


def _more(items: list) -> Iterable[str]:
    if len(items) > LISTED:
        yield f"... and {len(items) - LISTED} more"


@with_keywords(NetworkOptions)
def main(
    data: Path,  # folder of photos, CSV with columns path,label, zip, Parquet, or hf://USER/NAME
    json: bool = False,  # print one JSON object, with every file, for programs
    workers: int | None = None,  # processes that read photos (default: one per core)
    seed: int = 0,  # of the split, if the data does not come split
    image_column: str | None = None,  # column of the photos in Parquet files (default: found by its type)
    label_column: str | None = None,  # column of the labels in Parquet files (default: found by its type)
    network: NetworkOptions = NetworkOptions(),  # noqa: B008  frozen
) -> Report:
    "Find the faults of a data set. The exit status is 2 if training on it would be unsound."
    report = check(data, seed, workers, network.checked(), Columns(image_column, label_column))
    print(as_json(report) if json else "\n".join(as_text(report)))
    write_doubtful(report, network)
    return report


def write_doubtful(report: Report, network: NetworkOptions) -> None:
    "Write the doubts of a report to the files that are given, and say so on stderr."
    if network.csv:
        from toolkit.features.doubts import write_doubts

        write_doubts(network.csv, report.doubts)
        rows = counted(report.doubts, "row", "rows")
        remedy = f": delete those of photos to keep, then train with --without {network.csv}" if report.doubts else ""
        print(f"{rows} in {network.csv}{remedy}", file=sys.stderr)
    if network.page:
        from toolkit.pages.doubts_page import write_doubts_page

        write_doubts_page(network.page, report.doubts, report.data.root, report.data.name, network.arch)
        print(f"page {network.page}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main, status=lambda report: 0 if report.sound else 2)
