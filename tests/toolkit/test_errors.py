"""Errors of data-loading workers that the system killed."""

import pytest

from toolkit.errors import user_message


def raised_over(first):
    try:
        raise RuntimeError(first)
    finally:
        raise KeyError("thread")


def test_a_killed_worker_is_reported_though_another_error_was_raised_over_it():
    "torch raises the first at any point of the main process; as a thread starts, CPython raises a KeyError over it."
    with pytest.raises(KeyError) as dead_worker:
        raised_over("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert user_message(dead_worker.value).startswith("DataLoader worker (pid 7) is killed by signal: Killed:")
    with pytest.raises(KeyError) as other:
        raised_over("any other")
    assert user_message(other.value) is None


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ("Killed. ", "as if memory ran out; try fewer --workers, or 0"),
        (
            "Bus error. It is possible that dataloader's workers are out of shared memory.",
            "as if shared memory was full",
        ),
        ("Aborted. ", "as if memory ran out or a library failed in it"),
    ],
)
def test_a_worker_that_exited_unexpectedly_is_reported_with_the_signal_in_the_errors_cause(signal, why):
    "torch raises the second from the first if a worker dies while the main process waits for its batch."
    error = RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")
    error.__cause__ = RuntimeError(f"DataLoader worker (pid 7) is killed by signal: {signal}")
    message = user_message(error)
    assert message.startswith(f"DataLoader worker (pid 7) is killed by signal: {signal.partition('.')[0]}")
    assert f": a process that reads photos is gone, {why}" in message
    error.__cause__ = None
    assert user_message(error).startswith("DataLoader worker (pid(s) 7, 8) exited unexpectedly: ")
