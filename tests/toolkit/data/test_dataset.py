"""Data sets are found in folders and CSVs, in natural order, and each fault in one is named."""

import csv
import re
import shutil

import cv2
import numpy as np
import pytest
from here import here

from recipes import rapid
from toolkit.data.dataset import find_data, recorded_dataset
from toolkit.data.on_disk.layouts import check_outside_data, labelled_photos


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    return folder


@pytest.fixture
def homework(tmp_path):
    "Twelve classes named by numbers, two photos each to train and one to validate; a flat test folder."
    for label in range(12):
        put(tmp_path, f"train/{label}/a10.png", f"train/{label}/a2.png", f"val/{label}/v.png")
    return put(tmp_path, "test/t10.png", "test/t9.png")


def test_numeric_class_folders_sort_as_text(homework):
    assert find_data(homework).classes == ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]


def test_files_are_in_natural_order(homework):
    data = find_data(homework)
    assert [data.relative(path) for path in data.train][:4] == [f"train/{k}/a{n}.png" for k in (0, 1) for n in (2, 10)]
    assert list(data.test) == ["t9.png", "t10.png"]


def test_photos_that_are_held_out_are_not_trained_on_and_change_the_fingerprint(homework):
    data = find_data(homework)
    photos = [path for path in data.train if path.name == "a2.png"]
    part = data.holding_out(set(photos))
    assert part.held_out == {path: data.train[path] for path in photos}
    assert [path.name for path in part.train] == ["a10.png"] * 12
    assert (part.valid, part.test, part.counts) == (data.valid, data.test, dict.fromkeys(data.classes, 1))
    others = data.holding_out({path for path in data.train if path not in photos})
    assert len({data.fingerprint, part.fingerprint, others.fingerprint}) == 3
    recorded = {"path": str(homework), "fingerprint": part.fingerprint, "held_out": [*map(data.relative, photos)]}
    assert recorded_dataset({"data": recorded, "options": {"seed": 0}}) == (part, None)
    with pytest.raises(ValueError, match="no photo of class 0 is left to train on in .* \\(1 such\\)"):
        part.holding_out({next(iter(part.train))})


def test_valid_is_another_name_for_val(homework):
    (homework / "val").rename(homework / "valid")
    assert len(find_data(homework).valid) == 12


def test_a_folder_of_classes_is_split_by_the_seed_a_fifth_of_each_class(tmp_path):
    put(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(20)))
    first, again, other = find_data(tmp_path, 0), find_data(tmp_path, 0), find_data(tmp_path, 1)
    for label in "ab":
        assert list(first.valid.values()).count(label) == 4
    assert not first.train.keys() & first.valid.keys()
    assert len(first.train) + len(first.valid) == 40
    assert first == again
    assert first.valid != other.valid


def write_csv(path, header, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_csv_names_paths_labels_and_splits(tmp_path):
    put(tmp_path, "x/1.png", "x/2.png", "x/3.png", "x/4.png")
    rows = [["x/1.png", "a,b", "train"], ["x/2.png", "ä", "train"], ["x/3.png", "ä", "val"], ["x/4.png", "", "test"]]
    data = find_data(write_csv(tmp_path / "d.csv", ["path", "label", "split"], *rows))
    assert data.train == {tmp_path / "x/1.png": "a,b", tmp_path / "x/2.png": "ä"}
    assert data.valid == {tmp_path / "x/3.png": "ä"}
    assert data.test == {"x/4.png": tmp_path / "x/4.png"}


def test_a_csv_without_splits_is_split_by_the_seed(tmp_path):
    put(tmp_path, *(f"{label}{number}.png" for label in "ab" for number in range(10)))
    rows = [[f"{label}{number}.png", label] for label in "ab" for number in range(10)]
    data = find_data(write_csv(tmp_path / "d.csv", ["path", "label"], *rows))
    assert sorted(data.valid.values()) == ["a"] * 2 + ["b"] * 2


def test_the_fingerprint_depends_on_labels_files_and_sizes_but_not_on_the_folder(homework, tmp_path):
    before = find_data(homework).fingerprint
    shutil.copytree(homework, tmp_path / "copy")
    copied = find_data(tmp_path / "copy")
    assert copied.fingerprint == before
    (tmp_path / "copy/train/0/a2.png").rename(tmp_path / "copy/train/1/b.png")
    assert find_data(tmp_path / "copy").fingerprint != before
    (homework / "train/0/a2.png").write_bytes(b"other")
    assert find_data(homework).fingerprint != before


def test_photos_to_predict_that_are_added_later_change_what_was_checked_but_not_what_was_trained_on(homework):
    before = find_data(homework)
    put(homework, "test/t11.png")
    after = find_data(homework)
    assert after.fingerprint == before.fingerprint
    assert after.fingerprints[1] != before.fingerprints[1]
    assert before.is_recorded(before.fingerprints[1])  # by an older run
    assert not after.is_recorded(before.fingerprints[1])


def test_hidden_files_and_other_files_are_no_photos(homework):
    (homework / "train/0/notes.txt").write_text("x")
    (homework / "train/.ipynb_checkpoints").mkdir()
    put(homework, "train/0/.hidden.png")
    assert len(find_data(homework).train) == 24


def test_a_class_may_be_named_train(tmp_path):
    for name in ("car", "plane", "train"):
        put(tmp_path / "data", *(f"{name}/{number}.png" for number in range(5)))
    data = find_data(tmp_path / "data")
    assert data.classes == ["car", "plane", "train"]
    assert (len(data.train), len(data.valid)) == (12, 3)
    assert len(labelled_photos(tmp_path / "data")) == 15
    with pytest.raises(ValueError, match="where photos are looked for"):
        check_outside_data(tmp_path / "data", {"--out": tmp_path / "data/car/run"})


@pytest.mark.parametrize("other", ["val", "test"])
def test_photos_beside_the_class_folders_of_train_do_not_make_it_a_class(tmp_path, other):
    put(tmp_path, "train/cat/1.png", "train/1.png", f"{other}/cat/2.png")
    with pytest.raises(ValueError, match="train/ but neither val/ nor valid/|1 photos lie in .*train itself"):
        find_data(tmp_path)


FAULTS = {
    "missing": (lambda d: shutil.rmtree(d), FileNotFoundError, "does not exist: give a folder"),
    "empty": (lambda d: [shutil.rmtree(p) for p in d.iterdir()], ValueError, "no photos in class folders"),
    "no val": (lambda d: shutil.rmtree(d / "val"), ValueError, "train/ but neither val/ nor valid/"),
    "val and valid": (lambda d: (d / "valid").mkdir(), ValueError, "both val/ and valid/"),
    "no photos to validate": (
        lambda d: [p.unlink() for p in (d / "val").glob("*/*")],
        ValueError,
        "no photos to validate on",
    ),
    "unknown class": (lambda d: put(d, "val/zebra/1.png"), ValueError, "class zebra is in the validation set"),
    "loose photo": (lambda d: put(d, "train/1.png"), ValueError, "1 photos lie in .*train itself"),
    "empty class": (lambda d: (d / "train/13").mkdir(), ValueError, "no photos in .*/train/13: remove empty class"),
    "empty classes": (
        lambda d: [(d / "train" / name).mkdir() for name in "wxyz"],
        ValueError,
        "no photos in .*/train/w, .*/train/x, .*/train/y and 1 more: remove empty class folders, or fill them",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_folders_is_named(homework, fault):
    break_it, kind, message = FAULTS[fault]
    break_it(homework)
    with pytest.raises(kind, match=message):
        find_data(homework)


def test_one_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has one class, a"):
        find_data(put(tmp_path, "a/1.png", "a/2.png", "a/3.png"))


def test_a_class_of_one_photo_is_refused_if_the_split_is_drawn(tmp_path):
    with pytest.raises(ValueError, match="class b has 1 photo"):
        find_data(put(tmp_path, "a/1.png", "a/2.png", "b/1.png"))


CSV_FAULTS = [
    (["file", "label"], [], "has columns file, label: it takes path,label"),
    (["path", "label", "split"], [["1.png", "a", "dev"]], "line 2: split 'dev'"),
    (["path", "label"], [["1.png", "a"], ["", "a"]], "line 3: the path is empty"),
    (["path", "label"], [["1.png", ""]], "line 2: the label is empty"),
    (["path", "label"], [["9.png", "a"]], "line 2: no file .*9.png"),
    (["path", "label"], [["1.png", "a"], ["1.png", "b"]], "line 3: 1.png stands in it twice"),
    (["path", "label"], [["1.png", "a"], ["x/../1.png", "b"]], "line 3: x/../1.png stands in it twice"),
    (
        ["path", "label"],
        [["1.png", "a", ""], ["x/2.png", "b", " big"]],
        "line 3: 3 values for 2 columns; a value with a",
    ),
    (["path", "label"], [["1.png", "a"], [], [], ["1.png", "b"]], "line 5: 1.png stands in it twice"),
]


@pytest.mark.parametrize(("header", "rows", "message"), CSV_FAULTS)
def test_a_fault_in_a_csv_is_named_with_its_line(tmp_path, header, rows, message):
    put(tmp_path, "1.png", "x/2.png")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_data(write_csv(tmp_path / "d.csv", header, *rows))


@pytest.mark.parametrize(
    ("lines", "line"),
    [('1.png,"cat\n2.png,dog\n3.png,dog\n', 2), ('1.png,cat\n2.png,"dog" \n', 3)],  # never closed; a space after it
)
def test_a_quote_that_stands_open_swallows_no_rows(tmp_path, lines, line):
    for number in (1, 2, 3):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "d.csv").write_text("path,label\n" + lines)
    with pytest.raises(ValueError, match=rf"d.csv, line {line} begins no row of a CSV \(.*\): is a quote open\?"):
        find_data(tmp_path / "d.csv")


def test_a_file_that_is_no_csv_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x81" * 9)
    with pytest.raises(ValueError, match="not a CSV .*: give a folder, a CSV .*; unpack other archives"):
        find_data(tmp_path / "x.csv")


@pytest.mark.parametrize("folder", ["test/", ""])
def test_labels_by_name_are_those_of_photos_in_test_or_beside_the_csv(tmp_path, folder):
    put(tmp_path, *(folder + name for name in ("a.png", "b.png", "b.jpg", "x/10.png", "x/9.png", "unlabelled.png")))
    rows = [["x/10", "two"], ["b.jpg", "one"], ["x/9.png", "one"], ["b.png", "two"], ["a", "two"], ["a.png", "two"]]
    found = labelled_photos(write_csv(tmp_path / "labels.csv", ["image_name", "label"], *rows))
    assert [(path.relative_to(tmp_path / folder).as_posix(), label) for path, label in found.items()] == [
        ("a.png", "two"),
        ("b.jpg", "one"),
        ("b.png", "two"),
        ("x/9.png", "one"),
        ("x/10.png", "two"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "one"], ["c", "one"]], "line 3: c is no photo in .*test"),
        ([["b", "one"]], "line 2: b may be .*b.jpg, .*b.png: give its suffix"),
        ([["a", "one"], ["a.png", "two"]], "line 3: a.png stands in it twice, with another label"),
        ([["a", ""]], "line 2: the label is empty"),
        ([["", "one"]], "line 2: the image_name is empty"),
        ([["a", "one", "two"]], "line 2: 3 values for 2 columns"),
        ([], "no labelled photos"),
    ],
)
def test_a_fault_in_labels_by_name_is_named_with_its_line(tmp_path, rows, message):
    put(tmp_path, "test/a.png", "test/b.png", "test/b.jpg")
    with pytest.raises(ValueError, match=message):
        labelled_photos(write_csv(tmp_path / "labels.csv", ["image_name", "label"], *rows))


def test_photos_left_out_are_in_no_split_and_named_with_the_reason(homework):
    data = find_data(homework)
    gone = {homework / "train/3/a2.png": "cut short", homework / "val/3/v.png": "empty", homework / "test/t9.png": "?"}
    left = data.without(gone)
    assert (len(left.train), len(left.valid), list(left.test)) == (23, 11, ["t10.png"])
    assert left.left_out == gone
    assert data.left_out == {}
    assert left.counts["3"] == 1
    more = left.without({homework / "train/4/a2.png": "empty"})
    assert len(more.left_out) == 4
    for path in gone:
        path.unlink()
    (homework / "val/3").rmdir()
    assert left.fingerprint == find_data(homework).fingerprint


def test_leaving_out_a_whole_class_or_the_whole_validation_set_is_refused(homework):
    data = find_data(homework)
    with pytest.raises(ValueError, match=r"no photo of class 3 is left to train on in .* \(1 such\)"):
        data.without({path: "" for path, label in data.train.items() if label == "3"})
    with pytest.raises(ValueError, match="no photos to validate on"):
        data.without(dict.fromkeys(data.valid, ""))
    with pytest.raises(ValueError, match="no photos to train on"):
        data.without(dict.fromkeys(data.train, ""))


@pytest.mark.parametrize("output", ["train/runs", "train", "train/1/run", "val/x", "valid/x", "test", "linked/x"])
def test_an_output_folder_among_the_photos_is_refused(homework, output, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (homework / "train" / "13").symlink_to(elsewhere)
    output = elsewhere / "x" if output == "linked/x" else homework / output
    with pytest.raises(ValueError, match=r"^--out .*, where photos are looked for, .*: give --out a folder outside"):
        check_outside_data(homework, {"--cache": None, "--out": output})


def test_an_output_folder_beside_the_photos_is_accepted(homework, tmp_path_factory):
    for output in ("runs/x", "trained", "train/.cache/x", "train/1/.x", "../x"):
        check_outside_data(homework, {"--out": homework / output})
    classes = put(tmp_path_factory.mktemp("classes"), "a/1.png", "b/1.png")
    check_outside_data(
        write_csv(classes / "photos.csv", ["path", "label"], ["a/1.png", "a"]), {"--out": classes / "runs"}
    )
    check_outside_data(classes, {"--out": classes / ".runs"})
    with pytest.raises(ValueError, match="where photos are looked for"):
        check_outside_data(classes, {"--out": classes / "runs"})


@pytest.mark.parametrize("option", ["--out", "--cache", "--log wandb"])
def test_a_recipe_started_among_the_photos_writes_nothing_there(option, tmp_path, monkeypatch, capfd):
    "`cd photos; python -m recipes.rapid --data .`: runs/ would be a class, its pictures photos of it."
    photos = put(tmp_path / "photos", *(f"{label}/{number}.png" for label in "ab" for number in range(5)))
    monkeypatch.chdir(photos)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    given = {"--out": [], "--cache": ["--out", "../run", "--cache", "c"]}
    given["--log wandb"] = ["--out", "../run", "--log", "wandb"]
    assert here("--data", ".", "--arch", "test_resnet", "--weights", "none", *given[option], recipe=rapid) == 2
    assert re.match(rf"error: {option} \S+ lies in \., where photos are looked for", capfd.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    assert sorted(path.name for path in photos.iterdir()) == ["a", "b"]
