"""export.explain: pictures, index.csv and index.html of photos, by the real command where it matters."""

import csv
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import forked
import numpy as np
import pytest
from PIL import Image

from export.explain import check_new, evenly, explain
from export.explanations.pictures import picture_files
from export.predictions.inputs import named_photos
from toolkit.data.on_disk.folds import ABOUT
from toolkit.files import write_json
from toolkit.run import load

LONG = "\u9577" * 83  # 249 bytes
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(digits_run, tmp_path_factory):
    "Twenty digits in two folders, one name in both, and a file that is no photo."
    folder = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(sorted(load(digits_run.folder).dataset().valid)[:20]):
        target = folder / f"part {number % 2}" / f"{number // 2}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(photo, target)
    (folder / "part 1" / "3.png").rename(folder / "part 1" / os.fsdecode(b"caf\xe9 #1.png"))  # not Unicode
    (folder / "part 1" / "4.png").rename(folder / "part 1" / f"{LONG}.png")
    (folder / "part 0" / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def done(digits_run, photos, tmp_path_factory):
    "The command, and the folder that it wrote."
    out = tmp_path_factory.mktemp("out") / "heatmaps"
    command = [sys.executable, "-m", "export.explain", digits_run.folder, photos, "--out", out, "--device", "cpu"]
    return forked.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT), out


def rows(out):
    with (out / "index.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_each_photo_has_a_picture_and_a_row_and_a_broken_one_an_empty_row_and_status_2(done, photos):
    result, out = done
    assert result.returncode == 2
    assert result.stdout == f"20 heatmaps of layer layer1 -> {out / 'index.html'}\n"
    broken = f"{photos / 'part 0' / 'broken.jpg'}: not a photo in a format that is read"
    assert result.stderr.startswith(broken)
    assert result.stderr.count("\n") == 1
    found = rows(out)
    assert [row["image_name"] for row in found] == [name for name, _ in named_photos(photos)]
    assert [row for row in found if not row["file"]] == [dict.fromkeys(found[0], "") | {"image_name": "part 0/broken"}]
    pictures = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.jpg"))
    assert pictures == sorted(row["file"] for row in found if row["file"])
    assert {"part 1/5.jpg", f"part 1/{LONG[:60]}.jpg"} < set(pictures)
    assert len(pictures) == 20
    links = re.findall('class="shot" href="([^"]*)"', (out / "index.html").read_text(encoding="utf-8"))
    assert "part%201/caf%E9%20%231.jpg" in links
    assert len(links) == 20
    assert all((out / os.fsdecode(unquote_to_bytes(link))).is_file() for link in links)
    with Image.open(out / "part 1/5.jpg") as picture:
        left, right = (np.asarray(picture)[60:370, at : at + 310].astype(float) for at in (14, 346))
    assert picture.format == "JPEG"
    assert np.ptp(left, axis=2).mean() < 5  # the digit is grey, its heatmap coloured
    assert np.ptp(right, axis=2).mean() > 20


def test_labels_and_confidences_are_those_of_the_run(done, digits_run, photos):
    import torch

    from export.reading.prepare import prepared

    model, recipe = digits_run.model(), digits_run.recipe
    for row in rows(done[1])[:5]:
        photo = torch.from_numpy(prepared(photos / f"{row['image_name']}.png", recipe["preprocess"]))
        with torch.no_grad():
            probabilities = model((photo.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5).softmax(1)[0]
        assert row["pred_label"] == row["explained"] == recipe["classes"][probabilities.argmax()]
        assert float(row["confidence"]) == pytest.approx(float(probabilities.max()), abs=1e-4)


def test_the_page_is_self_contained_and_names_what_was_not_read(done):
    page = (done[1] / "index.html").read_text()
    assert page.count('class="heat"') == 20
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert 'href="part%201/5.jpg"' in page
    assert "part 0/broken" in page


def test_another_class_is_explained_for_all(digits_run, photos, tmp_path):
    assert explain(digits_run.folder, str(photos / "part 1"), tmp_path / "out", label="3", limit=2, device="cpu") == []
    found = rows(tmp_path / "out")
    assert len(found) == 2
    assert {row["explained"] for row in found} == {"3"}
    other = next(row for row in found if row["pred_label"] != "3")
    assert float(other["probability"]) < float(other["confidence"])
    assert "Heatmaps for <bdi>3</bdi>" in (tmp_path / "out" / "index.html").read_text()


def test_wrong_input_is_refused_and_nothing_is_written(digits_run, photos, tmp_path):
    with pytest.raises(ValueError, match="--label cat: .* has no such class; give one of them, as 0, 1, 2 and 7 more"):
        explain(digits_run.folder, str(photos), tmp_path / "out", label="cat", device="cpu")
    with pytest.raises(ValueError, match="--limit 0: give 1 or more"):
        explain(digits_run.folder, str(photos), tmp_path / "out", limit=0)
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        explain(photos, str(photos), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        explain(digits_run.folder, str(photos / "gone"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(tmp_path):
    check_new(tmp_path / "new")
    check_new(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match=r"--out .* holds mine.txt: give a new or empty folder"):
        check_new(tmp_path)
    with pytest.raises(NotADirectoryError, match="mine.txt is a file: give a folder for the heatmaps"):
        check_new(tmp_path / "mine.txt")


def test_the_folder_of_folds_is_refused_with_one_of_them_named(tmp_path):
    write_json(tmp_path / ABOUT, {})
    with pytest.raises(ValueError, match=r"is of --folds, and each fold is a run: give .*fold-1"):
        explain(tmp_path, "photos", tmp_path / "out")


def test_a_limit_is_spread_evenly():
    photos = [(str(number), Path(str(number))) for number in range(10)]
    assert [name for name, _ in evenly(photos, 4)] == ["0", "3", "6", "9"]
    assert evenly(photos, 99) == evenly(photos, None) == photos


def test_no_name_leads_out_of_the_folder_and_none_is_taken_twice():
    names = ["a", "../a", "/etc/a", "etc/a", "b/../../c", "..", "a-2"]
    files = [file.as_posix() for file in picture_files(names)]
    assert files == ["a.jpg", "a-2.jpg", "etc/a.jpg", "etc/a-2.jpg", "b/c.jpg", "photo.jpg", "a-2-2.jpg"]


def test_no_picture_takes_the_place_of_a_folder_and_long_names_are_cut_apart():
    files = [file.as_posix() for file in picture_files(["a", "a.jpg/b", LONG + "1", LONG + "2"])]
    assert files == ["a-2.jpg", "a.jpg/b.jpg", f"{LONG[:60]}.jpg", f"{LONG[:60]}-2.jpg"]
