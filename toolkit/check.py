"""What is wrong with a data set, before an epoch is spent on it: `python -m toolkit.check DATA`.

Every photo is decoded, by the reader that training uses, and hashed. What counts as wrong, and what as a warning, is
in toolkit/findings.py. `readable` is the part that recipes run: training and validation photos, once per state of them.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from toolkit.command import run_script
from toolkit.data.dataset import DataSet, find_data
from toolkit.data.findings import STATES, Finding, _width, find_faults, judged, printable
from toolkit.data.readable import _verdicts

LISTED = 20  # lines of a list on a terminal; --json has all


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


if __name__ == "__main__":
    run_script(main, status=lambda report: 0 if report.sound else 2)
