"""The plots of a run as matplotlib figures: curves, confusion matrix, reliability, class counts, LR finder."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from toolkit.evaluation.best_epoch import FROM_CONFUSION
from toolkit.pages.drawing import BLUE, GREY, INK, ORANGE, add_axes, row_of, short

NAMED = 40  # classes whose bars have names

CURVES = {  # title: (column, name, colour, style) of each line
    "Loss": [("train_loss", "train", BLUE, "--"), ("valid_loss", "validation", ORANGE, "-")],
    "Validation accuracy": [("accuracy", "accuracy", ORANGE, "-")],
    "Learning rate": [("lr", "learning rate", BLUE, "-")],
}


def curves(
    history: dict[str, np.ndarray], best: int | None, titles: tuple[str, ...] = tuple(CURVES), probe: bool = False
) -> Figure:
    """Loss, accuracy and learning rate by epoch, with the best epoch marked; one panel for each of `titles`.

    history: columns of history.csv, float [epochs]; best: the number of the best epoch; probe: the first epoch was a
    linear probe, and is marked.
    """
    figure = row_of(len(titles), height=2.8, below=0.88)
    for position, title in enumerate(titles, 1):
        axes = add_axes(figure, position, len(titles), title, "epoch")
        for column, name, colour, style in lines_of(title, history):
            marker = "o" if len(history["epoch"]) < 25 else None
            axes.plot(history["epoch"], history[column], style, color=colour, marker=marker, markersize=3, label=name)
        if probe:
            axes.axvspan(0.75, 1.25, color=GREY, alpha=0.25, linewidth=0, label="linear probe")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1.0, linestyle=":", label=f"best, epoch {best}")
        _scale(axes, title, history)
        legend_below(axes)
    return figure


def legend_below(axes: Axes, columns: int = 2) -> None:
    "The legend under the axes, where it lies on no curve."
    place = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.22), "ncols": columns}
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, **place)


def lines_of(title: str, history: dict[str, np.ndarray]) -> list[tuple[str, str, str, str]]:
    "The (column, name, colour, style) of each line of a panel. The figure of --best stands beside the accuracy."
    chosen = [name for name in FROM_CONFUSION if name in history and title == "Validation accuracy"]
    return CURVES[title] + [(name, name.replace("_", " "), BLUE, "-") for name in chosen]


def _scale(axes: Axes, title: str, history: dict[str, np.ndarray]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if title == "Validation accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if title == "Learning rate":
        lr = history["lr"]
        if (lr > 0).all() and lr.max() > 4 * lr.min():
            axes.set_yscale("log")
            marks = (1, 2, 5) if lr.max() < 100 * lr.min() else (1,)  # powers of ten alone may be too few ticks
            axes.yaxis.set_major_locator(LogLocator(subs=marks, numticks=9))
        else:
            axes.set_ylim(0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """The confusion matrix [classes, classes] with rows as shares: blue if right, orange if wrong.

    Class names are shown for up to 120 classes, counts in the cells for up to 25.
    """
    n = len(names)
    inches = max(2.5, 0.3 * n) if n <= 25 else min(0.13 * n, 16)  # of the matrix, without its labels
    figure = Figure(figsize=(inches, inches))
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)  # labels are outside; saving includes them
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
    "RGB float [classes, classes, 3]: white for 0, towards blue on the diagonal and towards orange off it."
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    strength = np.sqrt(shares)[..., None]  # the square root makes single mistakes visible
    full = np.where(np.eye(len(matrix), dtype=bool)[..., None], _rgb(BLUE), _rgb(ORANGE))
    return 1 - strength * (1 - full)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def reliability(curve: list[dict], title: str, interval: Callable[[int, int], tuple[float, float]]) -> Figure:
    """Reliability diagram: accuracy by confidence with its interval in each bin. The diagonal is perfect calibration.

    curve: what `calibration.reliability_curve` returns; interval(correct, total) -> (low, high).
    """
    figure = row_of(1, height=3.2, below=0.95, left=0.95)
    axes = add_axes(figure, 1, 1, title, "confidence")
    axes.set_ylabel("accuracy", color=INK, fontsize=10)
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1.0, label="perfect calibration")
    x, y = ([b[key] for b in curve] for key in ("confidence", "accuracy"))
    ends = np.array([interval(round(b["accuracy"] * b["count"]), b["count"]) for b in curve])
    axes.vlines(x, ends[:, 0], ends[:, 1], color=BLUE, alpha=0.4, linewidth=3)
    axes.plot(x, y, "o", color=BLUE, markersize=5, label="this model")
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    legend_below(axes)
    return figure


def precision_over_coverage(curve: list[list[float]], chosen: tuple[float, float] | None, promise: float) -> Figure:
    """Precision of the most confident answers by the share of images that get one.

    curve: [coverage, precision] of each point. chosen: the point of the model's threshold, or None. promise: the
    promised precision, drawn as a line; 0 for none.
    """
    figure = row_of(1, height=3.2, below=1.1, left=0.95)
    axes = add_axes(figure, 1, 1, "", "images with an answer")
    axes.set_ylabel("right answers", color=INK, fontsize=10)
    axes.plot(*zip(*curve, strict=True), "-", color=BLUE, label="most confident answers first")
    if promise:
        axes.axhline(promise, color=INK, linewidth=1.0, linestyle=":", label=f"promised {promise:g}")
    if chosen:
        axes.plot(*chosen, "o", color=ORANGE, label="with the threshold in model.onnx")
    axes.set_xlim(0, 1.03)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    legend_below(axes, columns=1)
    return figure


def counts(numbers: dict[str, int]) -> Figure:
    "Bars of training images per class, from the most frequent class to the rarest; named for up to NAMED classes."
    order = sorted(numbers, key=lambda name: -numbers[name])
    named = len(order) <= NAMED
    figure = Figure(figsize=(4.0, max(1.4, 0.5 + 0.19 * len(order)) if named else 3.2), layout="constrained")
    axes = add_axes(figure, 1, 1, "Training images per class", "images")
    axes.barh(range(len(order)), [numbers[name] for name in order], color=BLUE, height=0.8)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    shown = range(len(order)) if named else [0, len(order) // 2, len(order) - 1]
    axes.set_yticks(list(shown), [short(order[index], 18) for index in shown], parse_math=False)
    return figure


def finder(lrs: list[float], losses: list[float], chosen: float) -> Figure:
    "The smoothed training loss by learning rate, up to where it diverges, with the chosen rate marked."
    figure = row_of(1, height=2.8, below=0.88)
    axes = add_axes(figure, 1, 1, "Learning-rate finder", "learning rate")
    axes.set_ylabel("training loss", color=INK, fontsize=10)
    axes.plot(lrs, losses, color=BLUE, label="loss, smoothed")
    axes.axvline(chosen, color=ORANGE, linewidth=1.4, linestyle="--", label=f"chosen: {chosen:g}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, first = min(losses), losses[0]
    span = max(first - low, 1e-6)
    axes.set_ylim(low - 0.15 * span, min(max(losses), first + span) + 0.15 * span)
    legend_below(axes)
    return figure
