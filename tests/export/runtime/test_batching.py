"""Batches in order from threads: nothing lost, nothing early, nothing left running."""

import random
import threading
import time

import pytest

from export.runtime.batching import in_batches
from toolkit.threads import threads


def kept(buffer, start, items):
    buffer[start : start + len(items)] = items
    return [item % 7 == 3 for item in items]


def squares(buffer, outcomes):
    return [None if fault else buffer[place] ** 2 for place, fault in enumerate(outcomes)]


def expected(count):
    return [None if item % 7 == 3 else item**2 for item in range(count)]


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 103])
@pytest.mark.parametrize("piece", [1, 3, 8])
def test_every_item_once_in_order_from_reused_buffers(workers, count, piece, monkeypatch):
    monkeypatch.setattr("export.runtime.batching.PIECE", piece)
    chance = random.Random(count)

    def unsteady(*given):
        time.sleep(chance.expovariate(5000))
        return kept(*given)

    batches = list(in_batches(range(count), [[0] * 4 for _ in range(3)], 4, unsteady, squares, workers))
    assert [answer for batch in batches for answer in batch] == expected(count)
    assert [len(batch) for batch in batches] == [min(4, count - start) for start in range(0, count, 4)]


@pytest.mark.parametrize(("size", "workers", "longest"), [(512, 16, 16), (64, 2, 16), (8, 2, 4), (8, 16, 1), (1, 4, 1)])
def test_a_piece_is_a_few_items_and_a_batch_has_one_for_each_worker(size, workers, longest):
    pieces = []

    def fill(buffer, start, items):
        pieces.append((start, len(items)))
        return kept(buffer, start, items)

    list(in_batches(range(size), [[0] * size], size, fill, squares, workers))
    assert max(count for _, count in pieces) == longest
    assert len(pieces) >= min(workers, size)
    assert sorted(pieces) == [(start, longest) for start in range(0, size, longest)]


def test_no_buffer_is_filled_before_its_batch_is_handed_out():
    "A batch that takes its time holds up those after it, of which as many are begun as there are buffers left."
    filled, go_on = [], threading.Event()

    def fill(buffer, start, items):
        filled.extend(items)
        return kept(buffer, start, items)

    def process(buffer, outcomes):
        return go_on.wait(10)

    batches = in_batches(range(1000), [[0] * 4 for _ in range(3)], 4, fill, process, workers=8)
    threading.Timer(0.2, go_on.set).start()
    next(batches)
    assert len(filled) == 3 * 4
    next(batches)
    time.sleep(0.1)
    assert len(filled) == 4 * 4
    batches.close()


def test_while_one_thread_works_a_batch_up_another_fills_and_works_up_the_next():
    "Two threads meet in process(): neither filling nor processing is the work of one thread alone."
    together = threading.Barrier(2, timeout=10)
    batches = in_batches(range(8), [[0] * 4 for _ in range(2)], 4, kept, lambda *_: together.wait() >= 0, workers=2)
    assert list(batches) == [True, True]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_is_raised_in_its_turn_and_ends_the_threads(workers):
    def fill(buffer, start, items):
        if 9 in items:
            raise KeyboardInterrupt
        return kept(buffer, start, items)

    batches = in_batches(range(1000), [[0] * 4 for _ in range(3)], 4, fill, squares, workers)
    assert next(batches) == expected(4) if workers else True
    with pytest.raises(KeyboardInterrupt):
        list(batches)
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_separate_threads_process_and_do_nothing_else():
    filled, worked_up = set(), set()

    def fill(buffer, start, items):
        filled.add(threading.get_ident())
        return kept(buffer, start, items)

    def process(buffer, outcomes):
        worked_up.add(threading.get_ident())
        time.sleep(0.01)
        return squares(buffer, outcomes)

    with threads(2) as run:
        batches = list(in_batches(range(103), [[0] * 4 for _ in range(4)], 4, fill, process, workers=3, run=run))
    assert [answer for batch in batches for answer in batch] == expected(103)
    assert len(worked_up) == 2
    assert not filled & worked_up


def test_an_exception_of_a_runner_is_raised_in_its_turn():
    def process(buffer, outcomes):
        if buffer[0] == 8:
            raise ArithmeticError("third batch")
        return squares(buffer, outcomes)

    with threads(2) as run:
        batches = in_batches(range(100), [[0] * 4 for _ in range(3)], 4, kept, process, workers=2, run=run)
        assert next(batches) == expected(4)
        assert next(batches) == expected(8)[4:]
        with pytest.raises(ArithmeticError, match="third batch"):
            next(batches)
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
