"""The plots of the run page: each as SVG with a text that says the same for readers who can't see it."""

import numpy as np

from toolkit.evaluation.calibration import calibration_error, join_small_bins, reliability_curve
from toolkit.evaluation.formatting import number, percent
from toolkit.evaluation.results import Predictions, read_curve
from toolkit.evaluation.statistics import wilson_interval
from toolkit.pages import plots
from toolkit.pages.drawing import svg
from toolkit.run import Run


def curve_panels(history: dict[str, np.ndarray], best: int | None) -> list[dict]:
    "Panels {svg, alt} of loss, accuracy and learning rate by epoch; none before the first epoch."
    if not history:
        return []
    return [
        {
            "svg": svg(plots.curves(history, best, (title,)), title),
            "alt": f"{title} over {len(history['epoch'])} epochs: "
            + "; ".join(
                f"{name} from {number(history[column][0])} to {number(history[column][-1])}"
                for column, name, *_ in plots.lines_of(title, history)
            ),
        }
        for title in plots.CURVES
    ]


def finder_panels(run: Run) -> list[dict]:
    "The panel {svg, alt} of the learning-rate finder in a list; empty if no rate was searched for."
    curve = read_curve(run)
    if curve is None:
        return []
    low = int(np.argmin(curve.losses))
    alt = (
        f"Learning-rate finder: training loss {number(curve.losses[0])} at rate {curve.lrs[0]:.0e}, lowest "
        f"{number(curve.losses[low])} at {curve.lrs[low]:.1e}, {number(curve.losses[-1])} at {curve.lrs[-1]:.1e}; "
        f"chosen rate {curve.chosen:g}"
    )
    return [{"svg": svg(plots.finder(curve.lrs, curve.losses, curve.chosen), "finder"), "alt": alt}]


def reliability_panels(figures: dict, predictions: Predictions | None) -> list[dict]:
    "Panels {svg, alt} of the reliability diagram: as trained, and after temperature scaling if it helps."
    curves = {"As trained": figures.get("reliability")}
    if figures.get("temperature") != 1:
        curves["After temperature scaling"] = figures.get("scaled_reliability")
    if predictions and not curves["As trained"]:
        curves["As trained"] = reliability_curve(predictions.confidence, ~predictions.wrong)
    return [_reliability_panel(title, curve) for title, curve in curves.items() if curve]


def _reliability_panel(title: str, curve: list[dict]) -> dict:
    bins = join_small_bins(curve)
    spoken = (f"confidence {percent(b['confidence'], 0)}, accuracy {percent(b['accuracy'], 0)}" for b in bins)
    return {
        "svg": svg(plots.reliability(bins, title, wilson_interval), title),
        "alt": f"{title}, calibration error {percent(calibration_error(curve))}: {'; '.join(spoken)}",
    }
