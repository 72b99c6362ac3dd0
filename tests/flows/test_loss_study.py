"""The study's command: what it writes, how it goes on, what it refuses."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from noise import write_noise

from recipes import hw1, loss_study
from toolkit import command
from toolkit.commandline.parsing import parsed
from toolkit.files import write_json

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--arch test_resnet --weights none --image_size 32 --bs 8 --device cpu --precision fp32 --lr 0.01".split()


def words(photos, out, *arguments):
    return [str(word) for word in ("--data", photos, "--out", out, *SMALL, "--epochs", 2, *arguments)]


def study(*arguments):
    "The exit status of `python -m recipes.loss_study` with these arguments, in this process."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return command.run(loss_study.main, [str(argument) for argument in arguments])
    except SystemExit as ending:  # argparse's
        return ending.code
    finally:
        torch.set_num_threads(threads)


def begin(*arguments):
    return forked.Popen(
        [sys.executable, "-m", "recipes.loss_study", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=5)


@pytest.fixture(scope="module")
def interrupted(photos, tmp_path_factory):
    "(the study's folder, what it said, when its first run's weights were written) after a Ctrl-C in the second run."
    out = tmp_path_factory.mktemp("study") / "out"
    process = begin(*words(photos, out, "--losses", "ce", "focal", "--seeds", 2, "--epochs", 3))
    for line in process.stdout:
        if line.startswith("run 2 of 4"):
            break
    next(line for line in process.stdout if line.startswith("epoch 1/"))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    return out, process.returncode, stderr, (out / "ce-0" / "last.pt").stat().st_mtime_ns


@pytest.mark.long
def test_a_study_that_was_interrupted_goes_on_by_the_same_command(photos, interrupted, capfd):
    out, status, stderr, written = interrupted
    assert status == 130
    assert f"interrupted in {out / 'focal-0'}; the same command goes on from there\n" in stderr
    assert not (out / "study.csv").exists()
    again = words(photos, out, "--losses", "ce", "focal", "--seeds", 2, "--epochs", 3)
    assert study(*again) == 0
    said, stderr = capfd.readouterr()
    assert stderr == ""
    assert "holds no run yet" not in said  # of the runs that begin
    assert f"run 1 of 4: {out / 'ce-0'} is done\nrun 2 of 4: {out / 'focal-0'}\n" in said
    assert (out / "ce-0" / "last.pt").stat().st_mtime_ns == written
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["ce-0", "ce-1", "focal-0", "focal-1"]
    assert_study_is_of_its_runs(out)
    assert study(*again) == 0
    assert capfd.readouterr().out.count(" is done\n") == 4


def assert_study_is_of_its_runs(out):
    "study.csv against what the runs' metrics.json say."
    for row in rows(out / "study.csv"):
        figures = [loss_study.load(out / f"{row['name']}-{seed}").metrics for seed in range(2)]
        assert float(row["accuracy"]) == pytest.approx(sum(one["accuracy"] for one in figures) / 2)
        assert float(row["best_epoch"]) == sum(one["best_epoch"] for one in figures) / 2
        assert float(row["seconds"]) == pytest.approx(sum(one["seconds"] for one in figures) / 2, abs=0.1)
    assert [(row["a"], row["b"]) for row in rows(out / "study_pairs.csv")] == [("ce", "focal")]
    for name in ("study.md", "study.html"):
        assert "On 15 validation images and 2 seeds, ce and focal" in (out / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--lr", "0.02"], "--lr 0.01, now it is 0.02"),
        (["--epochs", "9"], "--epochs 3, now it is 9"),
        (["--options", "sampler=balanced"], "--sampler shuffle, now it is balanced"),
        (["--recipe", "digits"], "--recipe hw1, now it is digits"),
    ],
)
def test_a_run_begun_with_other_options_is_refused_before_anything_is_trained(
    photos, interrupted, capfd, changed, told
):
    out = interrupted[0]
    assert study(*words(photos, out, "--losses", "ce", "--epochs", 3, *changed)) == 2
    said = f"error: {out / 'ce-0'} was begun with {told}: give the old value, or another --out\n"
    assert capfd.readouterr() == ("", said)


def test_what_a_run_chose_itself_is_not_asked_of_it_again_and_a_lost_history_is_made_again(
    photos, interrupted, tmp_path
):
    run = shutil.copytree(interrupted[0] / "ce-0", tmp_path / "out" / "ce-0")

    def wanted(*settings):
        options = parsed(hw1.main, words(photos, run, *SMALL, "--epochs", 3, *settings, "--resume"))
        return loss_study.resolved_options(hw1.main.recipe, options)

    assert loss_study.finished("hw1", wanted("--lr", "auto", "--bs", "auto", "--accum", 7))
    (run / "history.csv").unlink()
    assert not loss_study.finished("hw1", wanted())


def test_a_run_that_was_killed_before_its_last_page_is_not_done(photos, interrupted, tmp_path):
    run = shutil.copytree(interrupted[0] / "ce-0", tmp_path / "out" / "ce-0")
    wanted = loss_study.resolved_options(
        hw1.main.recipe, parsed(hw1.main, words(photos, run, *SMALL, "--epochs", 3, "--resume"))
    )
    assert loss_study.finished("hw1", wanted)
    before = (run / "metrics.json").stat().st_mtime_ns - 1
    os.utime(run / "report.html", ns=(before, before))  # a page that was written while it trained
    assert not loss_study.finished("hw1", wanted)


def test_any_option_is_varied_with_each_loss_and_names_the_variant():
    chosen = loss_study.variants(["ce", "focal"], ["lr", "1e-3", "0.5"], ["epochs=2"])
    runs = loss_study.plan(loss_study.load_recipe("hw1"), chosen, ["epochs=2"], 2, Path("out"))
    assert [(name, wanted["loss"], wanted["lr"], wanted["seed"]) for name, wanted in runs] == [
        (f"{loss}, lr {lr}", loss, float(lr), seed)
        for seed in (0, 1)
        for loss in ("ce", "focal")
        for lr in ("1e-3", "0.5")
    ]
    assert runs[1][1]["out"] == Path("out/ce-lr-0.5-0")
    assert all(wanted["epochs"] == 2 and wanted["resume"] for _, wanted in runs)


def test_a_flag_may_vary_too():
    chosen = loss_study.variants(["ce"], ["exact", "True", "False"], [])
    runs = loss_study.plan(hw1.main, chosen, ["device=cpu", "compile=False"], 1, Path("out"))
    assert [wanted["exact"] for _, wanted in runs] == [True, False]


def test_a_study_whose_photos_changed_is_refused_before_more_is_trained(interrupted, tmp_path, capfd):
    out, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(interrupted[0] / "ce-0", out / "ce-0")
    recipe = json.loads((out / "ce-0" / "recipe.json").read_text())
    shutil.copytree(recipe["data"]["path"], data)
    recipe["data"]["path"] = recipe["options"]["data"] = str(data)
    write_json(out / "ce-0" / "recipe.json", recipe)
    (data / "train" / "c0" / "0.png").unlink()
    assert study(*words(data, out, "--losses", "ce", "focal", "--seeds", 1, "--epochs", 3)) == 2
    said, stderr = capfd.readouterr()
    assert said == ""
    assert stderr.startswith(
        f"error: the photos of {out / 'ce-0'} have changed since: bring them back, or give another"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--vary", "lr"], "error: --vary lr without values: give an option and its values, as in --vary lr 1e-3 3e-4"),
        (["--vary", "loss", "ce"], "error: --vary or --options loss: give it by --losses, --seeds, --data or --out"),
        (["--options", "seed=1"], "error: --vary or --options seed: give it by --losses, --seeds, --data or --out"),
        (
            ["--options", "folds=3"],
            "error: --vary or --options folds: a study compares single models on validation photos",
        ),
        (["--vary", "refit", "yes"], "error: --vary or --options refit: a study compares single models on validation"),
        (["--options", "gama=1"], "error: unknown flag --gama, the nearest is --gamma"),
        (["--options", "gamma=1"], "error: --gamma 1.0"),
        (["--losses", "mse"], "error: argument --loss: invalid choice: 'mse'"),
        (["--seeds", "0"], "error: --seeds 0: give 1 or more"),
    ],
)
def test_what_no_study_can_be_made_of_is_refused_in_two_lines(photos, tmp_path, capfd, arguments, told):
    assert study(*words(photos, tmp_path / "out", *arguments)) == 2
    said, stderr = capfd.readouterr()
    assert said == ""
    assert stderr.startswith(told)
    assert len(stderr.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_the_command_that_is_shown_makes_the_same_study():
    given = {"recipe": "hw1", "losses": ("ce", "focal"), "lr": 1e-3, "vary": (), "out": Path("a b"), "data": None}
    line = loss_study.words(given)
    assert line[:3] == ["python", "-m", "recipes.loss_study"]
    values = parsed(loss_study.main, line[3:])
    assert {name: values[name] for name in given} == given


@pytest.mark.slow
def test_the_digits_are_what_is_studied_by_default(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    varied = ["--losses", "ce", "--vary", "lr", "1e-3", "4e-3"]
    assert study(*varied, "--seeds", "1", "--epochs", "1", "--device", "cpu") == 0
    study_folder = tmp_path / "runs/loss_study/digits"
    assert [row["name"] for row in rows(study_folder / "study.csv")] == ["ce, lr 1e-3", "ce, lr 4e-3"]
    assert loss_study.load(study_folder / "ce-lr-1e-3-0").recipe["options"]["lr"] == 1e-3
    assert "One seed says something about these models only" in capfd.readouterr().out
