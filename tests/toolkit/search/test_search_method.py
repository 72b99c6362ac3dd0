"""The photos that a search looks at, and what it knows of them."""

from pathlib import Path

import numpy as np
import torch

from toolkit.data.dataset import DataSet
from toolkit.search import network_probe, search_method


def made(photos):
    names = [Path(f"{i}.png") for i in range(photos)]
    data = DataSet(Path("data"), dict(zip(names, "ab" * (photos // 2), strict=True)), {Path("v.png"): "a"})
    number = torch.arange(photos)
    return data, (number[:, None].float(), number % 2, number.numpy())


def test_of_many_photos_as_many_are_drawn_as_a_search_looks_at_each_with_its_own_features(monkeypatch):
    data, known = made(20)
    same, (features, labels, thumbnails) = search_method._drawn(data, known, 0)
    assert list(same.train) == list(data.train)
    assert features[:, 0].tolist() == thumbnails.tolist() == list(range(20))
    monkeypatch.setattr(network_probe, "MOST", 6)
    drawn, (features, labels, thumbnails) = search_method._drawn(data, known, 0)
    indices = [list(data.train).index(photo) for photo in drawn.train]
    assert len(set(indices)) == 6
    assert not drawn.valid
    assert features[:, 0].tolist() == thumbnails.tolist() == indices
    assert ["ab"[label] for label in labels] == list(drawn.train.values())


def test_folds_keep_copies_together_and_one_photo_is_in_none():
    features = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    features[20:] = features[:20]
    thumbnails = np.random.default_rng(0).integers(0, 256, (20, 32, 32), np.uint8)
    known = torch.from_numpy(features), torch.arange(40) % 2, np.concatenate([thumbnails, thumbnails])
    folds = search_method._folds(known, 0)
    assert (folds[:20] == folds[20:]).all()
    assert set(folds) == {0, 1, 2, 3}
    one = torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64), np.concatenate([thumbnails[:1]] * 2)
    assert search_method._folds(one, 0).tolist() == [-1, -1]
