"""The summary that goes into metrics.json."""

import json

import numpy as np
import pytest
from overconfident import overconfident
from sklearn import metrics as sk

from toolkit.evaluation.calibration import scaled_by_other_half
from toolkit.evaluation.statistics import wilson_interval
from toolkit.evaluation.summary import summary


def test_the_summary_is_plain_json_and_agrees_with_scikit_learn():
    probabilities, labels = overconfident(dtype=np.float32)
    found = summary(probabilities, labels)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["accuracy"] == sk.accuracy_score(labels, probabilities.argmax(1))
    assert found["accuracy_interval"] == list(wilson_interval(round(found["accuracy"] * 400), 400))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, probabilities.argmax(1), average="macro"))
    assert sum(b["count"] for b in found["reliability"]) == found["images"] == 400


@pytest.mark.parametrize(("n", "classes"), [(1, 1), (1, 2), (2, 2), (3, 1), (5, 40)])
def test_the_summary_of_very_few_images_or_classes_is_finite(n, classes):
    found = summary(np.full((n, classes), 1 / classes), np.zeros(n, int))
    json.dumps(found, allow_nan=False)
    assert found["accuracy"] == 1
    assert found["nll"] == pytest.approx(np.log(classes))


def test_half_precision_gives_nearly_the_metrics_of_single_precision():
    probabilities, labels = overconfident(classes=100, n=2000, dtype=np.float32)
    half, single = (summary(probabilities.astype(t), labels) for t in (np.float16, np.float32))
    for key in ("accuracy", "brier", "ece", "macro_f1"):
        assert half[key] == pytest.approx(single[key], abs=2e-3)
    for key in ("nll", "temperature", "scaled_nll"):
        assert half[key] == pytest.approx(single[key], rel=0.02)


def test_logits_are_refused_as_probabilities():
    with pytest.raises(ValueError, match="pass logits through softmax"):
        summary(np.array([[3.0, -1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="nan"):
        summary(np.array([[np.nan, 1.0]]), np.array([0]))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "is the validation set empty"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "accepted: 0 to 1"),
        (np.full((2, 2), 0.5), np.array([-1, 0]), "run from -1"),
        (np.full((2, 2), 0.5), np.array([0]), "2 and 1 images"),
        (np.full((2, 2), 0.5), np.array([0.0, 1.0]), "class indices"),
        (np.array([1, 0]), np.array([0, 1]), "floats of shape"),
    ],
)
def test_wrong_shapes_dtypes_and_labels_are_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        summary(probabilities, labels)


def test_adaptive_calibration_error_does_not_depend_on_the_order_of_images():
    probabilities, labels = overconfident()
    probabilities = probabilities.round(1) / probabilities.round(1).sum(1, keepdims=True)  # many equal confidences
    order = np.random.default_rng(1).permutation(len(labels))
    a, b = (summary(probabilities[i], labels[i])["adaptive_ece"] for i in (np.arange(len(labels)), order))
    assert a == pytest.approx(b, abs=1e-12)


def test_temperature_scaling_lowers_the_loss_and_keeps_every_prediction():
    probabilities, labels = overconfident(n=2000)
    found = summary(probabilities, labels)
    assert found["scaled_nll"] < found["nll"]
    assert found["scaled_ece"] < found["ece"]
    assert (scaled_by_other_half(probabilities, labels).argmax(1) == probabilities.argmax(1)).all()
