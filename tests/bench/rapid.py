"""Time to accuracy: recipes.rapid given a fraction of the time that recipes.hw1 takes, on the same photos and weights.

    python tests/bench/rapid.py grocery        # mobilenetv2 with ImageNet weights at 128 px; also: digits (64 px)
    python tests/bench/rapid.py FOLDER         # the same at 96 px on any other data with test_labels.csv, as emoji.py's
    python tests/bench/rapid.py vit            # from scratch on the digits, at 32 px; also: convnext
    SEEDS=1 EPOCHS=4 python tests/bench/rapid.py digits

For each seed in turn: hw1 for 20 epochs, then rapid with --minutes of an eighth and of a quarter of what that took,
from the learner's making to the end of its fit. Bars: in an eighth hw1's best validation accuracy is reached, in a
quarter it is higher. The pairs are compared as in recipes.loss_study: Student's t over seeds and images, and exact
McNemar by the majority of the seeds; on the test photos too. From scratch: rapid given the same time does no harm.
"""

import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from recipes import hw1, rapid  # noqa: E402
from toolkit.data.digits import write_digits  # noqa: E402
from toolkit.evaluation.statistics import mcnemar_by_majority, mean_variance, t_test  # noqa: E402
from toolkit.training.begin import begin  # noqa: E402
from toolkit.training.evaluate import evaluate  # noqa: E402
from toolkit.training.fit import fit  # noqa: E402

SHARED = ROOT.parent / "shared"
MOBILENET = ["mobilenetv2_100", str(SHARED / "weights" / "mobilenetv2_100.pth")]
CASES = {  # data, arch, weights, image_size, shares of hw1's time
    "grocery": (SHARED / "data" / "grocery20", *MOBILENET, 128, (1 / 8, 1 / 4)),
    "digits": (None, *MOBILENET, 64, (1 / 8, 1 / 4)),
    "vit": (None, "test_vit", "none", 32, (1,)),
    "convnext": (None, "test_convnext", "none", 32, (1,)),
}
EPOCHS, SEEDS, BS = int(os.environ.get("EPOCHS", 20)), int(os.environ.get("SEEDS", 3)), 32


def learned(recipe, name, folder, data, arch, weights, size, seed, minutes=None):
    "(seconds, the learner, its run's figures): trained as the recipe's command does, to the end of the fit."
    begun = time.perf_counter()
    budget = {"minutes": minutes} if minutes else {"epochs": EPOCHS}
    learn = recipe.learner(data, arch=arch, weights=weights, bs=BS, image_size=size, seed=seed, device="cpu", **budget)
    run = begin(folder, learn)
    fit(learn, run)
    seconds = time.perf_counter() - begun
    return seconds, learn, evaluate(learn, run)


def right(learn, labels):
    "float [photos]: 1 where the learner is right, of the validation photos and of the test photos that have a label."
    with learn.no_bar():
        predicted, truth = learn.get_preds()
        valid = predicted.argmax(1) == truth
        photos = [photo for photo in learn.dls.data.test.values() if photo.stem in labels]
        test = learn.get_preds(dl=learn.dls.test_dl(photos))[0].argmax(1)
    truths = [labels[photo.stem] for photo in photos]
    tested = [learn.dls.vocab[index] == truth for index, truth in zip(test.tolist(), truths, strict=True)]
    return valid.float().numpy(), np.array(tested, float)


def labels_of(data):
    with (data / "test_labels.csv").open(newline="") as file:
        return {Path(row[0]).stem: row[1] for row in list(csv.reader(file))[1:]}


def compare(data, arch, weights, size, shares):
    with tempfile.TemporaryDirectory() as root:
        data = data or write_digits(Path(root) / "digits")
        labels = labels_of(data)
        found = {}
        for seed in range(SEEDS):
            place = (data, arch, weights, size, seed)
            whole, *rest = learned(hw1, "hw1", Path(root) / f"hw1-{seed}", *place)
            note(found, "hw1", seed, whole, *rest, labels)
            for share in shares:
                name = f"rapid in {share:.3g}"
                minutes = whole * share / 60
                done = learned(rapid, "rapid", Path(root) / f"{name}-{seed}", *place, minutes)
                note(found, name, seed, *done, labels)
    for name in list(found)[1:]:
        tell(name, found["hw1"], found[name])


def note(found, name, seed, seconds, learn, figures, labels):
    valid, test = right(learn, labels)
    found.setdefault(name, []).append((seconds, figures["accuracy"], valid, test))
    print(
        f"== {name}, seed {seed}: {seconds:.1f} s, {figures['epochs']} epochs, best {figures['best_epoch']}, "
        f"valid {figures['accuracy']:.2%}, test {test.mean():.2%}",
        flush=True,
    )


def tell(name, base, other):
    ratio = sum(run[0] for run in other) / sum(run[0] for run in base)
    print(f"{name}: {ratio:.3f} of hw1's seconds")
    for part, index in (("valid", 2), ("test", 3)):
        theirs, ours = (np.stack([run[index] for run in runs]) for runs in (base, other))
        more, less, p = mcnemar_by_majority(ours, theirs)
        low, high, chance = t_test(mean_variance(ours - theirs))
        print(
            f"  {part} ({ours.shape[1]} photos): hw1 {theirs.mean():.2%}, rapid {ours.mean():.2%}, difference "
            f"{low:+.2%} to {high:+.2%} (p {chance:.2g}); only rapid right {more}, only hw1 {less} (McNemar "
            f"p {p:.2g})",
            flush=True,
        )


if __name__ == "__main__":
    if "--help" in sys.argv:
        sys.exit(print(__doc__))
    for case in sys.argv[1:] or CASES:
        data, arch, weights, size, shares = CASES.get(case) or (Path(case), *MOBILENET, 96, (1 / 8, 1 / 4))
        needed = [Path(name) for name in (data, weights) if name not in (None, "none")]
        if missing := [path.name for path in needed if not path.exists()]:
            print(f"{case}: skipped, {' and '.join(missing)} not being there")
            continue
        print(f"{case}: {arch}, {size} px, {SEEDS} seeds", flush=True)
        compare(data, arch, weights, size, shares)
