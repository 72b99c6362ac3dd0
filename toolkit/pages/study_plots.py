"""The plots of a study as matplotlib figures: curves of several variants in one plot, and intervals side by side."""

import itertools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from toolkit.pages.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, add_axes, short

LINES = [  # colour, style and marker of each variant: distinguishable without colour too
    (colour, style, marker)
    for style, markers in (("-", "os^D"), ("--", "vP*X"), (":", "<>hd"))
    for colour, marker in zip((BLUE, ORANGE, GREEN, PURPLE), markers, strict=True)
]


def overlaid(histories: dict[str, list[dict[str, np.ndarray]]], column: str, title: str) -> Figure:
    """A column of history.csv by epoch: for each variant the mean over its runs, and thin lines for single runs.

    histories: for each variant the columns of its runs' history.csv, float [epochs]. The mean ends with the shortest
    run.
    """
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = add_axes(figure, 1, 1, title, "epoch")
    for (name, runs), (colour, style, marker) in zip(histories.items(), itertools.cycle(LINES), strict=False):
        for run in runs if len(runs) > 1 else []:
            axes.plot(run["epoch"], run[column], style, color=colour, alpha=0.45, linewidth=0.8)
        epochs = min(len(run["epoch"]) for run in runs)
        mean = np.mean([run[column][:epochs] for run in runs], axis=0)
        marks = {"marker": marker, "markersize": 4, "markevery": max(1, epochs // 12)}
        axes.plot(runs[0]["epoch"][:epochs], mean, style, color=colour, label=name, **marks)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if column == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    _write_names_plainly(axes.legend(fontsize=9, frameon=False, labelcolor=INK))
    return figure


def intervals(rows: list[tuple[str, float, float, float, list[float]]], title: str, zero: bool = False) -> Figure:
    """A row for each (name, low, mean, high, single values): the interval, its mean, and the single values below it.

    The values are shares. zero: they are differences: the unit is percentage points, and 0 is marked.
    """
    figure = Figure(figsize=(4.6, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = add_axes(figure, 1, 1, title, "")
    for y, (_, low, mean, high, values) in enumerate(rows):
        axes.hlines(y, low, high, color=BLUE, alpha=0.4, linewidth=4)
        axes.plot(mean, y, "o", color=BLUE, markersize=6)
        axes.plot(values, [y + 0.25] * len(values), "|", color=ORANGE, markersize=7, markeredgewidth=1.5)
    if zero:
        axes.axvline(0, color=INK, linewidth=1.0, linestyle=":")
    axes.set_yticks(range(len(rows)), [short(name) for name, *_ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    unit = "" if zero else "\u00a0%"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}{unit}".replace("-", "−")))
    return figure


def _write_names_plainly(legend: Legend) -> None:
    "Show names as they are: a dollar sign starts no formula. Long names are shortened."
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_text(short(text.get_text(), 32))
