"""A run that is killed, interrupted or refused: what it goes on with, to the bit."""

import csv
import functools
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import forked
import onnx
import pytest
import torch
from here import here
from noise import write_noise
from pairs import OF_RAPID, all_pairs, allowed, covering_rows, pairs_of
from safetensors.torch import load_file

from export.predict import predict
from toolkit.run import Run, load
from toolkit.training.evaluate import PARTS

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 6
FIXED = "--arch test_resnet --weights none --image_size 32 --bs 4 --device cpu --precision fp32 --lr 0.01".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "48 photos of noise to train, 15 to validate: the validation loss rises, and the schedule acts."
    return write_noise(tmp_path_factory.mktemp("data"), valid=5)


def words(photos, out, *arguments):
    return [str(word) for word in ("--data", photos, "--out", out, "--epochs", EPOCHS, *FIXED, *arguments)]


def on_one_thread(photos, out, *arguments, recipe="hw1"):
    "The exit status of the command in this process."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in `start`: the bits depend on it
    try:
        return here(*words(photos, out, *arguments), recipe=importlib.import_module(f"recipes.{recipe}"))
    finally:
        torch.set_num_threads(threads)


def start(photos, out, *arguments, recipe="hw1", stderr=subprocess.PIPE):
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # two such processes with two each stall on two cores
    return forked.Popen(
        [sys.executable, "-m", f"recipes.{recipe}", *words(photos, out, *arguments)],
        cwd=ROOT,
        env=one_thread,
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )


def finish(photos, out, *arguments, recipe="hw1"):
    "(stdout, stderr) of a run to its end."
    process = start(photos, out, *arguments, recipe=recipe)
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def read_until(process, beginning):
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended without {beginning!r}: {process.stderr.read()}")


def same(one, other):
    "Whether two nests of dicts, lists and tensors agree to the bit."
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same_run(run: Run, whole: Run):
    "Final and best weights, optimiser, schedule, generators, history, best epoch, metrics; times and memory aside."
    histories = [list(csv.DictReader(one.path("history.csv").open())) for one in (run, whole)]
    assert without_times(histories[0]) == without_times(histories[1])
    assert [row["epoch"] for row in histories[0]] == [str(number + 1) for number in range(EPOCHS)]
    states = [torch.load(one.path("last.pt"), weights_only=True) for one in (run, whole)]
    for state in states:
        state["history"] = [row[:-1] for row in state["history"]]
    for name in states[1]:
        assert same(states[0][name], states[1][name]), name
    assert same(load_file(run.path("best.safetensors")), load_file(whole.path("best.safetensors")))
    machine = dict.fromkeys(["seconds", "images_per_second", "peak_memory_bytes", *PARTS], 0)
    assert run.read_json("metrics.json") | machine == whole.read_json("metrics.json") | machine
    assert run.path("valid_predictions.csv").read_bytes() == whole.path("valid_predictions.csv").read_bytes()


class Case(NamedTuple):
    recipe: str
    options: list[str]
    workers: tuple[int, int] = (0, 0)
    "To begin with, and from then on."
    save_every: int = 2
    cached: bool = False

    def words(self, out):
        return [*self.options, *(["--cache", out.with_name(f"{out.name}.cache")] if self.cached else [])]


def case_of(row):
    apart = {"recipe", "workers", "--save_every", "--cache", *(OF_RAPID if row["recipe"] == "hw1" else ())}
    options = [word for name, value in row.items() if name not in apart for word in (name, *value.split())]
    first, then = map(int, row["workers"].split())
    return Case(row["recipe"], options, (first, then), int(row["--save_every"]), row["--cache"] == "yes")


PAIRS = {f"row {number}": case_of(row) for number, row in enumerate(covering_rows())}
SLICE = ["row 1"]  # MixUp, CutMix, class weights, an average, growing squares
CASES = PAIRS | {"focal": Case("hw1", ["--loss", "focal"])}


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    "whole(name): a run never interrupted of that case, in this process and read by it."
    root = tmp_path_factory.mktemp("whole")

    @functools.cache
    def run(name):
        out, case = root / name.replace(" ", "_"), CASES[name]
        assert on_one_thread(photos, out, *case.words(out), "--workers", 0, recipe=case.recipe) == 0
        return load(out)

    return run


def test_the_rows_hold_every_two_options_that_go_together():
    rows = list(covering_rows())
    assert all(map(allowed, rows))
    assert set().union(*map(pairs_of, rows)) == all_pairs()
    met = {(("--mixup", "0.4"), ("--average", "last")), (("--loss", "focal"), ("workers", "2 0"))}
    assert {frozenset(pair) for pair in met} <= {frozenset(pair) for pair in all_pairs()}
    assert set(PAIRS[SLICE[0]].options) > {"0.4", "last", "24", "32", "balanced"}


def assert_agrees(run: Run, photos):
    "What the files of a run say of the same thing is the same: history, metrics, predictions, model file and page."
    rows = list(csv.DictReader(run.path("valid_predictions.csv").open()))
    right, metrics = sum(row["label"] == row["prediction"] for row in rows), run.read_json("metrics.json")
    assert (metrics["images"], metrics["accuracy"]) == (len(rows), pytest.approx(right / len(rows)))
    history = list(csv.DictReader(run.path("history.csv").open()))
    accuracies = [float(row["accuracy"]) for row in history]
    best = accuracies[metrics["best_epoch"] - 1]
    assert best == max(accuracies)
    predict(run.path("model.onnx"), photos / "val", run.folder / "again.csv", "cpu")
    labels = {row["image_name"]: row["pred_label"] for row in csv.DictReader((run.folder / "again.csv").open())}
    again = [labels[row["file"].removeprefix("val/").removesuffix(".png")] for row in rows]
    (run.folder / "again.csv").unlink()
    said = {pair.key: pair.value for pair in onnx.load(run.path("model.onnx")).metadata_props}
    certificate = json.loads(said["verification"])
    correct = sum(row["label"] == label for row, label in zip(rows, again, strict=True))
    assert certificate["accuracy"] == pytest.approx(correct / len(rows)) == metrics["accuracy"]
    assert again == [row["prediction"] for row in rows]
    assert json.loads(said["calibration"])["ece"] == pytest.approx(metrics["ece"], abs=1e-6)
    assert json.loads(said["calibration"])["temperature"] == pytest.approx(metrics["temperature"], rel=1e-3)
    assert json.loads(said["metrics"])["accuracy"] == metrics["accuracy"]
    if run.recipe["options"]["precision"] == "fp32":  # else the epochs' accuracies are of another arithmetic
        assert best == pytest.approx(metrics["accuracy"])
    page = run.path("report.html").read_text()
    assert f"{right} of {len(rows)} images" in page
    assert f"best is {metrics['best_epoch']}" in page


def kill_and_go_on(photos, out, case, kills, draws):
    "Kill a run at random moments, each time taking up the same one, then let it end."
    options = [*case.words(out), "--save_every", case.save_every, "--resume"]
    for number in range(kills):
        workers = ["--workers", case.workers[number % 2]]
        process = start(photos, out, *options, *workers, recipe=case.recipe, stderr=subprocess.DEVNULL)
        read_until(process, "on cpu")
        time.sleep(draws.uniform(0, 1.2))
        process.kill()
        process.wait()
        process.stdout.close()
    finish(photos, out, *options, "--workers", case.workers[kills % 2], recipe=case.recipe)


def assert_killed_runs_end_as_whole_ones(photos, whole, folder, names, kills):
    chains = [(folder / name.replace(" ", "_"), CASES[name], kills, random.Random(f"{name} {kills}")) for name in names]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda chain: kill_and_go_on(photos, *chain), chains))
    for name, (out, *_) in zip(names, chains, strict=True):
        assert_same_run(load(out), whole(name))
        assert_agrees(whole(name), photos)
        assert not [path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_with_the_same_bits_and_its_files_agree(photos, whole, tmp_path):
    "Other options are stopped and go on in test_faults.py."
    assert_killed_runs_end_as_whole_ones(photos, whole, tmp_path, SLICE, kills=1)


@pytest.mark.slow
def test_runs_of_every_two_options_killed_at_random_moments_end_with_the_same_bits(photos, whole, tmp_path):
    assert_killed_runs_end_as_whole_ones(photos, whole, tmp_path, PAIRS, kills=4)


def interrupt(photos, out, number, after, *options):
    """Send signal `number` to the run in `out`, and to its workers, once it has done `after` epochs.

    It ends in time, with 130, and says what it saved: that, as last.pt has it, is what comes back.
    """
    process = start(photos, out, "--loss", "focal", *options)
    read_until(process, f"epoch {after}/")
    sent = time.monotonic()
    os.killpg(process.pid, number)  # its workers too, as a terminal and a cluster do
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - sent < 20
    state = torch.load(out / "last.pt", weights_only=True)
    saved = f"{state['epoch']} of {EPOCHS} epochs and {state['inside']['seen']} photos of the next"
    said = f"interrupted; saved: {saved}; go on with --out {out} --resume\n"
    assert stderr == f"stopping after this optimiser step; once more to stop at once\n{said}"
    assert state["epoch"] >= after
    assert 0 < state["inside"]["seen"] <= 48
    assert state["inside"]["seen"] % 8 == 0  # an optimiser step takes 2 mini-batches of 4
    return saved


@pytest.mark.long
def test_a_signal_saves_at_the_next_step_and_exits_130_and_resume_goes_on_inside_the_epoch(photos, whole, tmp_path):
    "Ctrl-C, then SIGTERM to the one that goes on."
    interrupt(photos, tmp_path / "run", signal.SIGINT, 2, "--workers", 2)
    saved = interrupt(photos, tmp_path / "run", signal.SIGTERM, 4, "--workers", 0, "--resume")
    stdout, _ = finish(photos, tmp_path / "run", "--loss", "focal", "--workers", 0, "--resume")
    assert f"going on after {saved}" in stdout
    assert_same_run(load(tmp_path / "run"), whole("focal"))


def test_the_second_of_two_runs_in_one_folder_is_refused(photos, tmp_path, capfd):
    first = start(photos, tmp_path / "run", "--loss", "ce", "--epochs", 500)
    read_until(first, "on cpu")
    assert on_one_thread(photos, tmp_path / "run", "--loss", "ce", "--resume") == 2
    said = f"error: {tmp_path / 'run'} is in use by a run that has not ended: give another --out, or wait\n"
    assert capfd.readouterr().err == said
    first.kill()
    first.communicate()
