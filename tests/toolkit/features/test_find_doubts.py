"""Doubts about a data set, odd ones out, and their table."""

import cv2
import numpy as np
import pytest

from toolkit.features.doubts import Doubt, read_doubts, write_doubts
from toolkit.features.duplicates import SIDE
from toolkit.features.find_doubts import Labelled, find_doubts
from toolkit.features.outliers import odd_ones
from toolkit.features.summary import as_findings


def blobs(seed):
    noise = np.random.default_rng(seed).standard_normal((SIDE, SIDE)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture(scope="module")
def doubts():
    "Of two classes of 40 photos: 3 has the wrong label; copies in another split, of another class, and beside."
    draw = np.random.default_rng(0)
    features = draw.standard_normal((80, 16))
    features += 2 * np.repeat([-1, 1], 40)[:, None]
    labels = ["cat"] * 40 + ["dog"] * 40
    labels[3] = "dog"
    photos = [Labelled(f"train/{i}.jpg", "train", label) for i, label in enumerate(labels)]
    copies = [(10, "valid", "cat"), (11, "train", "dog"), (12, "train", "cat"), (13, "test", None), (14, "test", None)]
    photos += [Labelled(f"{split}/copy{of}.jpg", split, label) for of, split, label in copies]
    photos += [Labelled("test/copy14 again.jpg", "test", None)]
    thumbnails = np.stack([blobs(i) for i in [*range(80), 10, 11, 12, 13, 99, 99]])
    features = np.concatenate([features, features[[10, 11, 12, 13, 14, 14]] + 0.1 * draw.standard_normal((6, 16))])
    return find_doubts(photos, features, thumbnails)


def test_each_pair_is_a_row_of_the_photo_that_is_less_needed_elsewhere(doubts):
    rows = {(doubt.finding, doubt.file, doubt.other) for doubt in doubts if doubt.other}
    assert rows == {
        ("leak", "train/10.jpg", "valid/copy10.jpg"),
        ("leak", "train/13.jpg", "test/copy13.jpg"),
        ("conflict", "train/11.jpg", "train/copy11.jpg"),
        ("conflict", "train/copy11.jpg", "train/11.jpg"),
        ("duplicate", "train/copy12.jpg", "train/12.jpg"),
    }


def test_a_wrong_label_is_suspected_and_the_class_it_looks_like_is_suggested(doubts):
    suspects = {doubt.file: doubt for doubt in doubts if doubt.finding == "label"}
    assert suspects["train/3.jpg"].suggestion == "cat"
    assert suspects["train/3.jpg"].label == "dog"
    assert float(suspects["train/3.jpg"].score) > 0.8
    assert suspects.keys() <= {"train/3.jpg", "train/11.jpg", "train/copy11.jpg"}


def test_a_table_of_doubts_comes_back_as_it_was(doubts, tmp_path):
    strange = [Doubt('train/a,"b"\n=1.jpg', "train", "ß", "odd", "", "4.100", ""), *doubts]
    write_doubts(tmp_path / "doubts.csv", strange)
    assert read_doubts(tmp_path / "doubts.csv") == strange
    assert read_doubts(tmp_path / "none.csv") == []
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a table of file,split,label,finding,suggestion,score,other"):
        read_doubts(tmp_path / "other.csv")


def test_each_kind_of_doubt_is_a_finding_for_people_and_for_programs(doubts):
    found = {finding.kind: finding for finding in as_findings(doubts)}
    assert found["near_leak"].state == "warning"
    assert found["near_copy"].state == "note"
    assert found["near_copy"].text == "1 photo nearly the same as one in their own split and class"
    assert found["near_copy"].items[0]["file"] == "train/copy12.jpg"
    assert any(line.startswith("train/3.jpg: dog, more like cat (") for line in found["wrong_label"].lines)


def test_a_photo_far_from_all_others_is_odd():
    draw = np.random.default_rng(0)
    features = draw.standard_normal((200, 16))
    features[7] += 30
    photos, scores = odd_ones(features)
    distances = np.sort(np.linalg.norm(features[:, None] - features[None], axis=2), 1)[:, 1:6].mean(1)
    spread = 1.4826 * np.median(np.abs(distances - np.median(distances)))
    assert photos[0] == 7
    assert scores[0] == pytest.approx((distances[7] - np.median(distances)) / spread, rel=1e-3)
    assert len(odd_ones(features[:1])[0]) == 0
