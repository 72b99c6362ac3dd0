"""Photos that a CSV lists are left out, and what it may look like."""

import pytest

from recipes import hw1
from toolkit.data.dataset import find_data, recorded_dataset
from toolkit.data.without import REASON, listed_files, without_listed
from toolkit.options import Options, check_paths


@pytest.fixture
def data(tmp_path):
    "Two classes of three training photos and one validation photo; nothing is decoded."
    for label in "ab":
        for file in (f"train/{label}/0.jpg", f"train/{label}/1.jpg", f"train/{label}/2.jpg", f"val/{label}/3.jpg"):
            (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / file).write_bytes(file.encode())
    return find_data(tmp_path / "data")


@pytest.mark.parametrize(
    "text",
    [
        "file\ntrain/a/1.jpg\nval/b/3.jpg\n",
        "train/a/1.jpg\nval/b/3.jpg\n",
        "label,file,finding\na,train/a/1.jpg,label\nb,val/b/3.jpg,leak\nb,val/b/3.jpg,odd\n",
        "\ufefffile,score\r\ntrain/a/1.jpg,0.9\r\nval/b/3.jpg,0.8\r\n",  # saved by a spreadsheet
    ],
)
def test_photos_of_the_column_file_or_of_the_only_column_are_left_out(data, tmp_path, text):
    table = tmp_path / "doubts.csv"
    table.write_text(text, encoding="utf-8", newline="")
    left = without_listed(data, table)
    assert [left.relative(photo) for photo in left.train] == [
        f"train/{name}.jpg" for name in ("a/0", "a/2", "b/0", "b/1", "b/2")
    ]
    assert [left.relative(photo) for photo in left.valid] == ["val/a/3.jpg"]
    assert {left.relative(photo): reason for photo, reason in left.left_out.items()} == {
        "train/a/1.jpg": REASON,
        "val/b/3.jpg": REASON,
    }
    assert left.fingerprint != data.fingerprint


def test_an_empty_table_leaves_nothing_out(data, tmp_path):
    (tmp_path / "doubts.csv").write_text("file,split\n")
    assert without_listed(data, tmp_path / "doubts.csv") is data


def test_what_is_no_such_table_or_photo_is_refused(data, tmp_path):
    table = tmp_path / "doubts.csv"
    with pytest.raises(FileNotFoundError, match=r"--without .*doubts\.csv: no such file; it takes a CSV"):
        listed_files(table)
    with pytest.raises(FileNotFoundError, match=r"--without .*doubts\.csv: no such file; it takes a CSV"):
        check_paths(Options(data=data.path, weights="none", without=table))
    table.write_text("photo,label\ntrain/a/1.jpg,a\n")
    with pytest.raises(ValueError, match="has the columns 'photo', 'label': one must be 'file'"):
        listed_files(table)
    table.write_text('file\n"train/a/1.jpg\n')
    with pytest.raises(ValueError, match="is not a CSV"):
        listed_files(table)
    table.write_text("file\ntrain/a/9.jpg\ntrain/a/1.jpg\n")
    with pytest.raises(ValueError, match="1 of 2 names are no photo.*: 'train/a/9.jpg'; .* such as 'train/a/0.jpg'"):
        without_listed(data, table)
    table.write_text("file\ntrain/a/0.jpg\ntrain/a/1.jpg\ntrain/a/2.jpg\n")
    with pytest.raises(ValueError, match="no photo of class a is left to train on"):
        without_listed(data, table)


def test_a_run_records_them_and_finds_the_same_photos_again(digits_data, tmp_path):
    from toolkit.training.begin import recorded

    data = find_data(digits_data)
    names = [data.relative(photo) for photo in (*list(data.train)[:3], next(iter(data.valid)))]
    (tmp_path / "doubts.csv").write_text("\n".join(["file", *names]) + "\n")
    learn = hw1.learner(
        digits_data,
        arch="test_resnet",
        weights="none",
        image_size=32,
        bs=64,
        device="cpu",
        workers=0,
        precision="fp32",
        without=tmp_path / "doubts.csv",
    )
    assert len(learn.dls.train_ds) == len(data.train) - 3
    assert len(learn.dls.valid_ds) == len(data.valid) - 1
    recipe = recorded(learn)
    assert recipe["options"]["without"] == str(tmp_path / "doubts.csv")
    assert recipe["data"]["left_out"] == dict.fromkeys(names, REASON)
    (tmp_path / "doubts.csv").unlink()
    again, fault = recorded_dataset(recipe)
    assert fault is None
    assert list(again.train) == list(learn.dls.data.train)


@pytest.fixture(scope="module")
def digits_data(tmp_path_factory):
    from recipes import digits

    folder = tmp_path_factory.mktemp("digits") / "data"
    digits.learner(folder, device="cpu")
    return folder
