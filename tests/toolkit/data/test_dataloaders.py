"""Batches: the same for any number of workers, another each epoch, one function for validation and export."""

import random

import cv2
import numpy as np
import pytest
import torch

from toolkit.data.augment import homework
from toolkit.data.dataloaders import make_dataloaders
from toolkit.data.dataset import DataSet, find_data
from toolkit.data.photo import read_photo, read_reduced
from toolkit.data.preprocess import for_size, prepare, resize_center_crop, smallest_side
from toolkit.options import Options

AUGMENT = homework(scale=(0.08, 1.0), flip=0.5, degrees=15)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, each in (("train", 12), ("val", 5)):
        for label in ("cat", "dog"):
            for number in range(each):
                path = root / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), cv2.resize(draws.integers(0, 255, (5, 6, 3), np.uint8), (60, 50)))
    return find_data(root)


def loaders(data, seed=0, workers=0, sampler="shuffle"):
    options = Options(bs=8, image_size=32, workers=workers, device="cpu", seed=seed, sampler=sampler)
    return make_dataloaders(options, data, AUGMENT, resize_center_crop(32), {})


def epochs(loader, count):
    return [[(x.clone(), y.clone()) for x, y in loader] for _ in range(count)]


def same(one, other):
    pairs = zip([b for e in one for b in e], [b for e in other for b in e], strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def test_0_1_and_3_workers_give_the_same_batches_over_two_epochs(data):
    alone = epochs(loaders(data).train, 2)
    for workers in (1, 3):
        random.seed(workers)  # nothing may depend on Python's, torch's or numpy's own state
        torch.manual_seed(workers)
        np.random.seed(workers)
        assert same(alone, epochs(loaders(data, workers=workers).train, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_differ_in_order_and_in_augmentation(data, workers):
    first, second = epochs(loaders(data, workers=workers).train, 2)
    assert not torch.equal(torch.cat([y for _, y in first]), torch.cat([y for _, y in second]))
    draws = loaders(data, workers=workers)
    draws.train.shuffle = False
    first, second = (torch.cat([x for x, _ in epoch]) for epoch in epochs(draws.train, 2))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_workers_draw_different_crops_of_the_same_photo(data):
    "albumentations alone repeats itself: both workers fork one generator."
    twice = DataSet(data.path, {path: label for path, label in data.train.items()}, data.valid)
    one = next(iter(twice.train))
    draws = loaders(twice, workers=2)
    draws.train.shuffle = False
    draws.train.dataset.tls[0].items = [one] * 24
    photos = torch.cat([x for x, _ in draws.train])
    assert len(photos.flatten(1).unique(dim=0)) == 24


def test_another_seed_gives_other_batches(data):
    assert not same(epochs(loaders(data, 0).train, 1), epochs(loaders(data, 1).train, 1))


def test_an_epoch_can_be_taken_up_again_by_its_number(data):
    three = epochs(loaders(data).train, 3)
    later = loaders(data)
    later.train.sampler_state.next_epoch = 2
    assert same(three[2:], epochs(later.train, 1))


def test_validation_is_in_order_and_whole_and_is_what_prepare_gives(data):
    dls, preprocess = loaders(data), for_size(32)
    batches = [(x, y) for x, y in dls.valid]
    assert [len(y) for _, y in batches] == [8, 2]
    pixels = torch.cat([x for x, _ in batches])
    mean, std = (torch.tensor(preprocess[name]).view(3, 1, 1) for name in ("mean", "std"))
    back = ((pixels.as_subclass(torch.Tensor) * std + mean) * 255).round().to(torch.uint8)
    for photo, path in zip(back, data.valid, strict=True):
        np.testing.assert_array_equal(photo.permute(1, 2, 0).numpy(), prepare(read_photo(path), preprocess))
    assert [dls.vocab[index] for index in torch.cat([y for _, y in batches])] == list(data.valid.values())


def test_a_big_jpeg_is_validated_as_export_prepares_it_and_trained_on_whole(tmp_path):
    draws, preprocess = np.random.default_rng(0), for_size(32)
    for folder in ("train/a", "train/b", "val/a"):
        (tmp_path / folder).mkdir(parents=True)
        pixels = cv2.resize(draws.integers(0, 255, (300, 400, 3), np.uint8), (4000, 3000))
        cv2.imwrite(str(tmp_path / folder / "1.jpg"), pixels)
    data = find_data(tmp_path)
    dls, path = loaders(data), next(iter(data.valid))
    photo, whole = read_reduced(path, smallest_side(preprocess))
    assert (photo.shape, whole) == ((375, 500, 3), (3000, 4000))
    expected = torch.from_numpy(prepare(photo, preprocess, whole)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(preprocess[name]).view(3, 1, 1) for name in ("mean", "std"))
    for loader in (dls.valid, dls.test_dl([str(path)]), dls.test_dl([path.read_bytes()])):
        image = loader.one_batch()[0][0].as_subclass(torch.Tensor)
        assert torch.equal(image, (expected - mean) / std)
    assert dls.train_ds[0][0].shape == (3000, 4000, 3)
    of_pixels = dls.test_dl([read_photo(path)]).one_batch()[0]
    assert 0 < (of_pixels - dls.valid.one_batch()[0]).abs().mean() < 1.1 / 255 / 0.22


def test_test_dl_takes_paths_bytes_arrays_and_pil_images_alike(data):
    from PIL import Image

    dls, path = loaders(data), next(iter(data.valid))
    kinds = [path, str(path), path.read_bytes(), read_photo(path), Image.open(path)]
    batches = [dls.test_dl([kind]).one_batch()[0] for kind in kinds]
    assert all(torch.equal(batches[0], batch) for batch in batches)


def test_workers_run_no_opencv_threads_of_their_own(data):
    dls = loaders(data, workers=1)
    dls.train.create_item = lambda index: (torch.tensor(cv2.getNumThreads()),)
    dls.train.after_item = dls.train.after_batch = dls.train.before_batch
    assert {int(count) for batch in dls.train for count in batch[0]} == {1}


@pytest.fixture(scope="module")
def uneven(data):
    "12 photos of a cat and 2 of a dog to train on."
    cats = {path: label for path, label in data.train.items() if label == "cat"}
    dogs = {path: label for path, label in data.train.items() if label == "dog"}
    return DataSet(data.path, cats | dict(list(dogs.items())[:2]), data.valid)


def test_balanced_draws_as_torchs_weighted_random_sampler_does(uneven):
    "As many as there are photos; over 2,000 epochs each as often as there, within 4 standard errors."
    train, each = loaders(uneven, sampler="balanced").train, np.zeros(14)
    for epoch in range(2000):
        train.sampler_state.epoch = epoch
        drawn = np.array(train.get_idxs()) % 14
        assert len(drawn) == 14
        each += np.bincount(drawn, minlength=14)
    torch.manual_seed(0)
    weights = [1 / 12] * 12 + [1 / 2] * 2
    sampler = torch.utils.data.WeightedRandomSampler(weights, 14 * 2000)
    torchs = np.bincount(list(sampler), minlength=14)
    expected = np.array(weights) / 2 * 14 * 2000
    for counts in (each, torchs):
        assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_balanced_is_the_same_for_0_1_and_3_workers_and_differs_between_epochs_and_seeds(uneven):
    alone = epochs(loaders(uneven, sampler="balanced").train, 2)
    for workers in (1, 3):
        np.random.seed(workers)
        assert same(alone, epochs(loaders(uneven, workers=workers, sampler="balanced").train, 2))
    train, other = (loaders(uneven, seed=seed, sampler="balanced").train for seed in (0, 1))
    first, of_other = train.get_idxs(), other.get_idxs()
    train.sampler_state.epoch = 1
    assert len({tuple(first), tuple(of_other), tuple(train.get_idxs())}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_drawn_twice_in_an_epoch_is_augmented_in_two_ways(uneven, workers):
    train = loaders(uneven, workers=workers, sampler="balanced").train
    photos = torch.cat([x for x, _ in train])
    names = [path for batch in range(2) for path in train.batch_photos(batch)]
    assert len(set(names)) < len(names) == 14
    assert len(photos.flatten(1).unique(dim=0)) == 14


def test_batch_photos_are_those_of_the_batch_where_balanced_draws_repeat_them(uneven):
    dls = loaders(uneven, sampler="balanced")
    for number, (_, labels) in enumerate(dls.train):
        assert [uneven.train[path] for path in dls.train.batch_photos(number)] == [dls.vocab[y] for y in labels]


def test_balanced_draws_are_taken_up_again_inside_an_epoch(uneven):
    whole = epochs(loaders(uneven, sampler="balanced").train, 3)
    later = loaders(uneven, sampler="balanced").train
    later.sampler_state.next_epoch, later.sampler_state.skip = 2, 8
    assert same([whole[2][1:]], epochs(later, 1))


def test_validation_and_predictions_are_in_order_where_training_is_balanced(uneven):
    plain, balanced = loaders(uneven), loaders(uneven, sampler="balanced")
    assert same(epochs(plain.valid, 1), epochs(balanced.valid, 1))
    path = next(iter(uneven.train))
    assert torch.equal(*(dls.test_dl([path]).one_batch()[0] for dls in (plain, balanced)))
    assert balanced.train.new(shuffle=False).get_idxs() == list(range(14))


def test_an_unknown_sampler_names_those_there_are(data):
    with pytest.raises(ValueError, match="unknown --sampler 'even': choose one of shuffle, balanced"):
        loaders(data, sampler="even")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batches_are_normalised_to_the_bit_as_fastai_does(data, layout):
    from fastai.data.transforms import IntToFloatTensor, Normalize
    from fastai.vision.core import TensorImage

    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=layout)
    preprocess = for_size(32)
    ours, fastais = (
        loaders(data).train.after_batch,
        Normalize.from_stats(preprocess["mean"], preprocess["std"], cuda=False),
    )
    expected = fastais(IntToFloatTensor()(TensorImage(pixels)))
    got = ours((TensorImage(pixels),))[0]
    assert torch.equal(got, expected)
    assert got.stride() == expected.stride()
    assert pixels.dtype == torch.uint8
    back = loaders(data).train.after_batch.decode((got,))[0]
    assert (back.int() - pixels.int()).abs().max() <= 1  # fastai truncates
