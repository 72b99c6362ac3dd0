"""The random generators of a run that goes on where torch sees other GPUs."""

import pytest
import torch

from toolkit.learner.random_state import random_state, set_random_state


class Gpus:
    "Generators of so many GPUs, of which one computes, in place of torch's."

    def __init__(self, monkeypatch, count, current=0):
        self.states, self.current = [torch.tensor([10 * number]) for number in range(count)], current
        for name in ("is_initialized", "current_device", "get_rng_state", "set_rng_state"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def is_initialized(self):
        return bool(self.states)

    def current_device(self):
        return self.current

    def get_rng_state(self):
        return self.states[self.current]

    def set_rng_state(self, state):
        self.states[self.current] = state


@pytest.mark.parametrize(("before", "after"), [((8, 0), (1, 0)), ((8, 7), (1, 0)), ((1, 0), (8, 7)), ((1, 0), (0, 0))])
def test_a_run_goes_on_with_the_state_of_the_gpu_it_trained_on(before, after, monkeypatch):
    gpus = Gpus(monkeypatch, *before)
    gpus.states[gpus.current] = torch.tensor([77])
    state = random_state()
    others = Gpus(monkeypatch, *after)
    expected = [77 if number == others.current else 10 * number for number in range(after[0])]
    set_random_state(state)
    assert [int(each) for each in others.states] == expected


def test_of_a_state_of_every_gpu_that_of_the_present_one_counts(monkeypatch):
    "Such are those that earlier versions wrote."
    state = random_state() | {"cuda": [torch.tensor([number]) for number in (70, 71, 72)]}
    for count, current, expected in ((1, 0, [70]), (3, 1, [0, 71, 20])):
        gpus = Gpus(monkeypatch, count, current)
        set_random_state(state)
        assert [int(each) for each in gpus.states] == expected


def test_without_a_gpu_none_is_kept_and_the_others_are_put_back():
    state = random_state()
    drawn = torch.rand(3)
    set_random_state(state)
    assert state["cuda"] == []
    assert torch.equal(torch.rand(3), drawn)
