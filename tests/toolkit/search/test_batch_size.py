"""Mini-batches as large as memory has room for, whatever the memory; learner and data stay what they were."""

import pytest
import torch
from noise import write_noise

from recipes import hw1
from toolkit.learner.cuda_graphs.callback import CudaGraphs
from toolkit.search import batch_size
from toolkit.search.batch_size import _sizes, largest_batch_size


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "48 photos to train on."
    return write_noise(tmp_path_factory.mktemp("noise"), valid=4)


def small(data, device="cpu", **options):
    return hw1.learner(
        data, arch="test_resnet", weights="none", image_size=96, device=device, workers=0,
        **{"bs": 16, "accum": 1, "precision": "fp32"} | options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("photos", "there", "sizes"),
    [
        (8, 1000, [8, 4, 2, 1]),
        (12, 1000, [12, 6, 4, 3, 2, 1]),
        (256, 48, [64, 32, 16, 8, 4, 2, 1]),  # 64 hold all 48 photos: 128 and 256 would be the same mini-batch
        (256, 64, [64, 32, 16, 8, 4, 2, 1]),
        (16, 1, [1]),
        (7, 5, [7, 1]),
    ],
)
def test_sizes_make_up_a_step_and_none_is_larger_than_the_data(photos, there, sizes):
    assert _sizes(photos, there) == sizes


def test_less_memory_makes_smaller_mini_batches_and_too_little_an_error(data, monkeypatch):
    learn = small(data)
    weights = [weight.clone() for weight in learn.model.state_dict().values()]
    need = dict(zip([32, 16, 8], batch_size._peaks_on_cpu(learn, [32, 16, 8]), strict=True))
    assert need[32] > need[16] > need[8] > 0
    monkeypatch.setattr(batch_size, "_peaks_on_cpu", lambda learn, sizes: [need.get(size, need[8]) for size in sizes])
    found = []
    for size in (32, 16, 8):
        monkeypatch.setattr(batch_size, "free_memory", lambda size=size: need[size] / 0.8 + 1)
        found.append(largest_batch_size(learn, 32)[0])
    assert found == [32, 16, 8]
    monkeypatch.setattr(batch_size, "free_memory", lambda: 0)
    with pytest.raises(ValueError, match="--bs auto: not even a batch of 1 fits into the 0.0 GiB"):
        largest_batch_size(learn, 32)
    assert all(torch.equal(*pair) for pair in zip(learn.model.state_dict().values(), weights, strict=True))
    assert learn.opt is None
    assert learn.dls.train.bs == 16


def test_a_recording_keeps_half_of_the_memory(data, monkeypatch):
    learn = small(data)
    monkeypatch.setattr(batch_size, "_peaks_on_cpu", lambda learn, sizes: [100.0 * size for size in sizes])
    monkeypatch.setattr(batch_size, "free_memory", lambda: 100 * 32 / 0.8 + 1)
    assert largest_batch_size(learn, 32)[0] == 32
    learn.add_cb(CudaGraphs())
    assert largest_batch_size(learn, 32)[0] == 16


def test_what_workers_read_ahead_counts(data, monkeypatch):
    learn = small(data)
    monkeypatch.setattr(batch_size, "_peak", lambda: 2**30)  # else another one each time
    [alone] = batch_size._peaks_on_cpu(learn, [16])
    learn.dls.train.fake_l.num_workers = 2
    [helped] = batch_size._peaks_on_cpu(learn, [16])
    assert helped - alone == 2 * 3 * 16 * 3 * 96**2  # workers, mini-batches, photos, bytes
    assert learn.dls.train.fake_l.num_workers == 2


def test_a_peak_is_what_was_held_at_most_since_it_was_reset():
    begun = batch_size._reset_peak()
    held = torch.ones(64 * 2**20)
    del held
    assert batch_size._peak() - begun == pytest.approx(4 * 64 * 2**20, rel=0.1)
    assert batch_size._peak() - batch_size._reset_peak() >= 0
    assert batch_size._peak() - begun < 64 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, which this machine lacks")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_cuda_the_largest_that_fits_is_taken_and_the_next_does_not(data, precision):
    learn = small(data, "cuda", precision=precision)
    whole = torch.cuda.get_device_properties(learn.dls.device).total_memory
    need = {size: batch_size._peak_on_cuda(learn, size) for size in (48, 24, 12)}
    assert need[48] > need[24] > need[12] > 0
    held = torch.empty(int(batch_size._free_on_cuda(learn) - need[24] / 0.9 - 2**22), dtype=torch.uint8, device="cuda")
    assert largest_batch_size(learn, 48)[0] == 24
    del held
    assert largest_batch_size(learn, 48)[0] == 48
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        assert batch_size._peak_on_cuda(learn, 48) == float("inf")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert whole > 0
    assert learn.opt is None
