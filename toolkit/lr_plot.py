"""What fastai's finder saw of the learning rate: its table in the run folder, and its plot in the report."""

from dataclasses import dataclass

import numpy as np

from toolkit import plots
from toolkit.numerals import number
from toolkit.outside import read_csv
from toolkit.run import Run, write_csv

FINDER, COLUMNS = "lr_finder.csv", ["lr", "loss", "chosen"]


@dataclass(frozen=True)
class Curve:
    "Rates from the smallest, the smoothed training loss at each, and the rate that was chosen."

    lrs: list[float]
    losses: list[float]
    chosen: float


def write_curve(curve: Curve, run: Run) -> None:
    "lr_finder.csv: a row for each rate; the chosen one stands in every row."
    write_csv(run.path(FINDER), COLUMNS, zip(curve.lrs, curve.losses, [curve.chosen] * len(curve.lrs), strict=True))


def read_curve(run: Run) -> Curve | None:
    "What `write_curve` wrote; None where no rate was searched for. Raises ValueError for a file that is not that."
    path = run.path(FINDER)
    if not path.exists():
        return None
    _, *rows = read_csv(path, COLUMNS)
    try:
        lrs, losses, chosen = np.array(rows, dtype=float).T
    except ValueError:
        lrs = losses = chosen = np.array([np.nan])
    if not (np.isfinite([lrs, losses, chosen]).all() and min(lrs.min(), chosen.min()) > 0):
        raise ValueError(f"{path} holds no rates above 0 with their losses: restore it, or remove it")
    return Curve(lrs.tolist(), losses.tolist(), float(chosen[0]))


def finder_panels(run: Run) -> list[dict]:
    "The plot as SVG with its text for those who can't see it; none where no rate was searched for."
    curve = read_curve(run)
    if curve is None:
        return []
    low = int(np.argmin(curve.losses))
    alt = (
        f"Learning-rate finder: the training loss is {number(curve.losses[0])} at a rate of {curve.lrs[0]:.0e}, "
        f"lowest with {number(curve.losses[low])} at {curve.lrs[low]:.1e}, {number(curve.losses[-1])} at "
        f"{curve.lrs[-1]:.1e}; chosen is {curve.chosen:g}"
    )
    return [{"svg": plots.svg(plots.finder(curve.lrs, curve.losses, curve.chosen), "finder"), "alt": alt}]
