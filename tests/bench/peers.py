"""Accuracy over time of five ways to fine-tune: hw1, fastai, timm's train.py, rapid, and rapid given a budget.

    python tests/bench/peers.py DATA [DATA ...]       # folders with train/, val/, test/ and test_labels.csv; or: digits
    python tests/bench/peers.py DATA digits@64        # after the @: the side of the photos in pixels; 128 without it
    SEEDS=1 EPOCHS=2 METHODS=hw1,rapid:1/8 OUT=/elsewhere python tests/bench/peers.py DATA
    ARCH=test_vit WEIGHTS=none METHODS=hw1,rapid:1 python tests/bench/peers.py digits@32    # from scratch

For each seed in turn, each method in a process of its own, on the same photos, weights and pixels: hw1 for 20 epochs,
fastai's `fine_tune(4)`, timm's train.py with its documentation's options for fine-tuning (30 epochs), rapid at its
defaults, and rapid with --minutes of a quarter (`rapid:1/4`) of what hw1 took with that seed. peer_methods.py says what
each does. EPOCHS replaces the epochs of all but the last, to try it out. WEIGHTS: a file, imagenet or none.

Seconds go from the start, before a photo is opened, to the last weight: decoding, validation after each epoch and what
a method writes are in it, imports and predictions are not. Accuracies are of the weights that a method hands over: the
last epoch's of fastai, the best one's by validation of the others. `best` is the first epoch of the highest accuracy;
of such epochs hw1 and rapid keep that of the lowest loss. Peak memory is the training process's, without its workers.
Photos' files are read once before each run.

Each run is written to OUT (default: runs/peers) when it is done, and is not repeated: an interrupted benchmark goes on.
The labels of the test photos are read after the last run. Then results.csv, results.txt (means, deviations, paired
tests of each pair as in recipes.loss_study) and accuracy.png are made of the runs.

Bars, with mobilenetv2_100 at 128 px: rapid's test accuracy is fastai's + 4 points or more in a third of its time or
less; where photos look like ImageNet's it is hw1's + 3 points in a quarter; elsewhere not below hw1's in half.
"""

import os
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import peer_methods  # noqa: E402
from apart import Apart  # noqa: E402
from peer_results import conclude, run_file  # noqa: E402

from toolkit.data.dataset import find_data  # noqa: E402
from toolkit.data.digits import write_digits  # noqa: E402
from toolkit.files import read_json, write_json  # noqa: E402
from toolkit.run import git_revision, versions  # noqa: E402

SETTINGS = os.environ.get
SEEDS, EPOCHS = int(SETTINGS("SEEDS", 3)), int(SETTINGS("EPOCHS", 0)) or None
METHODS = SETTINGS("METHODS", "hw1,fastai,timm,rapid,rapid:1/4").split(",")
ARCH = SETTINGS("ARCH", "mobilenetv2_100")
WEIGHTS = SETTINGS("WEIGHTS", str(ROOT.parent / "shared" / "weights" / "mobilenetv2_100.pth"))
POLICY = "GOMP_SPINCOUNT"  # which the toolkit sets; the others' processes do without, as their users' do
OUT, SIZE = Path(SETTINGS("OUT", "runs/peers")), 128


def main(wanted: list[str]) -> None:
    check()
    sets, failed = [open_set(word) for word in wanted], []
    for name, data, size in sets:
        failed += compare(OUT / name, data, size)
    if failed:
        sys.exit(f"{len(failed)} runs failed: see {', '.join(failed)}; the same command repeats them alone")
    conclude([(OUT / name, data) for name, data, _ in sets], METHODS, SEEDS, OUT)


def check() -> None:
    "Ends the program if it could not end well."
    for method in METHODS:
        kind, _, share = method.partition(":")
        if kind not in ("hw1", "fastai", "timm", "rapid") or (share and (kind != "rapid" or not 0 < part(share) <= 10)):
            sys.exit(
                f"METHODS {method!r} · known: hw1, fastai, timm, rapid, rapid:SHARE of hw1's time, such as rapid:1/4"
            )
    if any(":" in method for method in METHODS) and METHODS[0] != "hw1":
        sys.exit(f"METHODS {','.join(METHODS)} · a share is of hw1's time: let hw1 be the first")
    if WEIGHTS not in ("imagenet", "none") and not Path(WEIGHTS).is_file():
        sys.exit(f"WEIGHTS {WEIGHTS}: no such file · give a state dict of {ARCH}, imagenet or none")
    if SEEDS < 1:
        sys.exit(f"SEEDS {SEEDS} · accepted: 1 or more")


def part(share: str) -> float:
    "A share of hw1's time: 1/4 or 0.25. Not a number: 0."
    try:
        above, _, below = share.partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        return 0.0


def open_set(word: str) -> tuple[str, Path, int]:
    "(name of its folder in OUT, data, side of the photos) of DATA or DATA@SIDE."
    given, _, side = word.partition("@")
    if side and not (side.isdigit() and int(side)):
        sys.exit(f"{word} · after the @ comes the side of the photos in pixels, such as {given}@64")
    size = int(side or (64 if given == "digits" else SIZE))
    data = write_digits(OUT / "data" / "digits") if given == "digits" else Path(given)
    missing = [name for name in ("train", "test", "test_labels.csv") if not (data / name).exists()]
    if missing or not ((data / "val").is_dir() or (data / "valid").is_dir()):
        sys.exit(f"{data} · needed: folders train, val and test, and test_labels.csv; missing: {missing or ['val']}")
    return f"{data.resolve().name}-{size}", data.resolve(), size


def compare(folder: Path, data: Path, size: int) -> list[str]:
    "Run each method with each seed, unless that run is there. Return the log files of those that failed."
    photos, failed = find_data(data), []
    counts, judged = [len(photos.train), len(photos.valid)], [list(photos.valid), list(photos.test.values())]
    print(f"{folder.name}: {len(photos.classes)} classes, {counts} photos to train and to validate", flush=True)
    for seed in range(SEEDS):
        for method in METHODS:
            target = run_file(folder, method, seed)
            spec = {"method": method, "data": str(data), "fingerprint": photos.fingerprint, "size": size, "seed": seed}
            try:
                spec |= {"arch": ARCH, "weights": WEIGHTS, **budget(method, run_file(folder, "hw1", seed))}
                if not done(target, spec):
                    write_json(target, one(spec, target.with_suffix(".log"), *judged))
                tell(read_json(target), counts)
            except Exception as error:  # hours of other runs are to come
                print(f"  {method}, seed {seed}: failed: {error}", flush=True)
                failed.append(str(target.with_suffix(".log")))
    return failed


def budget(method: str, hw1: Path) -> dict:
    "Epochs and minutes of a method, None for its own."
    share = part(method.partition(":")[2])
    return {"epochs": None if share else EPOCHS, "minutes": share * read_json(hw1)["seconds"] / 60 if share else None}


def done(target: Path, spec: dict) -> bool:
    "True if this run is there. Ends the program if one of other settings is."
    if not target.is_file():
        return False
    there = read_json(target)
    other = [f"{name} {there.get(name)}, now {value}" for name, value in spec.items() if there.get(name) != value]
    if other:
        sys.exit(f"{target} is of other settings ({'; '.join(other)}) · give another OUT, or delete it")
    return True


def one(spec: dict, log: Path, valid: list[Path], test: list[Path]) -> dict:
    "A run in a process of its own. What it says, and the traceback if it fails, go to the file `log`."
    log.parent.mkdir(parents=True, exist_ok=True)
    policy = os.environ.get(POLICY)
    if spec["method"] in ("fastai", "timm"):
        os.environ.pop(POLICY, None)
    side = Apart(peer_methods.prepared, spec, log)
    try:
        return {**side(valid, test), "cores": os.cpu_count(), "versions": versions(), "git": git_revision()}
    except Exception:
        with log.open("a") as file:
            traceback.print_exc(file=file)
        raise
    finally:
        side.end()
        if policy is not None:
            os.environ[POLICY] = policy


def tell(run: dict, counts: list[int]) -> None:
    accuracies = run["accuracies"]
    print(
        f"  {run['method']}, seed {run['seed']}: {run['seconds']:.1f} s, {len(accuracies)} epochs, best "
        f"{accuracies.index(max(accuracies)) + 1}, validation {max(accuracies):.2%}, at the end {accuracies[-1]:.2%}, "
        f"{run['peak_memory_bytes'] / 2**20:.0f} MiB",
        flush=True,
    )
    if run["photos"] != counts:
        sys.exit(f"{run['method']} trained and validated on {run['photos']} photos, the folder has {counts}")


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) < 2:
        sys.exit(print(__doc__))
    main(sys.argv[1:])
