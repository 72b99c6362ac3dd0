"""Numbers as people read them."""

import pytest

from toolkit.evaluation.formatting import number, p_value, percent, points, rounded_count, with_unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.9133), "91.3\u00a0%"),
        (percent(float("nan")), "–"),
        (number(1234567), "1\u202f234\u202f567"),
        (number(2.5e-6), "2.5e-06"),
        (number(True), "True"),
        (points(-0.0125), "−1.2"),
        (points(-0.0001), "0.0"),
        (p_value(0.0497), "0.05"),
        (p_value(0.0523), "0.052"),
        (p_value(0.00123), "0.001"),
        (rounded_count(1284.3), "1300"),
        (rounded_count(19_284.0), "19\u202f000"),
        (with_unit("accuracy", 0.9133), "91.33\u00a0%"),
        (with_unit("peak_memory_bytes", 2**31), "2.00 GiB"),
    ],
)
def test_a_number_has_few_digits_and_its_unit(text, expected):
    assert text == expected
