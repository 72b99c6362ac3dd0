"""Worker processes: kept during a fit, started anew if what they were given changes, without this one's garbage."""

import copy
import gc
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelTrainException
from fastai.vision.core import TensorImage
from fasttransform import Transform
from noise import write_noise

from recipes import hw1, rapid
from toolkit.data.transforms import SamplerState
from toolkit.data.workers import LoadingOptions, Ticket, Workers

TICKETS = [Ticket(0, [number]) for number in range(8)]


def pid(epoch, samples):
    time.sleep(0.01)  # so that both workers get some
    return os.getpid()


def nothing():
    pass


def processes(workers, given="the same", load=pid, count=2, tickets=TICKETS):
    return set(workers.batches(load, tickets, given, nothing, 0, LoadingOptions(count)))


def alive(pids):
    "The processes that have not ended."
    return {one for one in pids if Path(f"/proc/{one}").exists()}


def test_kept_workers_load_every_pass_and_are_ended():
    workers = Workers()
    workers.keep = True
    first = processes(workers)
    assert len(first) == 2
    assert processes(workers) == processes(workers) == first
    workers.end()
    gc.collect()
    assert not alive(first)


def test_workers_that_are_not_kept_are_new_in_each_pass_and_end_with_it():
    workers = Workers()
    first, second = processes(workers), processes(workers)
    assert not first & second
    assert not alive(first | second)


@pytest.mark.parametrize("changed", [{"given": "another"}, {"count": 1}, {"given": lambda: "can't be pickled"}])
def test_kept_workers_are_started_again_if_the_objects_they_were_given_changed(changed):
    workers = Workers()
    workers.keep = True
    first = processes(workers)
    assert not first & processes(workers, **changed)
    workers.end()


def test_a_new_epoch_does_not_restart_kept_workers_since_a_ticket_says_it():
    workers, draws = Workers(), SamplerState(seed=3)
    workers.keep = True
    first = processes(workers, given=draws)
    draws.epoch, draws.next_epoch, draws.sample = 1, 2, 30
    assert processes(workers, given=draws) == first
    assert not first & processes(workers, given=SamplerState(seed=4))
    workers.end()


def echo(epoch, samples):
    return epoch, samples


def test_a_pass_after_one_that_was_cut_short_is_whole_and_in_order():
    workers = Workers()
    workers.keep = True
    cut = workers.batches(echo, TICKETS, "given", nothing, 0, LoadingOptions(2))
    assert next(cut) == (0, [0])
    cut.close()
    later = [Ticket(1, [number, number]) for number in range(20)]
    assert [tuple(one) for one in workers.batches(echo, later, "given", nothing, 0, LoadingOptions(2))] == later
    workers.end()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("count", [0, 2])
def test_torchs_global_generator_is_not_drawn_from(keep, count):
    workers, before = Workers(), torch.get_rng_state()
    workers.keep = keep
    for _ in range(2):
        list(workers.batches(echo, TICKETS, "given", nothing, 0, LoadingOptions(count)))
    assert torch.equal(torch.get_rng_state(), before)
    workers.end()


class Collected:
    "It writes the process that collected it to a file."

    def __init__(self, file):
        self.file, self.myself = file, self

    def __del__(self):
        with self.file.open("a") as file:
            file.write(f"{os.getpid()}\n")


def draw(epoch, samples):
    return float(np.random.rand())


def collect(epoch, samples):
    assert gc.isenabled()
    return gc.collect()


def test_a_worker_never_collects_the_garbage_of_the_process_it_was_forked_from(tmp_path):
    "A worker that freed CUDA memory would abort: sixteen did so, silently, on an H100."
    file, threshold = tmp_path / "collected", gc.get_threshold()
    gc.set_threshold(0)  # not before the workers are there
    try:
        Collected(file)  # a cycle: garbage that only the collector finds
        list(Workers().batches(collect, TICKETS, "given", nothing, 0, LoadingOptions(2)))
        assert not file.exists()
        assert gc.isenabled()
        gc.collect()
        assert file.read_text() == f"{os.getpid()}\n"
    finally:
        gc.set_threshold(*threshold)


def test_a_killed_worker_is_an_error_and_the_next_pass_has_new_workers():
    workers = Workers()
    workers.keep = True
    pass_ = workers.batches(pid, TICKETS * 20, "given", nothing, 0, LoadingOptions(2))
    first = {next(pass_), next(pass_)}
    os.kill(next(iter(first)), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(pass_)
    del pass_
    assert not first & processes(workers)
    workers.end()


def test_a_pickled_or_copied_loader_has_no_processes():
    workers = Workers()
    workers.keep = True
    processes(workers)
    for other in (pickle.loads(pickle.dumps(workers)), copy.deepcopy(workers)):
        assert (other.loader, other.keep) == (None, False)
    assert workers.loader is not None
    workers.end()


@pytest.mark.timeout(60)  # shared workers would leave the outer pass waiting
def test_a_pass_that_starts_inside_another_one_leaves_it_whole():
    workers, seen = Workers(), []
    workers.keep = True
    for batch in workers.batches(echo, TICKETS, "given", nothing, 0, LoadingOptions(2)):
        seen.append(tuple(batch))
        inner = workers.batches(echo, TICKETS, "given", nothing, 0, LoadingOptions(2))
        assert tuple(next(inner)) == (0, [0])
        inner.close()
    assert seen == TICKETS
    assert len(processes(workers)) == 2
    workers.end()


# In a fit


def children():
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


class Seen(Callback):
    "The processes that each epoch adds, and the batches."

    def before_fit(self):
        self.processes, self.batches, self.others = [], [], children()

    def after_batch(self):
        self.batches.append(self.xb[0].clone())

    def after_epoch(self):
        self.processes.append(children() - self.others)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("noise") / "data", valid=5)


def learner(photos, workers, recipe=hw1, **options):
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 8, "device": "cpu"}
    return recipe.learner(photos, workers=workers, **small | options)


def fitted(learn, epochs, *cbs):
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, cbs=[seen := Seen(), *cbs])
    return seen


RAPID = {"recipe": rapid, "epochs": 4}


@pytest.mark.parametrize(("options", "probed"), [({}, False), (RAPID, False), (RAPID, True)])
def test_one_set_of_workers_serves_all_epochs_of_a_fit_and_is_gone_after_it(photos, options, probed, tmp_path):
    learn = learner(photos, 2, **options)
    if probed:
        torch.save(learn.model.state_dict(), tmp_path / "weights.pth")
        learn = learner(photos, 2, **options, weights=str(tmp_path / "weights.pth"))
    assert hasattr(learn, "probe") == probed
    first, second, third, fourth = fitted(learn, 4).processes
    assert first < second if probed else first == second  # a probe only validates
    assert len(second) >= 4  # two to train, two to validate
    assert second == third == fourth
    gc.collect()
    assert not alive(second)


@pytest.mark.parametrize("options", [{}, {"recipe": rapid, "train_sizes": (24, 32), "epochs": 4}])
def test_batches_of_a_fit_are_the_same_from_kept_workers_as_without_workers(photos, options):
    "Progressive resizing changes the transform half-way, and the workers must get the new one."
    alone, several = (fitted(learner(photos, workers, **options), 4) for workers in (0, 2))
    assert len(alone.batches) == len(several.batches)
    assert all(torch.equal(one, other) for one, other in zip(alone.batches, several.batches, strict=True))
    if options:
        assert {batch.shape[-1] for batch in several.batches} == {24, 32}
        assert several.processes[0] != several.processes[3]


class Black(Transform):
    def encodes(self, photo: TensorImage):
        return torch.zeros_like(photo)


@pytest.mark.parametrize("kind", ["module's", "local"])
def test_a_transform_added_between_two_epochs_reaches_the_workers(photos, kind):
    class Local(Black):  # can't be pickled
        pass

    class Add(Callback):
        def after_epoch(self):
            self.dls.train.after_item.add(Black() if kind == "module's" else Local())

    seen = fitted(learner(photos, 2), 2, Add())
    colours = [len(batch.flatten(2)[:, 0].unique()) for batch in seen.batches]
    assert sum(count == 1 for count in colours) == len(learner(photos, 0).dls.train)


def test_an_epoch_that_is_cut_short_leaves_the_next_one_whole(photos):
    class Cut(Callback):
        order = 100

        def after_batch(self):
            if self.training and self.epoch == 0 and self.iter == 1:
                raise CancelTrainException

    cut, whole = fitted(learner(photos, 2), 2, Cut()), fitted(learner(photos, 2), 2)
    each = len(whole.batches) // 2
    assert all(torch.equal(*pair) for pair in zip(cut.batches[-each:], whole.batches[-each:], strict=True))


def test_random_draws_of_a_transform_depend_on_seed_epoch_and_sample_and_not_on_the_workers():
    def drawn(epochs, count=2, seed=0, keep=True):
        workers = Workers()
        workers.keep = keep
        passes = [[Ticket(epoch, [sample]) for sample in range(8)] for epoch in epochs]
        draws = [
            list(workers.batches(draw, tickets, "given", nothing, seed, LoadingOptions(count))) for tickets in passes
        ]
        workers.end()
        return draws

    whole = drawn([0, 1])
    assert len({value for pass_ in whole for value in pass_}) == 16
    assert drawn([1]) == whole[1:]  # as a resumed run begins
    assert drawn([0, 1], count=1) == drawn([0, 1], keep=False) == whole
    assert drawn([0], seed=1) != whole[:1]


def test_kept_workers_are_ended_after_an_error_too(photos):
    class Fail(Seen):
        def after_epoch(self):
            super().after_epoch()
            raise ArithmeticError("after an epoch")

    learn, seen = learner(photos, 2), Fail()
    with learn.no_bar(), learn.no_logging(), pytest.raises(ArithmeticError):
        learn.fit(1, cbs=seen)
    gc.collect()
    assert len(seen.processes[0]) >= 4
    assert not alive(seen.processes[0])
