"""Calls in threads: their results in order, few of them early, none started after the end."""

import os
import re
import subprocess
import sys
import threading
import time

import pytest

from toolkit import SPINS
from toolkit.threads import in_order, threads


def slow_square(number):
    time.sleep(0.01 * (number % 3))
    return number**2


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_the_order_of_the_items(workers):
    assert list(in_order(slow_square, range(20), workers, ahead=5)) == [number**2 for number in range(20)]


@pytest.mark.parametrize(("workers", "ahead", "most"), [(0, 5, 1), (2, 5, 6)])
def test_no_more_results_wait_than_may_be_ahead(workers, ahead, most):
    taken, asked = 0, 0

    def items():
        nonlocal asked
        for number in range(30):
            asked += 1
            assert asked - taken <= most
            yield number

    for _ in in_order(slow_square, items(), workers, ahead):
        taken += 1
    assert taken == asked == 30


def test_an_exception_comes_in_the_turn_of_its_item():
    results = in_order(lambda number: 1 / (3 - number), range(9), 2, ahead=9)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closed_early_it_starts_nothing_more_and_leaves_no_thread():
    before, called = threading.active_count(), []
    results = in_order(lambda number: (called.append(number), time.sleep(0.02)), range(100), 2, ahead=50)
    next(results)
    results.close()
    count = len(called)
    time.sleep(0.1)
    assert len(called) == count < 60
    assert threading.active_count() == before


def test_without_threads_a_call_is_made_by_the_caller():
    with threads(0) as submit:
        assert submit(threading.get_ident).result() == threading.get_ident()
    with threads(1) as submit:
        assert submit(threading.get_ident).result() != threading.get_ident()


GIVEN = [({}, SPINS), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0"), ({"GOMP_SPINCOUNT": "77"}, "77")]


@pytest.mark.parametrize(("given", "expected"), GIVEN)
def test_torch_s_openmp_threads_wait_awake_for_a_moment_unless_told_otherwise(given, expected):
    "By the number of turns that libgomp, which torch loads on Linux, says a waiting thread spins for."
    mine = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in mine}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"} | given
    words = [sys.executable, "-c", "import toolkit, torch"]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stderr
    turns = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", said)
    if not turns:
        pytest.skip("torch's OpenMP here is not libgomp")
    assert turns[0] == expected
