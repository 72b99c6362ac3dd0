"""--sort puts photos into class folders, as links or copies, and export.unsort undoes it by the list."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny_onnx
from predicting import ROOT, label, save

from export.predict import predict
from export.predictions import sort
from export.unsort import exit_status, unsort


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def photos(tmp_path):
    "Photos in a folder and below it, two of one name, and a file that can't be read."
    folder = tmp_path / "photos"
    for seed in range(6):
        save(folder / f"img{seed}.png", seed)
    save(folder / "below" / "img0.png", 0)
    (folder / "broken.png").write_text("no photo")
    return folder


def files(folder):
    "What each link or copy below the folder leads to, or holds."
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }


def places(photos):
    "By place, the photo that is expected there."
    found = {f"{label(seed)}/img{seed}.png": photos / f"img{seed}.png" for seed in range(6)}
    return found | {
        f"{label(0)}/below/img0.png": photos / "below" / "img0.png",
        "unreadable/broken.png": photos / "broken.png",
    }


def test_each_photo_is_linked_in_the_folder_of_its_label(model, photos, tmp_path, capsys):
    predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted")
    found = files(tmp_path / "sorted")
    assert found.pop("sorted.csv")
    assert found == {place: str(path) for place, path in places(photos).items()}
    assert "sorted 8 photos into" in capsys.readouterr().out


def test_copies_hold_the_photos_bytes(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted", sort_as="copy")
    found = files(tmp_path / "sorted")
    assert found.pop("sorted.csv")
    assert found == {place: path.read_bytes() for place, path in places(photos).items()}
    assert not any(path.is_symlink() for path in (tmp_path / "sorted").rglob("*"))


@pytest.mark.parametrize("way", ["link", "copy"])
def test_unsort_leaves_nothing_but_the_photos(model, photos, tmp_path, way, capsys):
    before = files(photos)
    predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted", sort_as=way)
    assert exit_status(unsort(tmp_path / "sorted")) == 0
    assert not (tmp_path / "sorted").exists()
    assert files(photos) == before
    assert "removed 8 links or copies" in capsys.readouterr().out


def test_unsort_leaves_what_a_user_has_put_there_or_changed(model, photos, tmp_path, capsys):
    folder = tmp_path / "sorted"
    predict(model, photos, tmp_path / "p.csv", sort=folder, sort_as="copy")
    changed, added = folder / label(1) / "img1.png", folder / label(1) / "mine.txt"
    changed.write_bytes(b"edited")
    added.write_text("a note")
    assert unsort(folder) == [f"{label(1)}/img1.png"]
    assert set(files(folder)) == {f"{label(1)}/img1.png", f"{label(1)}/mine.txt", "sorted.csv"}
    assert f"left, because they are not what was put there: {label(1)}/img1.png" in capsys.readouterr().out
    changed.unlink()
    assert unsort(folder) == []
    assert set(files(folder)) == {f"{label(1)}/mine.txt"}


def test_unsure_photos_have_a_folder_whatever_they_are_called_in_the_table(photos, tmp_path):
    promise = json.dumps({"promise": 0.9, "threshold": 0.9999})
    model = tiny_onnx.write(tmp_path / "model.onnx", metadata={"promise": promise})
    predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted", fallback="5")
    assert {place.split("/")[0] for place in files(tmp_path / "sorted")} == {"unsure", "unreadable", "sorted.csv"}


def test_photos_of_one_name_from_a_list_get_a_number(model, photos, tmp_path):
    (tmp_path / "lists").mkdir()
    lines = [photos / "img0.png", photos / "below" / "img0.png", "../photos/img1.png"]
    (tmp_path / "lists" / "some.txt").write_text("".join(f"{line}\n" for line in lines))
    predict(model, tmp_path / "lists" / "some.txt", tmp_path / "p.csv", sort=tmp_path / "sorted")
    found = set(files(tmp_path / "sorted"))
    assert found == {f"{label(0)}/img0.png", f"{label(0)}/img0-2.png", f"{label(1)}/img1.png", "sorted.csv"}


def test_a_sorting_that_was_killed_goes_on_and_can_be_undone(model, photos, tmp_path, monkeypatch):
    folder, made = tmp_path / "sorted", []

    def fail_at_the_fourth(file, target):
        made.append(target)
        if len(made) == 4:
            raise KeyboardInterrupt
        os.symlink(file, target)

    monkeypatch.setattr(sort, "_link", fail_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        predict(model, photos, tmp_path / "p.csv", sort=folder)
    monkeypatch.undo()
    assert len(files(folder)) == 4  # the list and three links
    predict(model, photos, tmp_path / "p.csv", sort=folder, resume=True)
    assert len(files(folder)) == 9
    predict(model, photos, tmp_path / "p.csv", sort=folder, resume=True)  # nothing is left to do
    assert unsort(folder) == []


def test_what_cannot_be_read_is_not_copied_and_the_rest_is(model, photos, tmp_path, capsys):
    lines = ["photos/img0.png", "photos", "photos/gone.png", "photos/broken.png"]
    (tmp_path / "some.txt").write_text("".join(f"{line}\n" for line in lines))
    predict(model, tmp_path / "some.txt", tmp_path / "p.csv", sort=tmp_path / "sorted", sort_as="copy")
    assert set(files(tmp_path / "sorted")) == {
        f"{label(0)}/photos/img0.png",
        "unreadable/photos/broken.png",
        "sorted.csv",
    }
    assert "sorted 2 photos into" in capsys.readouterr().out
    assert unsort(tmp_path / "sorted") == []


def test_a_full_disk_is_named_and_the_sorting_goes_on_when_there_is_room(model, photos, tmp_path, monkeypatch):
    def full(file, target):
        raise OSError(errno.ENOSPC, "No space left on device", file)

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted", sort_as="copy")
    assert caught.value.filename == str(tmp_path / "sorted" / label(0) / "below/img0.png")
    assert "the same command with --resume continues from there" in caught.value.__notes__[0]
    monkeypatch.undo()
    predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted", sort_as="copy", resume=True)
    assert len(files(tmp_path / "sorted")) == 9


def test_a_folder_that_holds_something_or_is_among_the_photos_is_refused(model, photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    for folder, message in [
        (tmp_path / "full", "is not empty: give a new folder, or `python -m export.unsort"),
        (tmp_path / "full" / "x", "is a file: give a folder"),
        (photos / "sorted", "where its links would be photos: give a folder outside"),
    ]:
        with pytest.raises((OSError, ValueError), match=message):
            predict(model, photos, tmp_path / "p.csv", sort=folder)
    with pytest.raises(ValueError, match="where its links would be photos: give a folder outside"):
        predict(model, photos / "**" / "*.png", tmp_path / "p.csv", sort=photos / "sorted")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    "classes", [["a/b", "c"], ["..", "c"], ["Unsure", "c"], ["cat", "Cat"], ["con:", "c"], ["sorted.csv", "c"]]
)
def test_a_class_whose_name_is_no_folders_is_refused_before_anything_is_written(classes, photos, tmp_path):
    model = tiny_onnx.write(tmp_path / "model.onnx", classes)
    with pytest.raises(ValueError, match="--sort: the (class|folder)"):
        predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted")
    assert not (tmp_path / "p.csv").exists()
    assert not (tmp_path / "sorted").exists()


def test_a_finished_run_that_did_not_sort_is_not_said_to_have(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv")
    with pytest.raises(ValueError, match="the run is finished, and did not sort its photos; leave out --resume"):
        predict(model, photos, tmp_path / "p.csv", sort=tmp_path / "sorted", resume=True)


@pytest.mark.parametrize("place", ["../outside", "/etc/passwd", "x", "a/../../b"])
def test_a_list_that_leads_out_of_its_folder_removes_nothing(place, tmp_path):
    folder = tmp_path / "sorted"
    folder.mkdir()
    with (folder / "sorted.csv").open("w", newline="") as file:
        csv.writer(file).writerows([sort.COLUMNS, [place, "/x", "a"]])
    with pytest.raises(ValueError, match="is not the list of a --sort: nothing is removed"):
        unsort(folder)


def test_the_command_says_what_to_give_if_there_is_no_list(tmp_path):
    command = [sys.executable, "-m", "export.unsort", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("no such file; give a folder that `export.predict --sort` made\n")


def test_a_name_that_ends_as_its_suffix_stays_whole(model, photos, tmp_path):
    (tmp_path / "named").mkdir()
    shutil.copy(photos / "img0.png", tmp_path / "named" / "b.png.png")
    predict(model, tmp_path / "named", tmp_path / "p.csv", sort=tmp_path / "sorted")
    assert set(files(tmp_path / "sorted")) == {f"{label(0)}/b.png.png", "sorted.csv"}
