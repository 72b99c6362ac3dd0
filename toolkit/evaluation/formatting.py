"""Numbers as text for people: percentages, differences, p-values, counts and units.

A no-break space before %, a narrow no-break space between thousands, a real minus sign, a dash for undefined values.
"""

import numpy as np

SHARES = (
    "accuracy torch_accuracy accuracy_interval top5 balanced_accuracy macro_f1 weighted_f1 agreement recorded".split()
)


def percent(value: float | None, digits: int = 1) -> str:
    "A share in percent; a dash if it is undefined."
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f}\u00a0%"


def number(value: object) -> str:
    "A value of a JSON file as text: floats with four digits, large integers with separated thousands."
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}"


def with_unit(name: str, value: object) -> str:
    "The value of metrics.json or of a certificate with the key `name`, with its unit."
    if name in SHARES and isinstance(value, int | float):
        return percent(value, 2)
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.2f} GiB"
    return number(value)


def optimism_note(epochs: object) -> str:
    "A note that the accuracy is optimistic, because the same photos selected the epoch. Empty if there was one epoch."
    if not isinstance(epochs, int) or epochs < 2:
        return ""
    return f"the best of {epochs} epochs on these same photos, so it is optimistic"


def points(share: float) -> str:
    "A difference of shares in percentage points, with a real minus sign."
    return f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", "−")


def p_value(p: float) -> str:
    "A p-value with one digit below 0.01, else two, so that 0.049 and 0.051 differ."
    return f"{p:.1g}" if p < 0.01 else f"{p:.2g}"


def rounded_count(count: float) -> str:
    "A number of images, rounded to two digits."
    return number(int(float(f"{count:.2g}")))
