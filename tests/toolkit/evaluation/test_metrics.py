"""Every figure against scikit-learn, scipy, or an example worked by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn import metrics as sk

from toolkit.evaluation import metrics


def example(n=400, classes=7, seed=0, dtype=np.float64):
    "Probabilities and labels of a model that is right about two times in three and too sure."
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) * 2
    logits[np.arange(n), labels] += 2.5
    return metrics.softmax(logits * 1.8).astype(dtype), labels


def logits_and_labels(seed=3, scale=2.0):
    probabilities, labels = example(seed=seed)
    return np.log(probabilities) * scale, labels


# Accuracy and its interval


@pytest.mark.parametrize(
    ("correct", "total"), [(274, 300), (0, 10), (10, 10), (1, 1), (0, 1), (95, 104), (48_000, 50_000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_interval_is_scipys(correct, total, confidence):
    expected = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert metrics.wilson_interval(correct, total, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_interval_stays_inside_0_and_1_and_reaches_them():
    assert metrics.wilson_interval(0, 7)[0] == 0
    assert metrics.wilson_interval(7, 7)[1] == 1
    assert all(0 <= end <= 1 for k in range(8) for end in metrics.wilson_interval(k, 7))


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (5, 4), (-1, 4)])
def test_an_interval_of_no_images_is_refused(correct, total):
    with pytest.raises(ValueError, match="at least one image"):
        metrics.wilson_interval(correct, total)


def test_an_interval_of_95_instead_of_0_95_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, such as 0.95"):
        metrics.wilson_interval(3, 4, confidence=95)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_topk_is_scikit_learns(k):
    probabilities, labels = example()
    if k < 7:
        assert metrics.topk_accuracy(probabilities, labels, k) == sk.top_k_accuracy_score(labels, probabilities, k=k)
    else:
        assert metrics.topk_accuracy(probabilities, labels, k) == 1


def test_top1_of_equal_probabilities_is_argmax():
    probabilities, labels = np.full((6, 3), 1 / 3), np.array([0, 0, 1, 1, 2, 2])
    assert metrics.topk_accuracy(probabilities, labels, 1) == (probabilities.argmax(1) == labels).mean()


# Confusion matrix and classes


def test_confusion_matrix_is_scikit_learns():
    probabilities, labels = example()
    predictions = probabilities.argmax(1)
    assert (
        metrics.confusion_matrix(labels, predictions, 9) == sk.confusion_matrix(labels, predictions, labels=range(9))
    ).all()


def test_confusion_matrix_of_no_image_is_zero():
    assert metrics.confusion_matrix(np.array([]), np.array([]), 3).tolist() == [[0] * 3] * 3


def test_confusion_matrix_of_small_dtypes_does_not_overflow():
    labels = np.full(5, 99, np.uint8)
    assert metrics.confusion_matrix(labels, labels, 100)[99, 99] == 5


def test_confusion_matrix_needs_no_memory_of_classes_by_images():
    tracker = "import tracemalloc, numpy as np; from toolkit.evaluation.metrics import confusion_matrix as c; "
    tracker += (
        "y = np.zeros(200_000, np.int64); tracemalloc.start(); c(y, y, 200); print(tracemalloc.get_traced_memory()[1])"
    )
    peak = int(subprocess.run([sys.executable, "-c", tracker], capture_output=True, text=True, check=True).stdout)
    assert peak < 20e6  # classes x images booleans would be 40 MB, classes^2 x images 8 GB


def test_figures_by_class_are_scikit_learns_where_they_are_defined():
    probabilities, labels = example()
    predictions = probabilities.argmax(1)
    predictions[predictions == 2] = 3  # class 2 is never predicted
    labels, predictions = labels[labels != 5], predictions[labels != 5]  # class 5 has no image
    ours = metrics.per_class(metrics.confusion_matrix(labels, predictions, 8))  # class 7 has neither
    theirs = sk.precision_recall_fscore_support(labels, predictions, labels=range(8), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        np.testing.assert_allclose(np.nan_to_num(ours[name]), values, atol=1e-15)
    assert np.isnan(ours["precision"][[2, 7]]).all()
    assert np.isnan(ours["recall"][[5, 7]]).all()
    assert np.flatnonzero(np.isnan(ours["f1"])).tolist() == [7]


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_mean_f1_is_scikit_learns_also_with_absent_classes(average):
    probabilities, labels = example()
    predictions = np.where(probabilities.argmax(1) == 2, 3, probabilities.argmax(1))
    keep = labels != 5
    confusion = metrics.confusion_matrix(labels[keep], predictions[keep], 8)
    ours = {"macro": metrics.macro_f1, "weighted": metrics.weighted_f1}[average](confusion)
    assert ours == pytest.approx(
        sk.f1_score(labels[keep], predictions[keep], average=average, zero_division=0), abs=1e-15
    )


def test_balanced_accuracy_is_scikit_learns():
    probabilities, labels = example()
    labels, probabilities = labels[labels < 6], probabilities[labels < 6]
    predictions = np.minimum(probabilities.argmax(1), 5)
    ours = metrics.balanced_accuracy(metrics.confusion_matrix(labels, predictions, 7))
    assert ours == pytest.approx(sk.balanced_accuracy_score(labels, predictions), abs=1e-15)


@pytest.mark.parametrize("figure", [metrics.macro_f1, metrics.weighted_f1, metrics.balanced_accuracy])
def test_means_over_classes_of_no_image_are_refused(figure):
    with pytest.raises(ValueError, match="is the validation set empty"):
        figure(np.zeros((3, 3), int))


# Probabilities


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_log_likelihood_is_scikit_learns(dtype):
    probabilities, labels = example(dtype=dtype)
    exact = probabilities / probabilities.sum(1, keepdims=True, dtype=np.float64)
    expected = sk.log_loss(labels, exact, labels=range(7))
    assert metrics.negative_log_likelihood(probabilities, labels) == pytest.approx(expected, rel=1e-6)


def test_a_probability_of_0_for_the_label_costs_much_and_not_infinity():
    loss = metrics.negative_log_likelihood(np.array([[1, 0]], np.float32), np.array([1]))
    assert 80 < loss < 110


def test_brier_is_the_squared_distance_to_one_hot():
    probabilities, labels = example()
    expected = ((probabilities - np.eye(7)[labels]) ** 2).sum(1).mean()
    assert metrics.brier(probabilities, labels) == pytest.approx(expected, rel=1e-12)
    assert metrics.brier(np.eye(3), np.array([1, 2, 0])) == 2


# Calibration


def test_calibration_error_of_a_worked_example():
    # (0.4, 0.6]: confidences .5 .6 (mean .55), 1 of 2 right; (0.8, 1]: .9 .9 1 (mean .9333), 2 of 3 right
    curve = metrics.reliability_curve([0.5, 0.6, 0.9, 0.9, 1.0], [1, 0, 1, 1, 0], bins=5)
    assert [(b["count"], b["accuracy"]) for b in curve] == [(2, 0.5), (3, pytest.approx(2 / 3))]
    assert [b["confidence"] for b in curve] == pytest.approx([0.55, 2.8 / 3])
    assert metrics.calibration_error(curve) == pytest.approx(2 / 5 * 0.05 + 3 / 5 * (2.8 / 3 - 2 / 3))


def test_calibration_error_is_the_papers_loop():
    probabilities, labels = example()
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += abs(confidence[inside].mean() - correct[inside].mean()) * inside.mean()
    assert metrics.calibration_error(metrics.reliability_curve(confidence, correct)) == pytest.approx(
        expected, abs=1e-12
    )


def test_adaptive_bins_hold_equal_numbers_and_keep_equal_confidences_together():
    curve = metrics.reliability_curve(np.linspace(0.3, 0.99, 60), np.ones(60), bins=15, adaptive=True)
    assert [b["count"] for b in curve] == [4] * 15
    saturated = np.r_[np.full(52, 1.0), np.linspace(0.3, 0.9, 8)]
    curve = metrics.reliability_curve(saturated, np.r_[np.zeros(13), np.ones(47)], bins=15, adaptive=True)
    assert [b["count"] for b in curve] == [4, 4, 52]
    assert [b["accuracy"] for b in curve] == [1, 1, 0.75]


def test_adaptive_calibration_error_does_not_depend_on_the_order_of_images():
    probabilities, labels = example()
    probabilities = probabilities.round(1) / probabilities.round(1).sum(1, keepdims=True)  # many equal confidences
    order = np.random.default_rng(1).permutation(len(labels))
    a, b = (metrics.summary(probabilities[i], labels[i])["adaptive_ece"] for i in (np.arange(len(labels)), order))
    assert a == pytest.approx(b, abs=1e-12)


def test_a_confidence_above_1_is_refused():
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        metrics.reliability_curve([87.0], [1])


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_temperature_is_the_minimum_a_general_optimiser_finds(scale):
    logits, labels = logits_and_labels(scale=scale)

    def loss(t):
        return sk.log_loss(labels, metrics.softmax(logits / t), labels=range(7))

    best = optimize.minimize_scalar(loss, bounds=(0.05, 50), method="bounded", options={"xatol": 1e-9})
    assert metrics.temperature(logits, labels) == pytest.approx(best.x, rel=1e-4)
    assert loss(metrics.temperature(logits, labels)) <= best.fun + 1e-12


def test_temperature_of_log_probabilities_is_that_of_logits():
    logits, labels = logits_and_labels()
    shifted = np.log(metrics.softmax(logits))
    assert metrics.temperature(shifted, labels) == pytest.approx(metrics.temperature(logits, labels), rel=1e-4)


def test_temperature_is_1_where_the_loss_has_no_minimum():
    assert metrics.temperature(np.eye(4) * 9, np.arange(4)) == 1
    assert metrics.temperature(np.zeros((5, 1)), np.zeros(5, int)) == 1


def test_temperature_of_infinite_logits_is_refused():
    with pytest.raises(ValueError, match="finite numbers"):
        metrics.temperature(np.array([[0, np.inf]]), np.array([0]))
    with pytest.raises(ValueError, match="at least one"):
        metrics.temperature(np.zeros((0, 3)), np.zeros(0, int))


def test_calibration_after_temperature_never_sees_its_own_labels():
    probabilities, labels = example(n=40)
    scaled = metrics.scaled_by_other_half(probabilities, labels)
    order = np.random.default_rng(0).permutation(40)
    first = order[:20]
    swapped = labels.copy()
    swapped[first] = (labels[first] + 1) % 7  # its own half's labels do not matter to the first half
    np.testing.assert_allclose(metrics.scaled_by_other_half(probabilities, swapped)[first], scaled[first])
    assert not np.allclose(metrics.scaled_by_other_half(probabilities, swapped)[order[20:]], scaled[order[20:]])


def test_temperature_lowers_the_loss_and_keeps_every_prediction():
    probabilities, labels = example(n=2000)
    found = metrics.summary(probabilities, labels)
    assert found["scaled_nll"] < found["nll"]
    assert found["scaled_ece"] < found["ece"]
    assert (metrics.scaled_by_other_half(probabilities, labels).argmax(1) == probabilities.argmax(1)).all()


# The summary


def test_summary_is_plain_json_and_agrees_with_its_parts():
    probabilities, labels = example(dtype=np.float32)
    found = metrics.summary(probabilities, labels)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["accuracy"] == sk.accuracy_score(labels, probabilities.argmax(1))
    assert found["accuracy_interval"] == list(metrics.wilson_interval(round(found["accuracy"] * 400), 400))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, probabilities.argmax(1), average="macro"))
    assert sum(b["count"] for b in found["reliability"]) == found["images"] == 400


@pytest.mark.parametrize(("n", "classes"), [(1, 1), (1, 2), (2, 2), (3, 1), (5, 40)])
def test_summary_of_almost_nothing_is_finite(n, classes):
    found = metrics.summary(np.full((n, classes), 1 / classes), np.zeros(n, int))
    json.dumps(found, allow_nan=False)
    assert found["accuracy"] == 1
    assert found["nll"] == pytest.approx(np.log(classes))


def test_half_precision_gives_nearly_the_figures_of_single():
    probabilities, labels = example(classes=100, n=2000, dtype=np.float32)
    half, single = (metrics.summary(probabilities.astype(t), labels) for t in (np.float16, np.float32))
    for key in ("accuracy", "brier", "ece", "macro_f1"):
        assert half[key] == pytest.approx(single[key], abs=2e-3)
    for key in ("nll", "temperature", "scaled_nll"):
        assert half[key] == pytest.approx(single[key], rel=0.02)


def test_a_0_of_half_precision_costs_what_half_precision_can_tell():
    assert metrics.negative_log_likelihood(np.array([[1, 0]], np.float16), np.array([1])) == pytest.approx(
        24 * np.log(2)
    )


def test_logits_are_no_probabilities():
    with pytest.raises(ValueError, match="pass logits through softmax"):
        metrics.summary(np.array([[3.0, -1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="nan"):
        metrics.summary(np.array([[np.nan, 1.0]]), np.array([0]))


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
def test_what_does_not_fit_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.summary(probabilities, labels)


def test_metrics_import_neither_torch_nor_scikit_learn():
    heavy = {"torch", "sklearn", "scipy", "matplotlib"}
    code = f"import sys, toolkit.evaluation.metrics; print({heavy} & {{*sys.modules}} or [])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
