"""A source is unpacked once, whole or not at all, and again if it or what was unpacked has changed."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from toolkit.data.dataset import find_data, recorded_dataset
from toolkit.data.sources import unpacked as module
from toolkit.data.sources.source import open_source
from toolkit.files import size_text

ROOT = Path(__file__).resolve().parents[4]
UNPACK = "import sys; from toolkit.data.sources.source import open_source; print(open_source(sys.argv[1]).path)"


@pytest.fixture
def archive(folder, tmp_path):
    "A zip of the folder."
    return Path(shutil.make_archive(str(tmp_path / "pets"), "zip", folder))


def process(code, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=-1,
        stderr=-1,
        text=True,
        env=os.environ | environment,
    )


def test_one_line_says_what_was_unpacked_where_and_how_large_and_nothing_the_next_time(archive, folder, cache, capsys):
    photos = [file for file in folder.rglob("*.*") if file.is_file()]
    first = open_source(archive)
    size = size_text(sum(file.stat().st_size for file in photos))
    assert capsys.readouterr().err == f"{archive}: {len(photos)} photos, {size}, unpacked into {first.path}\n"
    assert first.path.parent == cache
    times = {file: file.stat().st_mtime_ns for file in first.path.rglob("*")}
    assert open_source(archive) == first
    assert capsys.readouterr() == ("", "")
    assert {file: file.stat().st_mtime_ns for file in first.path.rglob("*")} == times


def test_a_source_that_changes_is_unpacked_again_beside(archive, folder):
    before = find_data(archive)
    with zipfile.ZipFile(archive, "a") as changed:
        changed.write(folder / "train/cat/cat0.jpg", "train/cat/cat9.jpg")
    after = find_data(archive)
    assert after.path != before.path
    assert len(after.train) == len(before.train) + 1
    assert before.path.is_dir()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "train/cat/cat0.jpg").unlink(),
        lambda root: (root / "train/cat/cat0.jpg").write_bytes(b"cut short"),
        lambda root: shutil.copy(root / "train/cat/cat0.jpg", root / "train/cat/cat9.jpg"),
        lambda root: (root / ".unpacked.json").write_text("{"),
        lambda root: shutil.rmtree(root),
    ],
)
def test_what_was_changed_among_the_unpacked_photos_is_made_good(change, archive):
    before = find_data(archive)
    change(before.path)
    after = find_data(archive)
    assert (after.path, after.fingerprint) == (before.path, before.fingerprint)


def test_a_kill_leaves_nothing_that_is_taken_for_whole_and_the_next_time_clears_it(archive, cache, folder):
    slow = (
        "import time; from toolkit.data.sources.unpacked import Unpacking; add = Unpacking.add; "
        "Unpacking.add = lambda *given: (add(*given), time.sleep(0.3)); "
    )
    killed = process(slow + UNPACK, archive)
    while not list(cache.glob(".*.part/train/cat/*.jpg")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert list(cache.glob(".*.part"))
    assert not list(cache.glob("pets-*"))
    found = find_data(archive)
    assert found.fingerprint == find_data(folder).fingerprint
    assert not list(cache.glob(".*.part"))


def test_processes_at_once_unpack_once(archive, cache):
    both = [process(UNPACK, archive) for _ in range(2)]
    said = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert sum(stderr.count("unpacked into") for _, stderr in said) == 1


def test_the_ranks_of_a_job_unpack_once(archive):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    both = [process(UNPACK, archive, **job, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    said = [one.communicate() for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert [stderr.count("unpacked into") for _, stderr in said] == [1, 0]


def test_a_cache_that_can_not_be_written_to_is_an_error_that_names_the_way_out(archive, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    with pytest.raises(
        OSError, match=r"pets.zip is unpacked into /proc/.*, which can't be written to \(.*\): set XDG_C"
    ):
        open_source(archive)


def test_a_disk_without_room_is_an_error_before_a_photo_is_written(archive, monkeypatch, unpacked_into):
    monkeypatch.setattr(module, "KEPT_FREE", 1)
    message = "its photos take 0.0 MB, and 0.0 MB are free for them in .*: set XDG_CACHE_HOME .* on a larger disk"
    with pytest.raises(OSError, match=message):
        open_source(archive)
    assert unpacked_into() == []


@pytest.mark.parametrize(
    ("options", "reason"), [("size=100k", "No space left|are free for them"), ("ro", "Read-only file system")]
)
def test_a_full_or_read_only_disk_ends_the_command_with_2_and_leaves_nothing(options, reason, archive, tmp_path):
    home = tmp_path / "small"
    home.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", home], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("may not mount a file system here")
    try:
        with zipfile.ZipFile(archive, "a") as more:
            more.writestr("train/cat/big.jpg", os.urandom(200_000))
        done = subprocess.run(
            [sys.executable, "-m", "toolkit.check", archive], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"XDG_CACHE_HOME": str(home)}, check=False,
        )  # fmt: skip
        left = [path for path in home.rglob("*") if path.suffix == ".jpg"]
    finally:
        subprocess.run(["umount", home], check=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) <= 2
    assert re.search(reason, done.stderr), done.stderr
    assert left == []


def test_a_run_finds_its_photos_again_by_what_was_unpacked_or_by_its_source(archive, cache):
    data = find_data(archive)
    recipe = {
        "options": {"seed": 0},
        "data": {"path": str(data.path), "source": data.source, "fingerprint": data.fingerprint},
    }
    elsewhere = archive.rename(archive.with_name("moved.zip"))
    assert recorded_dataset(recipe)[0].train == data.train
    shutil.rmtree(cache)
    assert "can't be used" in recorded_dataset(recipe)[1]
    elsewhere.rename(archive)
    again, fault = recorded_dataset(recipe)
    assert (again.fingerprint, fault) == (data.fingerprint, None)


def test_photos_of_the_unpacked_folder_are_named_as_those_of_the_folder(archive, folder, tmp_path):
    "A list for --without, written for the folder, fits the zip."
    from toolkit.data.checks.without import without_listed

    listed = tmp_path / "doubts.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows([["file"], ["train/cat/cat3.jpg"], ["val/dog/v1.png"]])
    left = without_listed(find_data(archive), listed)
    assert left.fingerprint == without_listed(find_data(folder), listed).fingerprint != find_data(folder).fingerprint
