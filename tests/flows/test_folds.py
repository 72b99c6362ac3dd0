"""--folds through the recipes' command: each photo predicted once by a model that has not seen it, kills, refusals."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import forked
import numpy as np
import onnxruntime
import pytest
import torch
from here import here
from noise import write_noise
from safetensors.torch import load_file
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from export.predict import predict
from export.reading.prepare import prepared
from recipes import hw1, rapid
from toolkit import report
from toolkit.command import run as run_command
from toolkit.data.dataset import find_data
from toolkit.options import Options
from toolkit.run import load
from toolkit.training import fold_plan, folds

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--arch test_resnet --weights none --image_size 32 --bs 16 --device cpu --precision fp32 --workers 0".split()
K = 2
COPIES = {"train/c0/1.png": "train/c0/copy1.png", "train/c1/3.png": "train/c1/copy3.png"}
TIMES = {"seconds", "images_per_second", "peak_memory_bytes", "seconds_data_wait", "seconds_compute"} | {
    "seconds_validation"
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Photos of noise: 48 to train and two copies of some, 9 to validate, 3 to predict."
    root = write_noise(tmp_path_factory.mktemp("data"), valid=3)
    (root / "test").mkdir()
    for label in range(3):
        cv2.imwrite(str(root / f"test/{label}.png"), np.full((40, 40, 3), 80 * label, np.uint8))
    for original, copy in COPIES.items():
        shutil.copy(root / original, root / copy)
    return root


def words(photos, out, *more):
    return [str(word) for word in ("--data", photos, "--out", out, "--folds", K, "--epochs", 2, *SMALL, *more)]


def on_one_thread(*arguments, recipe=hw1):
    "The exit status of the command in this process."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: the bits depend on it
    try:
        return here(*arguments, recipe=recipe)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    "The folder of a command that was never interrupted."
    out = tmp_path_factory.mktemp("whole") / "run"
    assert on_one_thread(*words(photos, out)) == 0
    return out


@pytest.fixture
def exported(whole, monkeypatch):
    "A run's model.onnx is that of `whole`: the same bytes, without ten seconds of export, which other tests do."

    def copy(folder, device, details):
        source = whole / folder.name / "model.onnx"
        shutil.copy(source if source.is_file() else whole / "fold-1/model.onnx", folder / "model.onnx")

    monkeypatch.setattr("export.to_onnx.to_onnx", copy)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plain(figures):
    "Figures without times and memory."
    if isinstance(figures, dict):
        return {name: plain(value) for name, value in figures.items() if name not in TIMES}
    return [plain(value) for value in figures] if isinstance(figures, list) else figures


def assert_same_folder(out, whole):
    "The weights of each fold, all predictions and figures, to the bit."
    for name in ("folds.csv", "out_of_fold_predictions.csv", "out_of_fold_probabilities.npy", "predictions.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert plain(json.loads((out / "metrics.json").read_text())) == plain(
        json.loads((whole / "metrics.json").read_text())
    )
    for fold in range(1, K + 1):
        ours, theirs = (load_file(one / f"fold-{fold}/best.safetensors") for one in (out, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# What comes out


def test_each_training_photo_is_predicted_once_by_the_model_that_has_not_seen_it(whole, photos):
    data, found = find_data(photos), rows(whole / "out_of_fold_predictions.csv")
    assert [row["file"] for row in found] == [data.relative(photo) for photo in data.train]
    assert [row["label"] for row in found] == list(data.train.values())
    fold_of = {row["file"]: row["fold"] for row in rows(whole / "folds.csv")}
    probabilities = np.load(whole / "out_of_fold_probabilities.npy")
    for fold in range(1, K + 1):
        run = load(whole / f"fold-{fold}")
        mine = [row["file"] for row in found if fold_of[row["file"]] == str(fold)]
        assert run.recipe["data"]["held_out"] == mine
        assert not set(mine) & {data.relative(photo) for photo in run.dataset().train}
        assert run.recipe["data"]["train"] == len(found) - len(mine)
        assert (run.recipe["options"]["folds"], run.recipe["options"]["fold"]) == (K, fold)
        assert [path.name for path in run.folder.glob("*.onnx")] == ["model.onnx"]
        pixels = torch.from_numpy(np.stack([prepared(photos / name, run.recipe["preprocess"]) for name in mine]))
        mean, std = (torch.tensor(run.recipe["preprocess"][name]).view(3, 1, 1) for name in ("mean", "std"))
        with torch.no_grad():
            expected = run.model()((pixels.permute(0, 3, 1, 2) / 255 - mean) / std).softmax(1).numpy()
        own = [number for number, row in enumerate(found) if fold_of[row["file"]] == str(fold)]
        np.testing.assert_allclose(probabilities[own], expected, atol=1e-5)
    said = [(row["prediction"], row["confidence"]) for row in found]
    assert said == [(data.classes[one.argmax()], f"{one.max():.6f}") for one in probabilities]


def test_copies_are_never_in_two_folds_and_folds_and_classes_are_even(whole):
    found = rows(whole / "folds.csv")
    fold_of, group_of = ({row["file"]: row[name] for row in found} for name in ("fold", "group"))
    for original, copy in COPIES.items():
        assert fold_of[original] == fold_of[copy]
        assert group_of[original] == group_of[copy]
    assert len(set(group_of.values())) == len(found) - len(COPIES)
    for label in ("c0", "c1", "c2"):
        counts = [sum(row["label"] == label and row["fold"] == str(fold) for row in found) for fold in range(1, K + 1)]
        assert max(counts) - min(counts) <= 2, counts


def test_the_figures_are_those_of_the_predictions_and_stand_on_the_page(whole):
    figures, found = json.loads((whole / "metrics.json").read_text()), rows(whole / "out_of_fold_predictions.csv")
    labels, predicted = ([row[name] for row in found] for name in ("label", "prediction"))
    assert figures["accuracy"] == accuracy_score(labels, predicted)
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    right = sum(a == b for a, b in zip(labels, predicted, strict=True))
    assert figures["accuracy_interval"] == pytest.approx(list(binomtest(right, 50).proportion_ci(method="wilson")))
    assert [each["images"] for each in figures["each"]] == [
        sum(row["fold"] == str(fold) for row in rows(whole / "folds.csv")) for fold in range(1, K + 1)
    ]
    assert sum(each["accuracy"] * each["images"] for each in figures["each"]) == pytest.approx(right)
    page = (whole / "report.html").read_text()
    assert f"{100 * right / 50:.1f}" in page
    assert f"--folds {K}" in page
    assert "the average of the 2 models" in page
    assert page.count("<figure") == min(24, 50 - right)


def test_model_onnx_is_the_mean_of_the_folds_files_and_labels_the_test_photos(whole, photos):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)

    def probabilities(path):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"image": images})[0]

    expected = np.mean([probabilities(whole / f"fold-{fold}/model.onnx") for fold in range(1, K + 1)], axis=0)
    np.testing.assert_allclose(probabilities(whole / "model.onnx"), expected, atol=1e-6)
    assert [row["image_name"] for row in rows(whole / "predictions.csv")] == ["0", "1", "2"]


def test_the_folder_is_no_run_and_says_which_folders_are(whole, capsys):
    with pytest.raises(ValueError, match=r"run is of --folds, and each fold is a run: give .*/fold-1 \.\.\."):
        load(whole)
    before = (whole / "report.html").read_bytes()
    (whole / "report.html").unlink()
    assert run_command(report.main, [str(whole)]) == 0
    assert (whole / "report.html").read_bytes() == before


# Kills and --resume


def start(photos, out, *more):
    "The command in a process of its own, which a test may kill."
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recipes.hw1", *words(photos, out, *more)]
    return forked.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


@pytest.mark.long
def test_one_fold_alone_then_a_kill_then_a_resume_end_as_if_never_interrupted(whole, photos, exported, tmp_path, capfd):
    "Fold 2 is trained first and alone: with the same bits, so the folds share no state. The kill comes in fold 1."
    out = tmp_path / "run"
    assert on_one_thread(*words(photos, out, "--fold", 2)) == 0
    assert "folds 1 of 2 are left; the same command without --fold, " in capfd.readouterr().out
    process = start(photos, out, "--resume")
    next(line for line in process.stdout if line.startswith("epoch 1/2"))
    process.kill()
    process.wait()
    assert not (out / "model.onnx").exists()
    last = (out / "fold-2/last.pt").stat().st_mtime_ns
    assert on_one_thread(*words(photos, out, "--resume")) == 0
    assert (out / "fold-2/last.pt").stat().st_mtime_ns == last  # a fold that is done is not trained again
    assert_same_folder(out, whole)


MOMENTS = [
    *("folds.csv", "fold-1/held_out.csv", "fold-1/recipe.json", "fold-1/last.pt", "fold-1/metrics.json"),
    *("fold-1/model.onnx", "fold-1/out_of_fold_predictions.csv", "fold-1/out_of_fold.json", "fold-2/held_out.csv"),
    *("fold-2/out_of_fold.json", "out_of_fold_predictions.csv", "metrics.json", "model.onnx", "report.html"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "more"),
    [(file, ()) for file in MOMENTS] + [(f"refit/{name}", ("--refit",)) for name in ("last.pt", "model.onnx")],
)
def test_killed_as_soon_as_any_file_is_there_it_resumes_to_the_same_files(photos, whole, tmp_path, file, more):
    out = tmp_path / "run"
    process = start(photos, out, *more)
    while not (out / file).exists():
        assert process.poll() is None, process.returncode
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert on_one_thread(*words(photos, out, "--resume", *more)) == 0
    if more:
        assert load(out / "refit").metrics["epochs"] == 2
        assert on_one_thread(*words(photos, out, "--resume", "--no-refit")) == 0
    assert_same_folder(out, whole)


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def test_a_refit_on_all_photos_takes_the_averages_place(photos, copied, exported, capfd):
    assert on_one_thread(*words(photos, copied, "--resume", "--refit")) == 0
    printed = capfd.readouterr().out
    assert "model.onnx is the refit on all photos: " in printed
    refit = load(copied / "refit")
    assert refit.recipe["data"]["train"] == 50
    assert {name: refit.recipe["options"][name] for name in ("folds", "fold", "refit")} == {
        "folds": None,
        "fold": None,
        "refit": False,
    }
    assert (copied / "model.onnx").read_bytes() == refit.path("model.onnx").read_bytes()
    assert json.loads((copied / "metrics.json").read_text())["model"] == "refit"
    assert "--refit" in (copied / "report.html").read_text()
    predict(refit.path("model.onnx"), photos / "test", copied / "again.csv", "cpu")
    assert (copied / "again.csv").read_bytes() == (copied / "predictions.csv").read_bytes()


def test_interrupted_in_a_fold_it_says_how_all_of_them_go_on(photos, tmp_path, capfd, monkeypatch):
    def interrupted(learn, run):
        raise KeyboardInterrupt

    monkeypatch.setattr("toolkit.training.fit.fit", interrupted)
    assert here(*words(photos, tmp_path / "run")) == 130
    expected = (
        f"interrupted in fold 1 of 2; the same command with --out {tmp_path / 'run'} --resume goes on from there\n"
    )
    assert capfd.readouterr().err == expected


@pytest.mark.slow
def test_more_epochs_continue_every_fold(photos, copied, capfd):
    assert on_one_thread(*words(photos, copied, "--resume", "--epochs", 3)) == 0
    assert [len(rows(copied / f"fold-{fold}/history.csv")) for fold in range(1, K + 1)] == [3] * K
    assert [each["epochs"] for each in json.loads((copied / "metrics.json").read_text())["each"]] == [3] * K


def test_a_fold_resumed_by_its_own_folder_keeps_its_photos_out(photos, copied, exported, capfd):
    (copied / "fold-2/out_of_fold.json").unlink()
    before = (copied / "fold-2/out_of_fold_predictions.csv").read_bytes()
    alone = ["--data", photos, "--out", copied / "fold-2", "--epochs", 2, *SMALL, "--resume"]
    assert on_one_thread(*alone) == 0
    assert "all 2 epochs are done" in capfd.readouterr().out
    assert (copied / "fold-2/out_of_fold_predictions.csv").read_bytes() == before
    assert (copied / "fold-2/out_of_fold.json").is_file()


# Refusals


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--folds", 1], "--folds 1: give 2 or more parts of the training photos, at most 1,000"),
        (["--folds", 3, "--fold", 0], "--fold 0: give the number of a fold, from 1 to --folds, at most 1,000"),
        (["--folds", 3, "--fold", 4], "--fold 4 of --folds 3: give a number from 1 to 3"),
        (["--fold", 1], "--fold without --folds: say how many folds there are, as in --folds 5"),
        (["--refit"], "--refit without --folds: say how many folds there are, as in --folds 5"),
        (["--folds", 3, "--fold", 1, "--refit"], "--fold 1 trains one fold alone, --refit comes after all: leave one "),
        (["--folds", 3, "--arch", "resnet15"], "timm "),
        (
            ["--folds", 3, "--arch", "auto"],
            "--folds 3 --arch auto: each fold might choose another network; run --arch auto",
        ),
        (["--folds", 3, "--class_weights", "balanced", "--sampler", "balanced"], "--class_weights balanced with "),
    ],
)
def test_what_can_not_be_is_refused_in_two_lines_and_leaves_nothing(photos, tmp_path, capfd, given, told):
    out = tmp_path / "run"
    assert here("--data", photos, "--out", out, "--epochs", 1, *SMALL, *given) == 2
    refused = capfd.readouterr().err
    assert refused.startswith(f"error: {told}")
    assert len(refused.splitlines()) <= 2
    assert not out.exists()


@pytest.mark.long
def test_a_command_that_goes_on_with_folds_need_not_name_them_nor_the_epochs(copied, exported, capfd, monkeypatch):
    shutil.rmtree(copied / "fold-2")
    (copied / "metrics.json").unlink()
    assert on_one_thread("--out", copied, "--resume", "--epochs", 3, "--fold", 1) == 0, capfd.readouterr().err
    assert on_one_thread("--out", copied, "--resume") == 0, capfd.readouterr().err
    assert [len(rows(copied / f"fold-{fold}/history.csv")) for fold in (1, 2)] == [3, 3]
    assert (copied / "metrics.json").is_file()


def test_a_fold_alone_leaves_the_refit_of_the_others_command_recorded(photos, copied, capfd):
    about = json.loads((copied / "folds.json").read_text())
    about["options"]["refit"] = True
    (copied / "folds.json").write_text(json.dumps(about))
    assert on_one_thread("--out", copied, "--resume", "--fold", 1) == 0, capfd.readouterr().err
    assert json.loads((copied / "folds.json").read_text())["options"]["refit"] is True


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda given, out: [*given, "--folds", 4],
            "it was begun with --folds 2, now it is 4; resume",
        ),
        (lambda given, out: [*given, "--folds", 2, "--lr", "0.5"], "it was begun with --lr 0.001, now it is 0.5"),
        (
            lambda given, out: [out / "fold-1" if word == out else word for word in (*given, "--loss", "focal")],
            "it was begun with --loss ce, now it is focal",
        ),
    ],
)
def test_a_folder_of_folds_is_not_resumed_by_another_method(photos, copied, capfd, change, told):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.suffix in (".pt", ".json", ".csv", ".onnx")}
    given = ["--data", photos, "--out", copied, "--epochs", 2, *SMALL, "--resume"]
    assert here(*change(given, copied)) == 2
    assert told in capfd.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_other_photos_and_other_kinds_of_folders_are_refused(whole, photos, tmp_path, capfd):
    more = shutil.copytree(photos, tmp_path / "more")
    shutil.copy(more / "train/c0/0.png", more / "train/c0/new.png")
    copied = shutil.copytree(whole, tmp_path / "copied")
    assert here(*words(more, copied, "--resume")) == 2
    assert f"--resume {copied}: the photos are not those it was begun with" in capfd.readouterr().err
    gone = rows(copied / "fold-1/held_out.csv")[0]["file"]
    (more / gone).unlink()
    (more / "train/c0/new.png").unlink()
    assert here("--data", more, "--out", copied / "fold-1", "--epochs", 2, *SMALL, "--resume") == 2
    assert f"{gone} of {copied / 'fold-1/held_out.csv'}: not among the photos to train on" in capfd.readouterr().err
    assert here(*words(photos, whole)) == 2
    assert "already holds a run" in capfd.readouterr().err
    assert here(*words(photos, whole / "fold-1", "--resume", "--fold", 2)) == 2
    assert "it was begun with --fold 1, now it is 2" in capfd.readouterr().err
    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    shutil.copy(whole / "fold-1/recipe.json", ordinary)
    assert here(*words(photos, ordinary, "--resume")) == 2
    assert f"--out {ordinary} was begun without --folds 2: leave it out" in capfd.readouterr().err
    (ordinary / "recipe.json").rename(ordinary / "held_out.csv")
    assert here(*words(photos, ordinary, "--resume")) == 2
    assert f"is a fold whose training has not begun: give --out {tmp_path}" in capfd.readouterr().err


def test_a_page_made_before_the_model_says_so(copied):
    figures = json.loads((copied / "metrics.json").read_text())
    (copied / "metrics.json").write_text(json.dumps({name: figures[name] for name in figures if name != "model"}))
    assert run_command(report.main, [str(copied)]) == 0
    assert "model.onnx is not there yet" in (copied / "report.html").read_text()


def test_a_fold_that_another_process_trains_is_left_alone(photos, copied, capfd):
    (copied / "fold-1/out_of_fold.json").unlink()
    code = f"from toolkit.run import lock; from pathlib import Path; held = lock(Path({str(copied / 'fold-1')!r})); "
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print('held', flush=True); input()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert here(*words(photos, copied, "--resume", "--fold", 1)) == 2
    finally:
        holder.communicate("\n")
    assert f"{copied / 'fold-1'} is in use by a run that has not ended" in capfd.readouterr().err
    assert (copied / "fold-1/held_out.csv").is_file()


def test_the_page_of_folds_that_are_not_done_is_refused(tmp_path, capfd):
    (tmp_path / "folds.json").write_text("{}")
    assert run_command(report.main, [str(tmp_path)]) == 2
    assert f"{tmp_path} has no page yet, because not all folds are done" in capfd.readouterr().err


def test_a_fold_whose_predictions_are_of_other_photos_is_not_put_together(photos, copied, capfd):
    table = copied / "fold-2/out_of_fold_predictions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    assert here(*words(photos, copied, "--resume")) == 2
    assert f"{table} is not of the photos of fold 2: remove {copied / 'fold-2'}, and resume" in capfd.readouterr().err


def test_the_only_photo_of_a_class_and_its_copy_are_trained_on_in_every_fold_and_told(photos, tmp_path, capsys):
    few = Path(shutil.copytree(photos, tmp_path / "few"))
    for path in (few / "train/c2").iterdir():
        if path.name != "0.png":
            path.unlink()
    shutil.copy(few / "train/c2/0.png", few / "train/c2/copy.png")
    options = Options(few, arch="test_resnet", weights="none", image_size=32, folds=2, out=tmp_path / "run")
    fold_plan.plan(hw1.learner.recipe, options, {}, find_data(few))
    assert {row["file"]: row["fold"] for row in rows(tmp_path / "run/folds.csv") if row["label"] == "c2"} == {
        "train/c2/0.png": "0",
        "train/c2/copy.png": "0",
    }
    assert "2 of them are in no fold, of c2: a fold with all different photos of a class" in capsys.readouterr().out


def test_with_pretrained_weights_photos_encoded_again_stay_in_one_fold(grocery, mobilenet_weights, tmp_path, capsys):
    root, again = tmp_path / "few", {}
    for split, count in (("train", 12), ("val", 1)):
        for folder in sorted((grocery / split).iterdir())[:3]:
            (root / split / folder.name).mkdir(parents=True)
            for number, photo in enumerate(sorted(folder.iterdir())[:count]):
                shutil.copy(photo, root / split / folder.name)
                if split == "train" and number % 4 == 0:
                    copy = root / split / folder.name / f"copy{number}.jpg"
                    cv2.imwrite(str(copy), cv2.imread(str(photo)), [cv2.IMWRITE_JPEG_QUALITY, 60])
                    again[f"{split}/{folder.name}/{photo.name}"] = f"{split}/{folder.name}/{copy.name}"
    given = {"arch": "mobilenetv2_100", "weights": str(mobilenet_weights), "image_size": 96, "workers": 0}
    options = Options(root, **given, device="cpu", folds=3, out=tmp_path / "run")
    fold_plan.plan(hw1.learner.recipe, options, {}, find_data(root))
    fold_of = {row["file"]: row["fold"] for row in rows(tmp_path / "run/folds.csv")}
    assert len(again) == 9
    assert all(fold_of[photo] == fold_of[copy] for photo, copy in again.items())
    assert "near-duplicates, found by the features of mobilenetv2_100, are kept" in capsys.readouterr().out


def test_more_folds_than_different_photos_are_refused(photos, tmp_path):
    options = Options(photos, arch="test_resnet", weights="none", image_size=32, folds=49, out=tmp_path / "run")
    with pytest.raises(ValueError, match="49 folds of 48 groups of photos: it takes 2 or more, and as many groups"):
        fold_plan.plan(hw1.learner.recipe, options, {}, find_data(photos))
    assert not (tmp_path / "run").exists()


def test_an_average_that_no_onnx_file_holds_is_refused_before_training(photos, tmp_path):
    options = Options(photos, arch="resnet18", weights="none", image_size=32, folds=60, out=tmp_path / "run")
    message = "--folds 60: the average of the models has 2.7 GB, and an ONNX file holds 2.1 GB; give --refit, fewer "
    with pytest.raises(ValueError, match=message):
        fold_plan.plan(hw1.learner.recipe, options, {}, find_data(photos))


def test_a_recipe_that_opens_its_data_in_its_own_way_is_refused(photos, tmp_path):
    from recipes import pipeline, recipe

    @recipe(arch="test_resnet")
    def learner(options: Options):
        return hw1.learner(photos, arch="test_resnet", weights="none", image_size=32, workers=0, device="cpu")

    with pytest.raises(ValueError, match=r"--folds 3: recipe \w+ does not open its data by open_dataset\(options\)"):
        pipeline(learner)(photos, folds=3, out=tmp_path / "run")


def test_a_learner_is_one_model(photos):
    with pytest.raises(ValueError, match="folds=3 are as many models, and a Learner is one: give them to the command"):
        hw1.learner(photos, folds=3)
    with pytest.raises(FileNotFoundError, match="held_out.csv: no such file; it says what --fold 1 holds out"):
        hw1.learner(photos, folds=3, fold=1, weights="none")


def test_several_processes_are_told_to_train_a_fold_each(photos, monkeypatch):
    monkeypatch.setattr("toolkit.ranks.count", lambda: 2)
    with pytest.raises(ValueError, match="--folds 3 on 2 processes: one process trains a fold; on several GPUs start"):
        fold_plan.dataset_of(hw1.learner.recipe, Options(photos, folds=3), {})


def test_minutes_are_for_all_models_together(capsys):
    _, own = rapid.learner.recipe.bound((), {"minutes": 6.0})
    assert folds.shared_budget(Options(folds=3), own)["minutes"] == 2
    assert folds.shared_budget(Options(folds=3, refit=True), own)["minutes"] == 1.5
    assert capsys.readouterr().out.splitlines()[1] == "--minutes 6 for 4 models: 1.5 each"
    assert folds.shared_budget(Options(folds=3), own | {"minutes": None})["minutes"] is None
