"""Every recipe through its real command: what it writes, how it goes on, how it says no."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import forked
import numpy as np
import pytest
import torch
from here import here
from raw_client import classify
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

from export.session import Classifier
from recipes import hw1
from toolkit import files
from toolkit import run as runs

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [str(number) for number in range(12)]
SMALL = "--arch test_resnet --weights none --image_size 32 --bs 32 --device cpu --precision fp32".split()


def command(module, *arguments, **environment):
    words = [sys.executable, "-m", module, *map(str, arguments)]
    return forked.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    "The homework's layout with 12 classes named by numbers: stripes of a class's own direction, width and colour."
    root, draws = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, each in (("train", 10), ("val", 4), ("test", 1)):
        for label in CLASSES:
            for number in range(each):
                folder = root / split / ("" if split == "test" else label)
                folder.mkdir(parents=True, exist_ok=True)
                name = f"img{int(label) + 1}.jpg" if split == "test" else f"{number}.jpg"
                cv2.imwrite(str(folder / name), stripes(int(label), draws))
    return root


def stripes(label, draws):
    "uint8 [56, 64, 3]"
    across, down = np.meshgrid(np.arange(64), np.arange(56))
    wave = np.sin((down if label % 2 else across) / (1.5 + label // 6 * 2) + draws.uniform(0, 6))
    colour = np.array([[255, 60, 60], [60, 255, 60], [60, 60, 255], [255, 255, 60], [60, 255, 255], [255, 60, 255]])
    pixels = (wave[..., None] * 0.5 + 0.5) * colour[label // 2 % 6] + draws.normal(0, 10, (56, 64, 3))
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def trained(photos, tmp_path_factory):
    "(run, what the command printed) of hw1 on those photos."
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command(
        "recipes.hw1", "--data", photos, "--out", out, "--epochs", 6, "--lr", "0.01", "--loss", "focal", *SMALL
    )
    assert done.returncode == 0, done.stderr
    return runs.load(out), done


def digits(*arguments):
    "What the recipe of the digits prints, in a process that imports all of its libraries: they say nothing."
    words = [sys.executable, "-m", "recipes.digits", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_every_recipe_on_disk_runs_through_its_command(trained, few_digits, tmp_path):
    short = digits("--data", few_digits, "--out", tmp_path / "run", "--epochs", 1)
    commands = {"hw1": trained[1], "digits": short}
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.py")} - {"__init__"}
    elsewhere = {"loss_study", "rapid"}  # test_loss_study.py, test_rapid.py
    assert recipes - elsewhere == set(commands)
    for done in commands.values():
        last = [line.split() for line in done.stdout.splitlines()[-4:]]
        assert [words[0] for words in last] == ["report", "curves", "model", "predictions"]
        assert all(Path(words[1]).is_file() for words in last)
        assert done.stderr == "bs auto: 8\n"


@pytest.mark.long
def test_digits_reach_the_accuracy_they_promise(tmp_path):
    "At least 97 % in validation, and 96 % on the test folder by labels that training never saw."
    digits("--data", tmp_path / "digits", "--out", tmp_path / "run")
    assert runs.load(tmp_path / "run").read_json("metrics.json")["accuracy"] >= 0.97
    labels = {row["image_name"]: row["label"] for row in rows(tmp_path / "digits/test_labels.csv")}
    found = {row["image_name"]: row["pred_label"] for row in rows(tmp_path / "run/predictions.csv")}
    assert found.keys() == labels.keys()
    assert accuracy_score([labels[name] for name in labels], [found[name] for name in labels]) >= 0.96


def test_the_test_photos_are_on_the_page_the_least_certain_first(trained, photos):
    run, _ = trained
    paths = sorted((photos / "test").glob("*.jpg"), key=lambda path: int(path.stem[3:]))
    labels, probabilities = Classifier(run.path("model.onnx"), "cpu")(paths)
    order = np.argsort([row.max() for row in probabilities], kind="stable")
    found = rows(run.path("least_certain.csv"))
    assert [row["file"] for row in found] == [f"test/{paths[i].name}" for i in order]
    assert [row["prediction"] for row in found] == [labels[i] for i in order]
    expected = [probabilities[i].max() for i in order]
    np.testing.assert_allclose([float(row["confidence"]) for row in found], expected, atol=2e-6)
    page = run.path("report.html").read_text()
    section = page[page.index('<h2 id="test">') :].partition("</section>")[0]
    assert re.findall(r'class="file" title="(.*?)"', section) == [row["file"] for row in found]
    assert section.count("<img src=") == len(found) == 12


def test_the_run_folder_holds_what_the_contract_says(trained, photos):
    run, done = trained
    assert sorted(path.name for path in run.folder.iterdir()) == sorted(
        "recipe.json history.csv best.safetensors last.pt metrics.json valid_predictions.csv heatmaps.json "
        "per_class.csv confusion.csv report.html curves.png confusion.png model.onnx predictions.csv least_certain.csv "
        ".predictions.csv.asked .lock".split()
    )
    assert run.recipe["classes"] == sorted(CLASSES)
    assert run.recipe["options"]["loss"] == "focal"
    assert run.recipe["options"]["device"] == "cpu"
    assert run.recipe["preprocess"]["resize"] == 37
    assert run.recipe["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert run.recipe["data"]["counts"] == dict.fromkeys(sorted(CLASSES), 10)
    history = run.path("history.csv").read_text().splitlines()
    assert history[0] == "epoch,train_loss,valid_loss,accuracy,lr,seconds"
    assert [line.split(",")[0] for line in history[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert done.stdout.count("epoch ") == 6 + 1  # a plain line each, and the best one in the end
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout


def test_metrics_are_those_of_the_best_epoch_and_of_valid_predictions(trained, photos):
    run, _ = trained
    metrics, history, said = (
        run.read_json("metrics.json"),
        rows(run.path("history.csv")),
        rows(run.path("valid_predictions.csv")),
    )
    best = max(history, key=lambda row: float(row["accuracy"]))
    assert metrics["best_epoch"] == int(best["epoch"])
    assert metrics["accuracy"] == pytest.approx(float(best["accuracy"]))
    labels, predicted = ([row[name] for row in said] for name in ("label", "prediction"))
    assert metrics["accuracy"] == accuracy_score(labels, predicted)
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert [row["file"] for row in said] == [f"val/{label}/{n}.jpg" for label in CLASSES for n in range(4)]
    assert [row["label"] for row in said] == [label for label in CLASSES for _ in range(4)]


def test_the_model_learned_and_predictions_carry_folder_names_in_natural_order(trained):
    run, _ = trained
    found = rows(run.path("predictions.csv"))
    assert [row["image_name"] for row in found] == [f"img{number}" for number in range(1, 13)]
    right = sum(row["pred_label"] == label for row, label in zip(found, CLASSES, strict=True))
    assert right >= 8, found  # by class index instead of name, "10" for "2" and so on, at most 4 would be


def test_the_rebuilt_learner_is_the_trained_one(trained, photos):
    run, _ = trained
    learn = run.learner("cpu")
    state = load_file(run.path("best.safetensors"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in learn.model.state_dict().items())
    with learn.no_bar():
        probabilities, _ = learn.get_preds()
        label, index, each = learn.predict(photos / "val/7/0.jpg")
    said = rows(run.path("valid_predictions.csv"))
    assert [learn.dls.vocab[index] for index in probabilities.argmax(1)] == [row["prediction"] for row in said]
    assert [f"{sure:.6f}" for sure in probabilities.max(1).values] == [row["confidence"] for row in said]
    assert label == learn.dls.vocab[index] == learn.dls.vocab[each.argmax()]


def test_a_run_is_rebuilt_without_its_photos_to_predict(trained, photos, tmp_path):
    run, _ = trained
    shutil.copytree(run.folder, tmp_path / "run")
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    recipe["data"]["path"] = str(tmp_path / "gone")
    files.write_json(tmp_path / "run/recipe.json", recipe)
    with pytest.warns(UserWarning, match="this learner predicts, but has none to train on"):
        learn = runs.load(tmp_path / "run").learner("cpu")
    with learn.no_bar():
        assert learn.predict(photos / "val/7/0.jpg")[0] == run.learner("cpu").predict(photos / "val/7/0.jpg")[0]


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_one_model_file_takes_any_batch(trained, photos, batch):
    run, _ = trained
    classifier, learn = Classifier(run.path("model.onnx"), "cpu"), run.learner("cpu")
    images = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    logits, probabilities = classifier.session.run(["logits", "probabilities"], {"image": images})
    mean, std = (np.array(run.recipe["preprocess"][name]) for name in ("mean", "std"))
    pixels = torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        expected = learn.model.eval()(pixels)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-3, atol=1e-3)
    temperature = json.loads(classifier.session.get_modelmeta().custom_metadata_map["calibration"])["temperature"]
    scaled = (expected / temperature).softmax(1)
    np.testing.assert_allclose(probabilities, scaled.numpy(), rtol=1e-3, atol=1e-4)


def test_ten_lines_of_pillow_reproduce_predictions_from_the_file_alone(trained, photos):
    run, _ = trained
    found = rows(run.path("predictions.csv"))
    answers = classify(run.path("model.onnx"), [photos / "test" / f"{row['image_name']}.jpg" for row in found])
    assert np.mean([name == row["pred_label"] for (name, _), row in zip(answers, found, strict=True)]) >= 0.99


@pytest.mark.long
def test_a_run_taken_up_after_an_epoch_ends_as_one_never_interrupted(trained, photos, tmp_path, capfd):
    "Begun by the command, ended in another process: the same history and the same weights, to the bit."
    whole, _ = trained
    out = tmp_path / "run"
    again = ["--data", photos, "--out", out, "--lr", "0.01", "--loss", "focal", *SMALL]
    assert command("recipes.hw1", *again, "--epochs", 2, "--workers", 2).returncode == 0
    assert here(*again, "--epochs", 6, "--workers", 0, "--resume") == 0
    assert "going on after 2 of 6 epochs" in capfd.readouterr().out
    for one, other in zip(rows(whole.path("history.csv")), rows(out / "history.csv"), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    ours, theirs = load_file(out / "best.safetensors"), load_file(whole.path("best.safetensors"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_is_not_taken_up_by_another_method(trained, photos, capfd):
    run, _ = trained
    before = run.path("last.pt").read_bytes()
    assert here("--data", photos, "--out", run.folder, "--resume", "--lr", "0.01", "--loss", "ce", *SMALL) == 2
    assert "begun with --loss focal, now it is ce" in capfd.readouterr().err
    assert run.path("last.pt").read_bytes() == before


def test_a_finished_run_taken_up_again_says_so_and_keeps_its_results(trained, photos, capfd):
    run, _ = trained
    before = run.read_json("metrics.json")
    again = ["--data", photos, "--out", run.folder, "--lr", "0.01", "--loss", "focal", *SMALL]
    assert here(*again, "--epochs", 6, "--resume") == 0
    assert "all 6 epochs are done" in capfd.readouterr().out
    assert run.read_json("metrics.json") | {"peak_memory_bytes": 0} == before | {"peak_memory_bytes": 0}


def faulty(photos, tmp_path):
    "Arguments of a command that must be refused, and what it must say."
    bad = tmp_path / "bad"
    shutil.copytree(photos, bad)
    (bad / "train/3/0.jpg").write_bytes((bad / "train/3/0.jpg").read_bytes()[:300])
    unknown = tmp_path / "unknown"
    shutil.copytree(photos, unknown)
    shutil.copytree(unknown / "val/1", unknown / "val/zebra")
    (tmp_path / "empty").mkdir()
    (tmp_path / "w.pth").write_bytes(b"not weights")
    (tmp_path / "held").mkdir()
    (tmp_path / "held/recipe.json").write_text("{}")
    return {
        "missing folder": (["--data", tmp_path / "nowhere"], "nowhere does not exist: give a folder"),
        "no images": (["--data", tmp_path / "empty"], "no photos in class folders below"),
        "class that train lacks": (["--data", unknown], "class zebra is in the validation set"),
        "unreadable photo": (["--data", bad], "train/3/0.jpg: not a readable photo"),
        "wrong arch": (["--data", photos, "--arch", "resnet15"], "no model 'resnet15'; nearest: resnet152"),
        "wrong loss": (["--data", photos, "--loss", "focl"], "invalid choice: 'focl'"),
        "wrong weights": (["--data", photos, "--weights", tmp_path / "w.pth"], "w.pth holds no weights"),
        "missing weights": (["--data", photos, "--weights", tmp_path / "v.pth"], "v.pth: no such file"),
        "out in use": (["--data", photos, "--out", tmp_path / "held"], "already holds a run"),
        "device that is not there": (["--data", photos, "--device", "cuda"], "sees 0 CUDA devices; choose cpu or auto"),
        "unknown flag": (["--data", photos, "--epoch", "3"], "the nearest is --epochs"),
        "no epochs": (["--data", photos, "--epochs", "0"], "--epochs 0: give 1 or more"),
        "no batch": (["--data", photos, "--bs", "0"], "--bs 0: give 1 or more"),
        "not a number": (["--data", photos, "--lr", "fast"], "invalid float or auto value: 'fast'"),
    }


FAULTS = [
    *("missing folder", "no images", "class that train lacks", "unreadable photo", "wrong arch", "wrong loss"),
    *("wrong weights", "missing weights", "out in use", "device that is not there", "unknown flag", "no epochs"),
    *("no batch", "not a number"),
]
IN_A_PROCESS_OF_ITS_OWN = ["unreadable photo"]  # as users run it; what all commands do of errors is in test_command.py


@pytest.mark.parametrize("fault", FAULTS)
def test_a_users_error_exits_2_with_a_line_or_two_and_no_traceback(fault, photos, tmp_path, capfd):
    if fault == "device that is not there" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    faults = faulty(photos, tmp_path)
    assert list(faults) == FAULTS
    arguments, message = faults[fault]
    small = list(SMALL)
    for flag in ("--arch", "--weights", "--bs", "--device"):
        if flag in arguments:
            del small[small.index(flag) : small.index(flag) + 2]
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    given = [*small, "--epochs", 1, *out, *arguments]
    if fault in IN_A_PROCESS_OF_ITS_OWN:
        done = command("recipes.hw1", *given)
        status, stderr = done.returncode, done.stderr
    else:
        status, stderr = here(*given), capfd.readouterr().err
    assert status == 2, stderr
    assert message in stderr
    assert len(stderr.strip().splitlines()) <= 2
    assert "Traceback" not in stderr


@pytest.mark.long
def test_hw1s_defaults_build_resnet152_at_224_and_take_optimiser_steps(photos, tmp_path):
    "On a handful of photos, so that its batch of 128 fits here; no network, so no ImageNet weights."
    few = tmp_path / "few"
    for name in ("train/1/0.jpg", "train/1/1.jpg", "train/2/0.jpg", "val/1/0.jpg", "val/2/0.jpg"):
        (few / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, few / name)
    learn = hw1.learner(few, weights="none", device="cpu")
    assert sum(weight.numel() for weight in learn.model.parameters()) == 60_192_808 - 1000 * 2049 + 2 * 2049
    assert learn.model.drop_rate == 0.5
    assert learn.dls.valid.one_batch()[0].shape == (2, 3, 224, 224)
    assert (learn.dls.train.bs, learn.accumulate.n, learn.lr) == (128, 2, 1e-3)
    assert (learn.plateau.factor, learn.plateau.patience) == (0.2, 3)
    before = learn.model.layer3[20].conv2.weight.detach().clone()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert type(learn.opt.opt) is torch.optim.AdamW
    assert not torch.equal(learn.model.layer3[20].conv2.weight, before)


@pytest.fixture(scope="module")
def groceries(grocery, tmp_path_factory):
    "A CSV of 20 photos a class to train on, and all of the validation set."
    chosen = [("path", "label", "split")]
    for split, count in (("train", 20), ("val", None)):
        for place in sorted((grocery / split).iterdir()):
            chosen += [(photo, place.name, split) for photo in sorted(place.iterdir())[:count]]
    path = tmp_path_factory.mktemp("groceries") / "groceries.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(chosen)
    return path


SLOW = pytest.mark.slow


@pytest.mark.long
@pytest.mark.parametrize("loss", ["ce", pytest.param("focal", marks=SLOW), pytest.param("smoothing", marks=SLOW)])
def test_hw1_learns_real_photos_from_real_weights(groceries, mobilenet_weights, loss):
    "Two epochs at 64 pixels over 20 classes: far above the 5 % of chance, and the training loss falls."
    settings = {"arch": "mobilenetv2_100", "weights": str(mobilenet_weights), "lr": 5e-4, "bs": 16, "image_size": 64}
    learn = hw1.learner(groceries, loss, **settings, workers=0, device="cpu")
    with learn.no_bar(), learn.no_logging():
        learn.fit(2)
    (first, *_), (last, _, accuracy, *_) = learn.recorder.values
    assert last < first
    assert accuracy > 0.25
