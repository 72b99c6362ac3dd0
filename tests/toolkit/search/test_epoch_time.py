"""The clock that times a few batches of an epoch: what it leaves out."""

import pytest
from noise import write_noise

from recipes import hw1
from toolkit.learner.cuda_graphs.callback import SEEN, CudaGraphs
from toolkit.search.epoch_time import EpochClock


@pytest.mark.parametrize(("graphs", "accum", "left_out"), [(False, 1, 1), (False, 2, 2), (True, 1, 4), (True, 2, 4)])
def test_the_batch_that_is_recorded_is_not_timed(tmp_path, graphs, accum, left_out):
    small = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 2, "workers": 0, "device": "cpu"}
    learn = hw1.learner(write_noise(tmp_path / "data", valid=2), accum=accum, **small)
    if graphs:
        learn.add_cb(CudaGraphs())
    learn.add_cb(clock := EpochClock(batches=2, at_most=30))
    learn.dl = learn.dls.train
    clock.before_train()
    assert clock.ready == left_out
    assert not graphs or clock.ready > SEEN
