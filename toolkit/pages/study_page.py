"""The files of a study: study.csv, study_pairs.csv, study.md and study.html."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from toolkit.evaluation.comparisons import pairs, recall_by_frequency, variants
from toolkit.evaluation.formatting import number, percent
from toolkit.evaluation.study import Study
from toolkit.files import write_atomic, write_csv
from toolkit.pages import study_plots
from toolkit.pages.drawing import svg
from toolkit.pages.study_tables import pair_csv, pair_table, recall_table, variant_csv, variant_table
from toolkit.pages.study_text import findings, method, recall_sentences

CURVES = {"valid_loss": "Validation loss", "accuracy": "Validation accuracy"}
RECALL_NOTE = (
    "Share of these classes’ validation images that are right, mean ± standard deviation over seeds. In brackets: the "
    "95 % interval of the difference to the first variant in points, not corrected for the number of comparisons."
)


@dataclass(frozen=True)
class StudyPage:
    "The content that study.md and study.html share. Tables are rows of text, headings first; empty if there is none."

    title: str
    command: str  # as typed, to run the study again
    findings: list[str]  # sentences, the overall finding first
    variants: list[list[str]]
    pairs: list[list[str]]
    recalls: list[list[str]]
    recall_text: str
    method: list[str]
    recall_note: str = RECALL_NOTE


def write_study(folder: Path, study: Study, command: list[str]) -> Path:
    """Write the four files into `folder`; return the path of study.html. command: the words that made the study.

    study.csv has a row for each variant, study_pairs.csv a row for each pair.
    """
    rows, compared, thirds = variants(study), pairs(study), recall_by_frequency(study)
    write_csv(folder / "study.csv", *variant_csv(rows, thirds))
    write_csv(folder / "study_pairs.csv", *pair_csv(compared))
    page = StudyPage(
        title=f"{study.runs[0][0].recipe['recipe']}: {' · '.join(study.names)}",
        command=shlex.join(command),
        findings=findings(study, compared),
        variants=variant_table(rows),
        pairs=pair_table(compared),
        recalls=recall_table(thirds),
        recall_text=recall_sentences(study, thirds),
        method=method(study),
    )
    write_atomic(folder / "study.md", markdown(page))
    file = folder / "study.html"
    intervals = interval_panels(study, rows, compared)
    write_atomic(file, render(folder, study, page, intervals).encode("utf-8", "replace"))
    return file


# Markdown


def markdown(page: StudyPage) -> str:
    "The text of study.md: findings, tables and method."
    parts = [f"# {_escaped(page.title)}", *map(_escaped, page.findings)]
    parts += [_table(rows) for rows in (page.variants, page.pairs) if rows]
    parts += ["## Rare classes", _escaped(page.recall_text)]
    parts += [_table(page.recalls), page.recall_note] if page.recalls else []
    parts += ["## Method", *map(_escaped, page.method), f"    {page.command}"]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]]) -> str:
    head, *body = [[_escaped(cell) for cell in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    "`text` with a backslash before each character that is Markdown."
    for mark in "\\|<*_`":
        text = text.replace(mark, f"\\{mark}")
    return text


# HTML


def render(folder: Path, study: Study, page: StudyPage, intervals: list[dict]) -> str:
    "The text of study.html, with links from `folder` to the pages of the runs."
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("toolkit.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    links = [
        (name, [(run.folder.relative_to(folder).as_posix(), run.recipe["options"]["seed"]) for run in runs])
        for name, runs in zip(study.names, study.runs, strict=True)
    ]
    template = environment.get_template("study.html")
    return template.render(study=study, page=page, intervals=intervals, curves=curve_panels(study), links=links)


def interval_panels(study: Study, rows: list[dict], compared: list[dict]) -> list[dict]:
    "Panels {svg, alt}: the accuracies with their intervals, and the differences if there are pairs."
    by_seed = study.accuracy.tolist()
    accuracies = [(r["name"], r["low"], r["accuracy"], r["high"], by_seed[i]) for i, r in enumerate(rows)]
    panels = [_interval_panel("Accuracy with 95 % interval", accuracies)]
    if compared:
        gaps = [(f"{r['a']} − {r['b']}", r["low"], r["difference"], r["high"], []) for r in compared]
        panels.append(_interval_panel("Difference in accuracy, in points", gaps, zero=True))
    return panels


def _interval_panel(title: str, values: list[tuple], zero: bool = False) -> dict:
    spoken = (f"{name} {percent(mean)}, {percent(low)} to {percent(high)}" for name, low, mean, high, _ in values)
    return {"svg": svg(study_plots.intervals(values, title, zero), title), "alt": f"{title}: {'; '.join(spoken)}"}


def curve_panels(study: Study) -> list[dict]:
    "Panels {svg, alt}: validation loss and accuracy by epoch, all variants in one plot."
    histories, panels = dict(zip(study.names, study.histories, strict=True)), []
    for column, title in CURVES.items():
        ends = "; ".join(f"{name} ends at {number(float(runs[0][column][-1]))}" for name, runs in histories.items())
        plot = svg(study_plots.overlaid(histories, column, title), title)
        panels.append({"svg": plot, "alt": f"{title} by epoch: {ends}"})
    return panels
