"""Training on several processes, by the real launcher: the training of one, and an end for all of them together."""

import csv
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import timm
import torch
from here import here
from noise import write_noise

from recipes import hw1, loss_study, rapid
from toolkit import ranks
from toolkit.command import run
from toolkit.run import Run
from toolkit.training.fit import how_to_go_on

ROOT = Path(__file__).resolve().parents[3]
FIXED = (
    "--arch test_convnext --weights none --image_size 32 --device cpu --precision fp32 --lr 0.001 --workers 0".split()
)
BATCHES = "--bs 7 --accum 2 --epochs 3".split()  # 48 photos: shares of 3 and 4, a last batch of 6, a last step of one


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "48 photos of noise to train, 15 to validate: of the last mini-batch's one photo, the first rank has none."
    return write_noise(tmp_path_factory.mktemp("data"), valid=5)


def words(photos, out, *arguments):
    return [str(word) for word in ("--data", photos, "--out", out, *FIXED, *arguments)]


def alone(photos, out, *arguments, recipe=hw1):
    "A run on one process: this one."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert here(*words(photos, out, *arguments), recipe=recipe) == 0
    finally:
        torch.set_num_threads(threads)
        gc.collect()  # a run holds its folder as long as it lives
    return out


def start(processes, photos, out, *arguments, recipe="recipes.hw1"):
    launcher = "accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no"
    return subprocess.Popen(
        [sys.executable, "-m", *launcher.split(), "--main_process_port", "0", "--num_processes", str(processes)]
        + ["-m", recipe, *words(photos, out, *arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def launched(processes, photos, out, *arguments, recipe="recipes.hw1"):
    "(exit status, stdout, stderr) of a job to its end."
    job = start(processes, photos, out, *arguments, recipe=recipe)
    stdout, stderr = job.communicate(timeout=300)
    return job.returncode, stdout, stderr


def process_of(job, rank):
    "The number of a job's process of that rank."
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            said = stat.with_name("environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is not ours
            continue
        if parent == job.pid and b"RANK=%d" % rank in said:
            return int(stat.parent.name)
    raise AssertionError(f"no rank {rank}")


def read_until(job, beginning):
    for line in job.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"ended without {beginning!r}: {job.stderr.read()}")


def read(out, name):
    with (out / name).open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_training(out, other):
    "Losses, accuracies and learning rates of each epoch, the best epoch, and the best weights' confidence in photos."
    histories = read(out, "history.csv"), read(other, "history.csv")
    assert len(histories[0]) == len(histories[1])
    for row, same in zip(*histories, strict=True):
        for name in row.keys() - {"seconds"}:
            assert float(row[name]) == pytest.approx(float(same[name]), rel=1e-5), (row, same)
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (out, other)]
    assert figures[0]["best_epoch"] == figures[1]["best_epoch"]
    for row, same in zip(read(out, "valid_predictions.csv"), read(other, "valid_predictions.csv"), strict=True):
        assert (row["file"], row["label"], row["prediction"]) == (same["file"], same["label"], same["prediction"])
        assert float(row["confidence"]) == pytest.approx(float(same["confidence"]), abs=1e-5)


@pytest.fixture(scope="module")
def one(photos, tmp_path_factory):
    "A run on one process, never interrupted."
    return alone(photos, tmp_path_factory.mktemp("one") / "run", *BATCHES)


@pytest.mark.long
def test_two_processes_train_as_one_and_the_first_writes_and_speaks(photos, one, tmp_path):
    status, stdout, stderr = launched(2, photos, tmp_path / "run", *BATCHES, "--save_every", 1)
    assert status == 0, stderr
    assert_same_training(tmp_path / "run", one)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {path.name for path in one.iterdir()}
    assert not stderr
    assert f"on 2 x cpu in fp32, 0 workers; run folder {tmp_path / 'run'}\n" in stdout
    said = stdout.splitlines()
    assert len(said) == len(set(said))  # nothing twice
    assert [line.partition("  ")[0] for line in said if line.startswith("epoch")] == [
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
    ]


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_inside_an_epoch_and_one_process_goes_on_as_if_it_had_been_all_along(
    photos, one, tmp_path
):
    job = start(2, photos, tmp_path / "run", *BATCHES, "--epochs", 300)
    read_until(job, "epoch 1/")
    os.kill(job.pid, signal.SIGTERM)
    stderr = job.communicate(timeout=60)[1]
    assert job.returncode != 0
    state = torch.load(tmp_path / "run/last.pt", weights_only=True)
    saved = f"{state['epoch']} of 300 epochs and {state['inside']['seen']} photos of the next"
    said = f"interrupted; saved: {saved}; go on with --out {tmp_path / 'run'} --resume\n"
    assert stderr.count(said) == stderr.count("interrupted") == 1
    assert state["inside"]["seen"] % 14 in (0, 48 % 14)  # at an optimiser step's end
    if state["epoch"] < 3:
        assert_same_training(alone(photos, tmp_path / "run", *BATCHES, "--resume"), one)


@pytest.mark.long
def test_the_death_of_one_process_ends_the_job_with_an_error_that_says_how_to_go_on(photos, tmp_path):
    job = start(2, photos, tmp_path / "run", *BATCHES, "--epochs", 3000)
    read_until(job, "epoch 1/")
    died = time.monotonic()
    os.kill(process_of(job, 1), signal.SIGKILL)
    stderr = job.communicate(timeout=100)[1]
    assert job.returncode == 1
    assert time.monotonic() - died < 60
    assert "error: another of the 2 processes has ended, or has not answered for long\nsaved: " in stderr
    assert f"epochs; go on with --out {tmp_path / 'run'} --resume\n" in stderr or "photos of the next" in stderr
    assert "rank      : 1 (local_rank: 1)\n  exitcode  : -9" in stderr  # the launcher's


def test_shares_of_a_mini_batch_are_all_of_it_once(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for processes in (2, 3, 8):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        for samples in range(20):
            shares = []
            for rank in range(processes):
                monkeypatch.setenv("RANK", str(rank))
                shares.append(ranks.share(samples))
            assert [place for share in shares for place in share] == list(range(samples))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


# Slow: each case starts a job of its own


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_three_processes_with_a_last_mini_batch_of_two_and_classes_weighted_train_as_one(photos, tmp_path, loss):
    "41 photos by 13: the last two leave a rank with a stand-in, in the loss whose classes have weights too."
    for number in range(9, 16):
        os.link(photos / "train/c0" / f"{number}.png", tmp_path / f"{number}.png")
        (photos / "train/c0" / f"{number}.png").unlink()
    try:
        options = "--bs 13 --accum 2 --epochs 3 --class_weights balanced --loss".split()
        whole = alone(photos, tmp_path / "one", *options, loss)
        status, _, stderr = launched(3, photos, tmp_path / "three", *options, loss)
    finally:
        for number in range(9, 16):
            os.link(tmp_path / f"{number}.png", photos / "train/c0" / f"{number}.png")
    assert status == 0, stderr
    assert_same_training(tmp_path / "three", whole)


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_as_large_as_that_of_one(photos, tmp_path):
    script = str(ROOT / "tests/sgd_run.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for start_by, out in ((launcher, "two"), ([], "one")):
        subprocess.run(
            [sys.executable, *start_by, script, str(photos), str(tmp_path / out)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            check=True,
        )
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_with_the_same(photos, one, tmp_path):
    alone(photos, tmp_path / "run", *BATCHES, "--epochs", 1)
    for processes, epochs in ((2, 2), (2, 3)):
        status, stdout, stderr = launched(processes, photos, tmp_path / "run", *BATCHES, "--epochs", epochs, "--resume")
        assert status == 0, stderr
        assert f"going on after {epochs - 1} of {epochs} epochs" in stdout
    assert_same_training(tmp_path / "run", one)


@pytest.mark.slow
def test_with_batch_norm_the_weights_kept_are_those_that_were_validated(photos, tmp_path):
    "On a CPU each rank's statistics are its own: validation on both must go by one set of averages, the one saved."
    options = [*BATCHES, "--arch", "test_resnet"]
    status, _, stderr = launched(2, photos, tmp_path / "run", *options)
    assert status == 0, stderr
    found = json.loads((tmp_path / "run/metrics.json").read_text())
    best = read(tmp_path / "run", "history.csv")[found["best_epoch"] - 1]
    assert found["accuracy"] == pytest.approx(float(best["accuracy"]))
    wrong = read(tmp_path / "run", "valid_predictions.csv")
    assert len(wrong) == 15


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_processes_and_is_told_once(photos, tmp_path):
    status, _, stderr = launched(2, photos, tmp_path / "run", *BATCHES, "--lr", "1e30")
    assert status == 1
    assert stderr.count("error: the loss is not finite in epoch 1, step 2") == 1
    assert "exitcode  : 2" in stderr
    assert "Traceback" not in stderr.partition("torch/distributed/elastic")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arch", "nonsense"], "error: timm"),
        (["--bs", 1], "error: --bs 1 on 2 processes, which share each batch: give 2 photos or more"),
    ],
)
def test_a_users_error_is_told_once_and_nothing_is_written(photos, tmp_path, options, said):
    status, _, stderr = launched(2, photos, tmp_path / "run", *options)
    assert status == 1
    assert stderr.count("error: ") == stderr.count(said) == 1
    assert "exitcode  : 2" in stderr
    assert not (tmp_path / "run/recipe.json").exists()


@pytest.mark.slow
def test_a_probe_and_averaged_weights_are_those_of_one_process(photos, tmp_path):
    torch.manual_seed(0)
    weights = timm.create_model("test_convnext", num_classes=3).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    given = ["--weights", tmp_path / "weights.pth", *BATCHES, "--layer_decay", "0.8"]
    alone(photos, tmp_path / "one", *given, recipe=rapid)
    status, _, stderr = launched(2, photos, tmp_path / "two", *given, recipe="recipes.rapid")
    assert status == 0, stderr
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_time_budget_is_for_one_process_to_plan(photos, tmp_path):
    status, _, stderr = launched(2, photos, tmp_path / "run", "--minutes", 1, recipe="recipes.rapid")
    assert status != 0
    assert "--minutes on 2 processes: give --epochs" in stderr


def on_machines(folders, *arguments):
    "(exit status, stdout, stderr) of one process for each folder, which stands for a machine, by the same command."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    job |= {"WORLD_SIZE": str(len(folders)), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    started = [
        forked.Popen(
            [sys.executable, "-m", "recipes.hw1", *map(str, arguments)],
            cwd=folder,
            env=job | {"RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank, folder in enumerate(folders)
    ]
    try:
        outputs = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


@pytest.fixture
def machines(tmp_path):
    "Two empty folders."
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.mark.long
def test_a_resume_on_two_machines_needs_no_options_and_the_run_folder_of_the_first(photos, machines, tmp_path):
    given = *BATCHES, "--loss", "focal", "--seed", 5
    expected = alone(photos, tmp_path / "one", *given, "--epochs", 2)
    alone(photos, machines[0] / "run", *given, "--epochs", 1)
    for status, _, stderr in on_machines(machines, "--out", "run", "--resume", "--epochs", 2, "--device", "cpu"):
        assert status == 0, stderr
    assert_same_training(machines[0] / "run", expected)
    assert not list(machines[1].iterdir())


@pytest.mark.long
@pytest.mark.parametrize("missing", ["train/c1/3.png", "train/c2"])
def test_machines_with_different_photos_are_refused_before_training(photos, machines, missing):
    for machine in machines:
        shutil.copytree(photos, machine / "data", ignore=shutil.ignore_patterns("val"))
        shutil.copytree(photos / "val/c0", machine / "data/val/c0")
    gone = machines[1] / "data" / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    first, second = on_machines(machines, "--data", "data", "--out", "run", *FIXED, *BATCHES)
    said = "the photos in data are not the same for all processes: copy one folder to each machine\n"
    assert first == (2, "", f"error: {said}")
    assert second == (2, "", f"process 1 of 2: error: {said}")
    assert not (machines[0] / "run").exists()


def test_a_process_that_waits_for_the_others_can_be_ended(photos, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # takes the connection and does not answer
        job = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(nobody.getsockname()[1])}
        waiting = forked.Popen(
            [sys.executable, "-m", "recipes.hw1", *words(photos, tmp_path / "run")],
            env=job | {"RANK": "1", "WORLD_SIZE": "2"},
        )
        try:
            nobody.settimeout(60)
            with nobody.accept()[0]:
                time.sleep(1)
                assert waiting.poll() is None
                waiting.send_signal(signal.SIGTERM)
                assert waiting.wait(timeout=20) == -signal.SIGTERM
        finally:
            waiting.kill()


@pytest.mark.parametrize(
    "numbers",
    [
        "RANK=0 WORLD_SIZE=many",
        "RANK=x WORLD_SIZE=2",
        "RANK=2 WORLD_SIZE=2",
        "RANK=-1 WORLD_SIZE=2",
        "RANK=0 WORLD_SIZE=2 LOCAL_RANK=one",
        "RANK=0 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=1",
    ],
)
def test_numbers_that_no_launcher_gives_are_refused(numbers, monkeypatch, capfd):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for pair in numbers.split():
        monkeypatch.setenv(*pair.split("="))
    assert run(lambda: pytest.fail("it was run"), []) == 2
    assert capfd.readouterr().err.startswith(f"error: {numbers} in the environment: a launcher counts RANK from 0 to")


def two_processes(monkeypatch, rank):
    for name, value in {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)


def test_a_study_on_several_processes_is_refused(tmp_path, monkeypatch):
    two_processes(monkeypatch, 0)
    with pytest.raises(ValueError, match="a study on 2 processes: start it without a launcher"):
        loss_study.main(out=tmp_path)


@pytest.mark.parametrize(("rank", "said"), [(0, "saved: 2 of 6 epochs; go on"), (1, "go on")])
def test_only_the_first_process_says_what_is_saved(rank, said, monkeypatch):
    two_processes(monkeypatch, rank)
    checkpoint = SimpleNamespace(saved="2 of 6 epochs", target=Run(Path("x")))
    assert how_to_go_on(checkpoint) == f"{said} with --out x --resume"


def test_a_signal_that_is_ignored_stays_so_while_processes_wait_for_each_other():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with ranks._ended_by_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
