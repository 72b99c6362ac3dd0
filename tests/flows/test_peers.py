"The benchmark of rapid against others: its sides start from the same weights, its last step is right, it goes on."

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import timm
import torch

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))  # a benchmark's own folder is searched for modules if it is started as a file
import letters  # noqa: E402
import peer_methods  # noqa: E402
import peer_results  # noqa: E402

LABELS = ["cat", "dog", "cat", None]  # of four test photos; the last one has none


@pytest.fixture
def data(tmp_path):
    "Photos' names only: 2 to train and 2 to validate of each class, 4 to test."
    root = tmp_path / "pets"
    for part, name in [(part, name) for part in ("train", "val") for name in ("cat", "dog")]:
        (root / part / name).mkdir(parents=True)
        for number in range(2):
            (root / part / name / f"{number}.png").touch()
    (root / "test").mkdir()
    for number in range(4):
        (root / "test" / f"t{number}.png").touch()
    rows = [f"t{number},{label}" for number, label in enumerate(LABELS) if label]
    (root / "test_labels.csv").write_text("\n".join(["image_name,label", *rows]) + "\n")
    return root


def write_run(folder, method, seed, seconds, test):
    run = {
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "accuracies": [0.5, 1.0, 0.75],
        "valid": ["cat", "dog", "dog", "dog"],  # of two cats and two dogs
        "test": test,
        "peak_memory_bytes": 3 * 2**20,
    }
    folder.mkdir(parents=True, exist_ok=True)
    peer_results.run_file(folder, method, seed).write_text(json.dumps(run))


def test_the_last_step_counts_labelled_test_photos_and_compares_pairs(data, tmp_path, capsys):
    folder, methods = tmp_path / "out" / "pets-128", ["hw1", "rapid:1/4"]
    for seed in range(2):
        write_run(folder, "hw1", seed, 40.0, ["cat", "cat", "dog", "dog"])  # 1 of 3
        write_run(folder, "rapid:1/4", seed, 10.0 + 2 * seed, ["cat", "dog", "dog", "cat"])  # 2 of 3
    peer_results.conclude([(folder, data)], methods, 2, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [(row["method"], row["seed"], row["test"]) for row in rows] == [
        ("hw1", "0", "0.333333"),
        ("hw1", "1", "0.333333"),
        ("rapid:1/4", "0", "0.666667"),
        ("rapid:1/4", "1", "0.666667"),
    ]
    assert {(row["valid"], row["best_epoch"], row["best_valid"], row["last_valid"]) for row in rows} == {
        ("0.75", "2", "1", "0.75")
    }
    text = (tmp_path / "out" / "results.txt").read_text()
    assert text in capsys.readouterr().out
    table = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("hw1", "rapid"))}
    assert table["rapid:1/4"][1:5] == ["11.0", "+-", "1.4", "0.275"]  # 10 and 12 s; 11 of 40 s
    line = next(line for line in text.splitlines() if "rapid:1/4 - hw1" in line)
    assert "+33.33 points" in line
    assert "only rapid:1/4 1, only hw1 0, p 1;" in line  # exact McNemar of one photo: 2 * 1/2
    assert line.endswith("0.275 of the seconds")
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_bar_of_equal_values_has_no_length():
    equal = np.full(3, 100 * (np.arange(270) < 5).mean())
    assert equal.mean() > equal.max()  # by rounding
    assert peer_results.bar(equal) == [[pytest.approx(0.0, abs=1e-12)], [0.0]]
    assert peer_results.bar(np.array([1.0, 2.0, 6.0])) == [[2.0], [3.0]]


def test_both_libraries_get_every_tensor_of_the_file_but_the_classifier(tmp_path):
    torch.manual_seed(0)
    given = timm.create_model("test_resnet", num_classes=1000).state_dict()
    torch.save({name: tensor for name, tensor in given.items() if not name.startswith("fc.")}, tmp_path / "body.pth")
    options = peer_methods.timm_weights({"weights": str(tmp_path / "body.pth")})
    for classes in (0, 3):  # as fastai and as train.py ask for it
        made = timm.create_model("test_resnet", num_classes=classes, **options).state_dict()
        assert len([name for name in made if not name.startswith("fc.")]) == len(given) - 2
        assert all(torch.equal(made[name], given[name]) for name in made if not name.startswith("fc."))


def test_letters_takes_fonts_that_have_26_and_splits_them_by_family():
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    assert letters.has_letters(fonts / "DejaVuSerif.ttf")
    assert not letters.has_letters(fonts / "STIXNonUni.ttf")  # draws nothing for a letter
    assert not letters.has_letters(fonts / "LastResortHE-Regular.ttf")  # one sign for all
    parts = letters.split(41, np.random.default_rng(0))
    assert {part: len(families) for part, families in parts.items()} == {"train": 21, "val": 10, "test": 10}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(41))
    first, again = (
        np.asarray(letters.picture("g", fonts / "DejaVuSerif.ttf", np.random.default_rng(1))) for _ in range(2)
    )
    assert first.shape == (80, 80, 3)
    assert (first == again).all()


@pytest.mark.slow
def test_the_benchmark_runs_each_method_once_and_goes_on(tmp_path):
    "Digits, of which 12 of each class are to train; a tiny network with random weights in a file."
    from toolkit.data.digits import write_digits

    digits = write_digits(tmp_path / "digits")
    for folder in [*digits.glob("train/*"), *digits.glob("val/*")]:
        for photo in sorted(folder.iterdir())[12:]:
            photo.unlink()
    torch.save(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "net.pth")
    settings = {"ARCH": "test_resnet", "WEIGHTS": tmp_path / "net.pth", "OUT": tmp_path / "out", "SEEDS": 1}
    settings |= {"EPOCHS": 2, "METHODS": "hw1,fastai,timm,rapid"}
    command = [sys.executable, BENCH / "peers.py", f"{digits}@32"]

    def run(**changes):
        environment = os.environ | {name: str(value) for name, value in (settings | changes).items()}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert run().returncode == 0
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "digits-32").glob("*.json")}
    assert {path.stem for path in made} == {"hw1-0", "fastai-0", "timm-0", "rapid-0"}
    found = json.loads((tmp_path / "out" / "digits-32" / "fastai-0.json").read_text())
    assert [len(found[part]) for part in ("accuracies", "valid", "test")] == [3, 120, 270]  # one more epoch, frozen
    assert run().returncode == 0
    assert made == {path: path.stat().st_mtime_ns for path in made}
    refused = run(EPOCHS=3)
    assert refused.returncode == 1
    assert "epochs 2, now 3" in refused.stderr
