"""Numbers as people read them: shares, differences, p-values, counts, and what has a unit.

A no-break space before %, a narrow one between thousands, a real minus sign, a dash for what is undefined.
"""

import numpy as np

SHARES = (
    "accuracy torch_accuracy accuracy_interval top5 balanced_accuracy macro_f1 weighted_f1 agreement recorded".split()
)


def percent(value: float | None, digits: int = 1) -> str:
    "A share in percent; a dash for what is undefined."
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f}\u00a0%"


def number(value: object) -> str:
    "A value of a JSON file for people: floats in four digits, thousands of large integers apart."
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}"


def shown(name: str, value: object) -> str:
    "The value of metrics.json or of a certificate under `name`, with its unit."
    if name in SHARES and isinstance(value, int | float):
        return percent(value, 2)
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.2f} GiB"
    return number(value)


def chosen_among(epochs: object) -> str:
    "Why an accuracy is too high for other photos: its own chose the epoch. Empty if there was nothing to choose."
    if not isinstance(epochs, int) or epochs < 2:
        return ""
    return f"the best of {epochs} epochs by these photos, so too high for others"


def points(share: float) -> str:
    "A difference of shares in points of a percent; a real minus sign."
    return f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", "−")


def p_value(p: float) -> str:
    return f"{p:.1g}" if p < 0.095 else f"{p:.2g}"


def about(count: float) -> str:
    "A number of images in two digits."
    return number(int(float(f"{count:.2g}")))
