"""Doubts as the findings of `toolkit.check`."""

from collections.abc import Iterable

from toolkit.data.checks.findings import Finding, counted
from toolkit.features.doubts import Doubt

TEXTS = {
    "leak": ("warning", "near_leak", "nearly the same as one in another split"),
    "conflict": ("warning", "near_conflict", "nearly the same as one under another class"),
    "label": ("warning", "wrong_label", "whose label is probably wrong"),
    "duplicate": ("note", "near_copy", "nearly the same as one in their own split and class"),
    "odd": ("note", "odd", "unlike all others"),
}


def as_findings(doubts: list[Doubt]) -> Iterable[Finding]:
    "Yield a finding for each kind of doubt that there is."
    for kind, (state, word, text) in TEXTS.items():
        if found := [doubt for doubt in doubts if doubt.finding == kind]:
            items = [doubt._asdict() for doubt in found]
            yield Finding(state, word, f"{counted(found)} {text}", [_line(doubt) for doubt in found], items)


def _line(doubt: Doubt) -> str:
    if doubt.finding == "label":
        return f"{doubt.file}: {doubt.label}, more like {doubt.suggestion} ({float(doubt.score):.0%})"
    if doubt.finding == "odd":
        return f"{doubt.file}: {float(doubt.score):.1f} deviations from the rest"
    classes = f" ({doubt.label}, {doubt.suggestion})" if doubt.finding == "conflict" else ""
    return f"{doubt.file} ~ {doubt.other}{classes}, {float(doubt.score):.3f}"
