"""The report's plots as matplotlib figures, as PNG bytes, and as SVG that takes its colours from the page around it.

Figures are made directly, never through pyplot: no global state, no window, any number of threads.
"""

import io
import itertools
import logging
import re
import warnings
from collections.abc import Callable

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

# Okabe and Ito's colours, told apart by colour-blind eyes and in print; the page swaps each for a CSS variable
BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#9a9a9a", "#1b1b1b"
GREEN, PURPLE = "#009e73", "#cc79a7"
PAGE_COLOURS = {BLUE: "var(--blue)", ORANGE: "var(--orange)", GREY: "var(--grey)", INK: "currentColor"}
PAGE_COLOURS |= {GREEN: "var(--green)", PURPLE: "var(--purple)"}
LINES = [  # colour, style and marker of the lines that are compared: told apart without colour too
    (colour, style, marker)
    for style, markers in (("-", "os^D"), ("--", "vP*X"), (":", "<>hd"))
    for colour, marker in zip((BLUE, ORANGE, GREEN, PURPLE), markers, strict=True)
]


def png(figure: Figure) -> bytes:
    "The figure as PNG, on white."
    return _saved(figure, format="png", dpi=150, facecolor="white")


def svg(figure: Figure, name: str) -> str:
    "The figure as <svg>, without size, background or fonts of its own; `name` keeps its ids apart from other plots'."
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        text = _saved(figure, format="svg", transparent=True, metadata={"Date": None}).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(
        r'(id="|href="#|url\(#)', rf"\1{prefix}-", text
    )  # ids are the page's, and every figure has a figure_1
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)


def _saved(figure: Figure, **options) -> bytes:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script the font lacks
        bounds = None if figure.get_layout_engine() else "tight"
        figure.savefig(buffer, bbox_inches=bounds, pad_inches=0.05, **options)
    return buffer.getvalue()


def _axes(figure: Figure, position: int, columns: int, title: str, xlabel: str):
    axes = figure.add_subplot(1, columns, position)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(xlabel, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=10)
    axes.set_axisbelow(True)
    axes.grid(color=GREY, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    return axes


CURVES = {  # title: (column, name, colour, style) of each line
    "Loss": [("train_loss", "train", BLUE, "--"), ("valid_loss", "validation", ORANGE, "-")],
    "Validation accuracy": [("accuracy", "accuracy", ORANGE, "-")],
    "Learning rate": [("lr", "learning rate", BLUE, "-")],
}


def curves(history: dict[str, np.ndarray], best: int | None, titles: tuple[str, ...] = tuple(CURVES)) -> Figure:
    """Loss, accuracy and learning rate by epoch, the best epoch marked; one panel for each of `titles`.

    history: columns of history.csv, float [epochs]; `best`: the best epoch's number.
    """
    figure = Figure(figsize=(4.0 * len(titles), 2.8), layout="constrained")
    for position, title in enumerate(titles, 1):
        axes = _axes(figure, position, len(titles), title, "epoch")
        for column, name, colour, style in CURVES[title]:
            marker = "o" if len(history["epoch"]) < 25 else None
            axes.plot(history["epoch"], history[column], style, color=colour, marker=marker, markersize=3, label=name)
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1.0, linestyle=":", label=f"best, epoch {best}")
        _scale(axes, title, history)
        axes.legend(fontsize=9, frameon=False, labelcolor=INK)
    return figure


def _scale(axes, title: str, history: dict[str, np.ndarray]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if title == "Validation accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if title == "Learning rate":
        lr = history["lr"]
        if (lr > 0).all() and lr.max() > 4 * lr.min():
            axes.set_yscale("log")
            marks = (1, 2, 5) if lr.max() < 100 * lr.min() else (1,)  # powers of ten alone may be too few to read by
            axes.yaxis.set_major_locator(LogLocator(subs=marks, numticks=9))
        else:
            axes.set_ylim(0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """The confusion matrix [classes, classes], rows as shares of their class: right ones blue, mistakes orange.

    Every class is named up to 120 of them; counts stand in the cells up to 25.
    """
    n = len(names)
    inches = max(2.5, 0.3 * n) if n <= 25 else min(0.13 * n, 16)  # of the matrix; its labels come on top
    figure = Figure(figsize=(inches, inches))
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)  # labels stand outside, where saving finds them
    axes.imshow(_cell_colours(matrix), interpolation="nearest")
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    if n <= 120:
        size = 9 if n <= 25 else 6.5
        axes.set_xticks(range(n), [short(name) for name in names], rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(range(n), [short(name) for name in names], fontsize=size, parse_math=False)
    if n <= 25:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            dark = matrix[row, column] > 0.6 * matrix[row].sum()
            colour = "white" if dark else INK
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour)
    return figure


def _cell_colours(matrix: np.ndarray) -> np.ndarray:
    "RGB float [classes, classes, 3]: white for none, towards blue on the diagonal and orange off it."
    share = np.sqrt(matrix / np.maximum(matrix.sum(1, keepdims=True), 1))[..., None]  # the root shows single mistakes
    full = np.where(np.eye(len(matrix), dtype=bool)[..., None], _rgb(BLUE), _rgb(ORANGE))
    return 1 - share * (1 - full)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def short(name: str, limit: int = 24) -> str:
    "`name` on one line of at most `limit` letters: a long one's middle is left out, as names often begin or end alike."
    name = re.sub(r"[\x00-\x1f\x7f]", " ", name)
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[limit // 2 + 1 - limit :]}"


def reliability(curve: list[dict], title: str, interval: Callable[[int, int], tuple[float, float]]) -> Figure:
    """Accuracy by confidence, with its interval in each bin; on the diagonal the model is as right as it says.

    curve: what `metrics.reliability_curve` returns; interval(correct, total) -> (low, high).
    """
    figure = Figure(figsize=(4.0, 3.2), layout="constrained")
    axes = _axes(figure, 1, 1, title, "confidence")
    axes.set_ylabel("accuracy", color=INK, fontsize=10)
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1.0, label="as right as it says")
    x, y = ([b[key] for b in curve] for key in ("confidence", "accuracy"))
    ends = np.array([interval(round(b["accuracy"] * b["count"]), b["count"]) for b in curve])
    axes.vlines(x, ends[:, 0], ends[:, 1], color=BLUE, alpha=0.4, linewidth=3)
    axes.plot(x, y, "o", color=BLUE, markersize=5, label="this model")
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, loc="upper left")
    return figure


def counts(numbers: list[int]) -> Figure:
    "Training images of each class, from the most frequent class to the rarest."
    figure = Figure(figsize=(4.0, 2.2), layout="constrained")
    axes = _axes(figure, 1, 1, "", "classes, by number of training images")
    axes.bar(range(1, len(numbers) + 1), sorted(numbers, reverse=True), color=BLUE, width=0.8)
    axes.set_xlim(0.4, len(numbers) + 0.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def finder(lrs: list[float], losses: list[float], chosen: float) -> Figure:
    "The smoothed training loss by the learning rate, up to where it diverges, with the chosen rate marked."
    figure = Figure(figsize=(4.0, 2.8), layout="constrained")
    axes = _axes(figure, 1, 1, "Learning-rate finder", "learning rate")
    axes.set_ylabel("training loss, smoothed", color=INK, fontsize=10)
    axes.plot(lrs, losses, color=BLUE, label="loss")
    label = f"chosen, {chosen:g}"
    axes.axvline(chosen, color=ORANGE, linewidth=1.4, linestyle="--", label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, first = min(losses), losses[0]
    span = max(first - low, 1e-6)
    axes.set_ylim(low - 0.15 * span, min(max(losses), first + span) + 0.15 * span)
    axes.legend(fontsize=9, frameon=False, labelcolor=INK)
    return figure


def overlaid(histories: dict[str, list[dict[str, np.ndarray]]], column: str, title: str) -> Figure:
    """A column of history.csv by epoch, of each name its mean over runs, and each run thin behind it.

    histories: of each name the columns of its runs' history.csv, float [epochs]. The mean ends with the shortest run.
    """
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = _axes(figure, 1, 1, title, "epoch")
    for (name, runs), (colour, style, marker) in zip(histories.items(), itertools.cycle(LINES), strict=False):
        for run in runs if len(runs) > 1 else []:
            axes.plot(run["epoch"], run[column], style, color=colour, alpha=0.45, linewidth=0.8)
        epochs = min(len(run["epoch"]) for run in runs)
        mean = np.mean([run[column][:epochs] for run in runs], axis=0)
        every = max(1, epochs // 12)
        axes.plot(
            runs[0]["epoch"][:epochs],
            mean,
            style,
            color=colour,
            marker=marker,
            markersize=4,
            markevery=every,
            label=name,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if column == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    _named(axes.legend(fontsize=9, frameon=False, labelcolor=INK))
    return figure


def intervals(rows: list[tuple[str, float, float, float, list[float]]], title: str, zero: bool = False) -> Figure:
    """A line for each (name, low, middle, high, points), shares: its interval, its middle, and its points beside it.

    zero: for differences, in points: 0 is marked, which an interval has to stay clear of.
    """
    figure = Figure(figsize=(4.6, 0.9 + 0.42 * len(rows)), layout="constrained")
    axes = _axes(figure, 1, 1, title, "")
    for place, (_, low, middle, high, points) in enumerate(rows):
        axes.hlines(place, low, high, color=BLUE, alpha=0.4, linewidth=4)
        axes.plot(middle, place, "o", color=BLUE, markersize=6)
        axes.plot(points, [place + 0.25] * len(points), "|", color=ORANGE, markersize=7, markeredgewidth=1.5)
    if zero:
        axes.axvline(0, color=INK, linewidth=1.0, linestyle=":")
    axes.set_yticks(range(len(rows)), [short(name) for name, *_ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    unit = "" if zero else "\u00a0%"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}{unit}".replace("-", "−")))
    return figure


def _named(legend) -> None:
    "A name with a dollar sign is a name, not mathematics."
    for text in legend.get_texts():
        text.set_parse_math(False)
        text.set_text(short(text.get_text(), 32))
