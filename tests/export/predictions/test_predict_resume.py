"""A prediction run that is killed, interrupted or out of disk loses nothing; most of it by the real command."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tiny_onnx
from predicting import ROOT, label, rows, run, save
from slow_photos import files, rows_in, slow_photos, wait_for_rows

from export import session
from export.predict import predict
from export.predictions import journal
from export.reading import prepare

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def photos(tmp_path):
    "23 photos, two of which can't be read."
    for seed in range(23):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    for broken in ("3.png", "17.png"):
        (tmp_path / "photos" / broken).write_bytes(b"no photo")
    return tmp_path / "photos"


@pytest.fixture
def interrupted_at(monkeypatch):
    "Ends a block with an interrupt when a photo of that name is read."

    @contextlib.contextmanager
    def interrupting(name):
        def read(path):
            if Path(path).name == name:
                raise KeyboardInterrupt
            return file_bytes(path)

        file_bytes = prepare.file_bytes
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(prepare, "file_bytes", read)
            yield
            pytest.fail(f"{name} was not read")

    return interrupting


def started(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "export.predict", *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows_done(partial: Path, out: Path) -> int:
    return rows_in(partial) or (1500 if out.exists() else 0)


# Killed


@posix
@pytest.mark.long
@pytest.mark.parametrize(("count", "kills"), [(600, 5), (1500, 9)])
def test_killed_at_random_moments_and_resumed_it_gives_the_files_of_an_unbroken_run(model, tmp_path, count, kills):
    photos, out = slow_photos(tmp_path / "photos", count), tmp_path / "killed" / "p.csv"
    options = [model, photos, "--probabilities", "--bs", "16", "--out"]
    whole = started(*options, tmp_path / "whole" / "p.csv")
    whole.communicate()
    assert whole.returncode == 2
    moments, progress, partial = random.Random(0), [0], out.with_name("p.csv.partial")
    for _ in range(kills):
        process, wanted = started(*options, out, "--resume"), progress[-1] + moments.randint(0, count // 7)
        while process.poll() is None and rows_done(partial, out) < wanted:
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moments.uniform(0, 0.1))
        process.kill()
        process.communicate()
        progress.append(rows_done(partial, out))
    assert len(set(progress) - {0, count}) > 2, f"too few kills came midway: {progress}"
    assert progress == sorted(progress)
    process = started(*options, out, "--resume")
    process.communicate()
    assert process.returncode == 2
    assert files(out.parent) == files(tmp_path / "whole")
    assert set(files(out.parent)) == {"p.csv", "p.errors.csv", ".p.csv.asked"}


@posix
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interrupted_run_ends_in_seconds_says_how_to_continue_and_continues(model, tmp_path, number, said):
    photos, out = slow_photos(tmp_path / "photos", 500), tmp_path / "out" / "p.csv"
    out.parent.mkdir()
    out.write_text("earlier")
    partial = out.with_name("p.csv.partial")
    process = started(model, photos, "--out", out)
    wait_for_rows(partial, process)
    process.send_signal(number)
    asked = time.monotonic()
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == (
        f"{said}; finished rows are in {partial}: the same command with --resume continues from there"
    )
    assert set(os.listdir(out.parent)) == {"p.csv", "p.csv.partial"}
    assert out.read_text() == "earlier"

    kept = len(list(journal.rows(partial)))
    done = run(model, photos, "--out", out, "--device", "cpu", "--resume")
    assert done.returncode == 2
    assert f"{500 - kept} images (and {kept} earlier) in " in done.stdout
    assert [row[0] for row in rows(out)[1:]] == [str(number) for number in range(500)]


TORN = (
    b"",
    b'["7", ["4"], "", 12',
    b"\0" * 90,
    b'["7"]\n["8", ["4"], "", 1, null]\n',
    b"[]\n",
    b'["8", [], "", 1, ""]\n',
)


@pytest.mark.parametrize("tail", TORN)
def test_rows_torn_by_a_kill_or_a_power_cut_are_done_again(model, photos, tmp_path, interrupted_at, tail):
    options = {"device": "cpu", "bs": 4, "probabilities": True}
    predict(model, photos, tmp_path / "whole" / "p.csv", **options)
    with interrupted_at("10.png"):
        predict(model, photos, tmp_path / "torn" / "p.csv", workers=0, **options)
    partial = tmp_path / "torn" / "p.csv.partial"
    assert [row.name for row in journal.rows(partial)] == [str(number) for number in range(8)]
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:-1]) + tail)  # also from within a batch
    predict(model, photos, tmp_path / "torn" / "p.csv", resume=True, **options)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")


def test_it_continues_at_a_batch_of_the_unbroken_run(model, photos, tmp_path, interrupted_at, monkeypatch):
    with interrupted_at("15.png"):
        predict(model, photos, tmp_path / "p.csv", "cpu", bs=5, workers=0)
    partial = tmp_path / "p.csv.partial"
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:-2]))  # 13 rows of 15
    batches, scores = [], session.Classifier._scores
    monkeypatch.setattr(session.Classifier, "_scores", lambda *given: batches.append(len(given[1])) or scores(*given))
    predict(model, photos, tmp_path / "p.csv", "cpu", bs=5, workers=0, resume=True)
    assert batches == [5, 5, 3], "10-14, 15-19 with one that can't be read and is black, 20-22"


def test_if_it_is_killed_before_the_output_has_its_name_no_photo_is_read_again(model, photos, tmp_path, monkeypatch):
    predict(model, photos, tmp_path / "whole" / "p.csv", "cpu", bs=4)
    with monkeypatch.context() as patch:
        patch.setattr("export.predictions.formats.write_errors", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="interrupted; finished rows are in "):
            predict(model, photos, tmp_path / "cut" / "p.csv", "cpu", bs=4)
    monkeypatch.setattr(prepare, "file_bytes", None)  # no photo is read again
    predict(model, photos, tmp_path / "cut" / "p.csv", "cpu", bs=4, resume=True)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_only_half_written_files_of_a_killed_run_are_removed(model, photos, tmp_path):
    half = [".p.csv.abcd1234", ".p.csv.partial.x_3yz890", ".p.errors.csv.abcdefgh", ".p.csv.partial.lock"]
    others = [".p.csv.abc", ".q.csv.abcd1234", "p.csv.abcd1234", ".p.csv.ABCD1234"]
    for name in half + others:
        (tmp_path / name).write_text("half")
    predict(model, photos, tmp_path / "p.csv", "cpu")
    assert set(os.listdir(tmp_path)) == {"photos", "p.csv", "p.errors.csv", ".p.csv.asked", *others}


# What --resume goes on with, and what it refuses


def test_resume_without_an_earlier_run_starts_one(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv", "cpu", resume=True)
    assert len(rows(tmp_path / "p.csv")) == 24


def test_a_finished_run_is_reported_and_keeps_its_exit_status(model, photos, tmp_path):
    options = [model, photos, "--out", tmp_path / "p.csv", "--device", "cpu"]
    assert run(*options).returncode == 2
    before = files(tmp_path / "photos") | {"p.csv": (tmp_path / "p.csv").read_bytes()}
    done = run(*options, "--resume")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith(f"{tmp_path / 'p.csv'} is already finished, 23 images: nothing is left to do")
    assert files(tmp_path / "photos") | {"p.csv": (tmp_path / "p.csv").read_bytes()} == before
    for broken in ("3.png", "17.png"):
        save(photos / broken, 1)
    assert run(*options).returncode == 0
    assert run(*options, "--resume").returncode == 0


def test_a_finished_file_of_something_else_is_refused_and_stays(model, photos, tmp_path):
    out, other = tmp_path / "p.csv", tmp_path / "other"
    predict(model, photos, out, "cpu", bs=4)
    before = files(tmp_path / "photos") | {"p.csv": out.read_bytes()}
    older = tiny_onnx.write(tmp_path / "older.onnx", metadata={"recipe": '"another"'})
    os.utime(older, (1, 1))
    for seed in range(23):
        save(other / f"{seed}.png", seed + 1)

    def refused(message, model=model, images=photos, **options):
        with pytest.raises(ValueError, match=message):
            predict(model, images, out, "cpu", resume=True, **options)
        assert files(tmp_path / "photos") | {"p.csv": out.read_bytes()} == before

    refused(r"p.csv was started with model \w{12}, now \w{12}: give the same, or leave out --resume", older)
    refused(r"started with --tta none, now flip:", tta="flip")
    refused(r"started with --fallback \(empty\), now 7:", fallback="7")
    refused(r"started with --probabilities False, now True:", probabilities=True)
    refused(r"started with --bs 4, now 5:", bs=5)
    refused(r"p.csv is finished, but of other images, in part or all, under these names; leave out", images=other)
    save(other / "new.png", 0)
    refused(r"p.csv is finished, but of other images: it lacks new; leave out --resume", images=other)
    predict(model, photos, out, "cpu", resume=True)
    predict(model, os.path.relpath(photos), out, "cpu", resume=True)  # the same photos by another way


@pytest.mark.parametrize("change", ["edited", "no record", "damaged record", "record of nothing"])
def test_a_finished_file_whose_making_is_not_known_is_refused(model, photos, tmp_path, change):
    out, record = tmp_path / "p.csv", tmp_path / ".p.csv.asked"
    predict(model, photos, out, "cpu", bs=4)
    if change == "edited":
        out.write_text(out.read_text().replace("0", "1", 1))
    elif change == "no record":
        record.unlink()
    else:
        record.write_text("{" if change == "damaged record" else "[]")
    with pytest.raises(ValueError, match=r"p.csv exists, but .*.asked does not say how it was made.*: leave out"):
        predict(model, photos, out, "cpu", bs=4, resume=True)
    predict(model, photos, out, "cpu", bs=4)
    assert len(predict(model, photos, out, "cpu", bs=4, resume=True)) == 2


@pytest.fixture
def half_done(model, photos, tmp_path, interrupted_at):
    with interrupted_at("10.png"):
        predict(model, photos, tmp_path / "p.csv", "cpu", bs=4, workers=0)
    return tmp_path / "p.csv"


def test_another_model_other_options_other_images_are_refused_by_name(model, photos, half_done, tmp_path):
    other = tiny_onnx.write(tmp_path / "other.onnx", classes=["a", "b"])
    before = half_done.with_name("p.csv.partial").read_bytes()

    def refused(message, model=model, images=photos, bs=4, **options):
        with pytest.raises(ValueError, match=message):
            predict(model, images, half_done, "cpu", bs=bs, resume=True, **options)
        assert half_done.with_name("p.csv.partial").read_bytes() == before

    refused(r"p.csv.partial was started with model \w{12}, now \w{12}: give the same, or leave out --resume", other)
    refused(r"started with --bs 4, now 5:", bs=5)
    refused(r"started with --bs 4, now 5, --probabilities False, now True:", bs=5, probabilities=True)
    refused(r"started with --tta none, now flip:", tta="flip")
    refused(r"started with --top 0, now 2:", top=2)
    paths = {path.name: path for path in photos.iterdir()}
    refused(r"has other names for its images \(0, now x0\)", images={f"x{name}": path for name, path in paths.items()})
    save(photos.with_name("elsewhere") / "0.png", 0)
    refused(r"is of other images: it lacks .*elsewhere/0.png; leave out", images=photos.with_name("elsewhere"))
    for name in "abcde":
        save(photos / f"{name}.png", 0)
    refused(r"is of other images: it lacks .*photos/a.png, .*b.png, .*c.png and 2 more; leave out")
    for name in "abcde":
        (photos / f"{name}.png").unlink()
    content = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(content + b"more")
    refused(r"is of other images: these files have changed since: .*photos/2.png; leave out")
    (photos / "2.png").write_bytes(content)
    predict(model, photos, half_done, "cpu", bs=4, resume=True)
    assert len(rows(half_done)) == 24


def test_a_photo_that_goes_or_breaks_between_kill_and_resume_keeps_its_row(model, photos, half_done):
    (photos / "2.png").unlink()  # done before
    (photos / "12.png").unlink()
    (photos / "13.png").write_bytes((photos / "13.png").read_bytes()[:100])
    unread = predict(model, photos, half_done, "cpu", bs=4, resume=True)
    assert [name for name, _, _ in unread] == ["3", "12", "13", "17"]
    expected = [[str(seed), "" if seed in (3, 12, 13, 17) else label(seed)] for seed in range(23)]
    assert rows(half_done)[1:] == expected


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_the_features_of_a_photo_that_is_gone_keep_their_row(photos, tmp_path, interrupted_at, suffix):
    model, features = tiny_onnx.write(tmp_path / "f.onnx", features=True), tmp_path / f"f{suffix}"
    with interrupted_at("10.png"):
        predict(model, photos, tmp_path / "p.csv", "cpu", bs=4, workers=0, features=features)
    for name in ("2.png", "12.png"):
        (photos / name).unlink()
    predict(model, photos, tmp_path / "p.csv", "cpu", bs=4, resume=True, features=features)
    if suffix == ".npy":
        found = np.load(features)
        whole = [index for index, row in enumerate(found) if np.isfinite(row).all()]
        size = (len(found) * found.shape[1]) * 4
        assert features.stat().st_size - size in range(64, 256)  # the header: no rows behind those it tells of
    else:
        found = pyarrow.parquet.read_table(features)["features"].to_pylist()
        whole = [index for index, row in enumerate(found) if np.isfinite(row).all()]
    assert len(found) == len(rows(tmp_path / "p.csv")) - 1 == 23
    assert whole == [seed for seed in range(23) if seed not in (3, 12, 17)]


def test_without_resume_it_starts_anew_and_a_line_says_so(model, photos, half_done, capfd):
    predict(model, photos, half_done, "cpu", bs=5)
    assert capfd.readouterr().err.startswith(
        f"{half_done}.partial, of a run that was not finished, starts anew: export.predict --resume would continue it\n"
    )
    assert len(rows(half_done)) == 24


def test_a_wrong_model_leaves_the_partial_as_it_was(photos, half_done, tmp_path):
    before = half_done.with_name("p.csv.partial").read_bytes()
    (tmp_path / "text.onnx").write_text("<html>")
    with pytest.raises(ValueError, match="not a model"):
        predict(tmp_path / "text.onnx", photos, half_done, "cpu")
    assert half_done.with_name("p.csv.partial").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"[]\n", b'{"images": 2}\n["a"]\n', b"\xff\xfe\n", b'{"bs": 3}\n'])
def test_a_partial_file_that_is_not_ours_is_refused(model, photos, tmp_path, content):
    (tmp_path / "p.csv.partial").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"p.csv.partial was not written by this version: remove it, or leave out --res"
    ):
        predict(model, photos, tmp_path / "p.csv", "cpu", resume=True)


def test_two_runs_into_one_file_the_second_is_refused(model, photos, tmp_path):
    with journal.held(tmp_path / "p.csv.partial"):
        done = run(model, photos, "--out", tmp_path / "p.csv", "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path / 'p.csv.partial'} is being written by another process: give another --out, or wait\n"
    )
    assert set(os.listdir(tmp_path)) == {"photos"}


# The disk and the streams


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
def test_a_folder_where_no_file_can_be_made_is_an_error(model, photos):
    done = run(model, photos, "--out", "/proc/x.csv", "--device", "cpu", timeout=60)
    assert done.returncode == 2
    assert done.stderr == "error: /proc can't be written to (No such file or directory): give another folder\n"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk_is_an_error_and_the_run_continues_once_there_is_room(model, tmp_path, small_disk):
    first = save(tmp_path / "photos" / "0.png", 0)
    for number in range(1, 800):
        os.link(first, first.with_name(f"{number}.png"))
    photos, whole = first.parent, tmp_path / "whole" / "p.csv"
    options = [model, photos, "--bs", "16", "--device", "cpu", "--out"]
    assert run(*options, whole).returncode == 0
    need = sum(len(json.dumps([path.stem, str(path)])) + 1 for path in photos.iterdir())
    subprocess.run(["mount", "-o", f"remount,size={need // 4096 * 4 + 16}k", small_disk], check=True)
    done = run(*options, small_disk / "p.csv")
    assert done.returncode == 2
    full = [f"error: {small_disk / name}: No space left on device" for name in ("p.csv", "p.csv.partial")]
    assert done.stderr.splitlines()[-2] in full  # they grow side by side
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith("the same command with --resume continues from there")
    kept = len(list(journal.rows(small_disk / "p.csv.partial")))
    assert 0 < kept < 800
    assert not (small_disk / "p.csv").exists()
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    done = run(*options, small_disk / "p.csv", "--resume")
    assert done.returncode == 0
    assert f"(and {kept // 16 * 16} earlier)" in done.stdout
    assert (small_disk / "p.csv").read_bytes() == whole.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_folder_that_can_not_be_written_to_is_an_error(model, photos, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for out in (small_disk / "p.csv", small_disk / "deeper" / "p.csv"):
        done = run(model, photos, "--out", out, "--device", "cpu")
        assert done.returncode == 2
        assert "Read-only file system" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full"])
def test_closed_streams_cost_no_row(model, photos, tmp_path, closed):
    command = f'"$0" -m export.predict "$1" "$2" --out "$3" --device cpu {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable, model, photos, tmp_path / "p.csv"], cwd=ROOT)
    assert done.returncode == 2
    assert rows(tmp_path / "p.csv")[1:] == [[str(n), "" if n in (3, 17) else label(n)] for n in range(23)]
    assert [row[0] for row in rows(tmp_path / "p.errors.csv")[1:]] == ["3", "17"]
