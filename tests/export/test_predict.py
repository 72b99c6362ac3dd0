"""predictions.csv, against numpy by hand; most of it by the real command."""

import contextlib
import os
import pty
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import tiny_onnx
from PIL import Image
from predicting import ROOT, label, rows, run, save

from export.predict import predict
from export.predictions.inputs import named_photos
from export.reading import prepare
from export.runtime import providers

no_gpu = pytest.mark.skipif(providers.gpus() > 0, reason="a GPU is here")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


def names(images) -> list[str]:
    return [name for name, _ in named_photos(images)]


# The command


def test_a_folder_becomes_a_csv_in_natural_order_with_class_names(model, tmp_path):
    for seed in range(17):
        save(tmp_path / "photos" / f"img{seed}.png", seed)
    done = run(model, tmp_path / "photos", "--out", tmp_path / "out" / "p.csv", "--device", "cpu", "--bs", 8)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [["image_name", "pred_label"]] + [[f"img{seed}", label(seed)] for seed in range(17)]
    assert rows(tmp_path / "out" / "p.csv") == expected
    # index 2 is the class "10": carrying the index, or the index's text, would be seen
    assert any(str(tiny_onnx.NUMERIC.index(label(seed))) != label(seed) for seed in range(17))
    (line,) = done.stdout.splitlines()
    assert line.startswith("17 images in ")
    assert line.endswith(f" a second on cpu -> {tmp_path / 'out' / 'p.csv'}")
    assert sorted(os.listdir(tmp_path / "out")) == [".p.csv.asked", "p.csv"]


def test_probabilities_add_confidence_and_a_column_a_class(model, tmp_path):
    save(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "b.png").write_bytes(b"no photo")
    predict(model, tmp_path / "photos", tmp_path / "p.csv", device="cpu", probabilities=True)
    header, first, second = rows(tmp_path / "p.csv")
    assert header == ["image_name", "pred_label", "confidence", *tiny_onnx.NUMERIC]
    expected = tiny_onnx.expected(tiny_onnx.photo(1))[1]
    assert first[:2] == ["a", label(1)]
    np.testing.assert_allclose([float(cell) for cell in first[2:]], [expected.max(), *expected], rtol=1e-5, atol=1e-9)
    assert second == ["b", ""] + [""] * 13


def test_an_unreadable_photo_keeps_its_row_is_listed_and_makes_status_2(model, tmp_path):
    photos = tmp_path / "photos"
    for seed in range(9):
        save(photos / f"{seed}.png", seed)
    (photos / "3.png").write_bytes(b"no photo")
    done = run(model, photos, "--out", tmp_path / "p.csv", "--device", "cpu", "--bs", 4)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    expected = [[str(seed), "" if seed == 3 else label(seed)] for seed in range(9)]
    assert rows(tmp_path / "p.csv")[1:] == expected
    assert done.stderr.startswith(f"{photos / '3.png'}: not a ")
    assert done.stderr.splitlines()[1:] == [f"not read: 1; which and why: {tmp_path / 'p.errors.csv'}"]
    header, error = rows(tmp_path / "p.errors.csv")
    assert header == ["image_name", "file", "reason"]
    assert error[:2] == ["3", str(photos / "3.png")]
    assert error[2].startswith("not a ")

    done = run(model, photos, "--out", tmp_path / "p.csv", "--fallback", "7", "--device", "cpu", "--bs", 4)
    assert done.returncode == 2
    assert rows(tmp_path / "p.csv")[4] == ["3", "7"]

    save(photos / "3.png", 3)
    assert run(model, photos, "--out", tmp_path / "p.csv", "--device", "cpu").returncode == 0
    assert not (tmp_path / "p.errors.csv").exists(), "an earlier run's errors outlive it"


def test_a_folder_of_unreadable_photos_alone_keeps_every_row(model, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(b"")
    unread = predict(model, tmp_path / "photos", tmp_path / "p.csv", device="cpu", bs=2)
    assert [name for name, _, _ in unread] == ["0", "1", "2", "3", "4"]
    assert rows(tmp_path / "p.csv")[1:] == [[str(number), ""] for number in range(5)]


def test_odd_files_become_rows_whatever_they_hold(model, odd, tmp_path):
    unread = predict(model, odd, tmp_path / "p.csv", device="cpu")
    written = rows(tmp_path / "p.csv")[1:]
    assert len(written) == len(named_photos(odd)) > 200
    assert [name for name, answer in written if not answer] == [name for name, _, _ in unread]
    assert len(unread) < len(written) / 2


def test_the_same_rows_whatever_the_batch_and_the_workers(model, tmp_path):
    for seed in range(23):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    for bs, workers in ((1, 0), (8, 1), (8, 5), (100, 3)):
        predict(model, tmp_path / "photos", tmp_path / "p.csv", device="cpu", bs=bs, workers=workers)
        assert rows(tmp_path / "p.csv")[1:] == [[str(seed), label(seed)] for seed in range(23)]


def test_no_photo_is_lost_doubled_or_out_of_order_whatever_reading_does(model, tmp_path, monkeypatch):
    images = {f"{n}.png": save(tmp_path / "photos" / f"{n % 30}.png", n % 30) for n in range(400)}
    chance, file_bytes = random.Random(0), prepare.file_bytes
    faults = {
        number: chance.choice([OSError(5, "Input/output error"), ValueError("torn")]) for number in range(0, 30, 7)
    }

    def unreliable(path):
        time.sleep(chance.expovariate(1000))
        if error := faults.get(int(path.stem)):
            raise error
        return file_bytes(path)

    monkeypatch.setattr(prepare, "file_bytes", unreliable)
    expected = [[str(n), "" if n % 30 in faults else label(n % 30)] for n in range(400)]
    for workers, bs in ((1, 7), (16, 1), (16, 32), (64, 13)):
        unread = predict(model, images, tmp_path / "p.csv", "cpu", bs, workers)
        assert rows(tmp_path / "p.csv")[1:] == expected
        assert [name for name, _, _ in unread] == [name for name, answer in expected if not answer]


def test_a_folder_that_goes_halfway_keeps_every_row(model, tmp_path, monkeypatch):
    for seed in range(20):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    file_bytes = prepare.file_bytes

    def read_and_take_away(path):
        if path.name == "9.png":
            shutil.rmtree(path.parent)
        return file_bytes(path)

    monkeypatch.setattr(prepare, "file_bytes", read_and_take_away)
    unread = predict(model, tmp_path / "photos", tmp_path / "p.csv", "cpu", bs=4, workers=0)
    assert rows(tmp_path / "p.csv")[1:] == [[str(seed), label(seed) if seed < 9 else ""] for seed in range(20)]
    assert unread[0] == ("9", tmp_path / "photos" / "9.png", "no such file")
    assert len(unread) == 11


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's peak of memory")
def test_memory_is_that_of_a_few_batches_however_many_photos(tmp_path):
    model, peaks = tiny_onnx.write(tmp_path / "model.onnx", classes=[str(n) for n in range(600)]), {}
    for count in (500, 5000):
        first = save(tmp_path / str(count) / "0.png", 0)
        for number in range(1, count):
            os.link(first, first.with_name(f"{number}.png"))
        code = f"""
from pathlib import Path
from export.predict import predict
predict({str(model)!r}, {str(first.parent)!r}, {str(tmp_path / f"{count}.csv")!r}, "cpu", probabilities=True)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        peaks[count] = int(done.stdout.split()[-1]) / 1024
    assert len(rows(tmp_path / "5000.csv")) == 5001
    # a photo more is a path more, about 1 kB; its pixels or its probabilities, 2.4 kB each, would make 11 MB
    assert peaks[5000] - peaks[500] < 8, peaks


# Names


def test_names_are_relative_without_suffix_in_natural_order(tmp_path):
    for path in ("b/img10.png", "b/img2.png", "b/img.png", "a10/x.jpg", "a9/x.jpg", "img.v1.png"):
        save(tmp_path / path, 0)
    assert names(tmp_path) == ["a9/x", "a10/x", "b/img", "b/img2", "b/img10", "img.v1"]


def test_names_that_would_collide_keep_their_suffix(tmp_path):
    for path in ("a.jpg", "a.png", "b.jpg", "in/a.jpg", "c.jpg", "c.png", "c.jpg.png", "d.jpg", "d.JPG"):
        save(tmp_path / path, 0)
    assert set(names(tmp_path)) == {
        *("a.jpg", "a.png", "b", "in/a", "c.jpg", "c.png", "d.jpg", "d.JPG"),
        "c.jpg.png",  # without its suffix it would be c.jpg, which c.jpg has become
    }


def test_photos_of_a_format_that_is_not_read_are_told_and_other_files_are_not(tmp_path, capsys):
    save(tmp_path / "photos/a.png", 0)
    for name in ("b.HEIC", "c.heic", "labels.csv", ".hidden.heic", "d"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    (tmp_path / "photos/e.jpg").symlink_to("nowhere.jpg")
    assert [name for name, _ in named_photos(tmp_path / "photos")] == ["a"]
    said = f"{tmp_path / 'photos'}: files in it that are not read: .heic: 2, no suffix: 1, broken link: 1\n"
    assert capsys.readouterr().err == said


def test_one_photo_is_named_by_itself(model, tmp_path):
    save(tmp_path / "deep" / "cat.png", 4)
    done = run(model, tmp_path / "deep" / "cat.png", "--out", tmp_path / "p.csv", "--device", "cpu")
    assert done.returncode == 0
    assert rows(tmp_path / "p.csv")[1:] == [["cat", label(4)]]


def test_a_glob_is_named_below_its_fixed_part(tmp_path):
    for path in ("x/one/front1.png", "x/two/front10.png", "x/two/front2.png", "x/two/back.png", "x/deep/er/front3.png"):
        save(tmp_path / path, 0)
    (tmp_path / "x" / "one" / "front.txt").write_text("no photo")
    (tmp_path / "x" / "two" / "front.png").mkdir()
    assert names(tmp_path / "x" / "*" / "front*") == ["one/front1", "two/front2", "two/front10"]
    assert names(tmp_path / "x" / "**" / "front*") == ["deep/er/front3", "one/front1", "two/front2", "two/front10"]
    with contextlib.chdir(tmp_path / "x" / "two"):
        assert names("front*.png") == ["front2", "front10"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    save(tmp_path / "a[1].png", 0)
    save(tmp_path / "a1.png", 0)
    assert named_photos(tmp_path / "a[1].png") == [("a[1]", tmp_path / "a[1].png")]


def test_a_text_file_lists_paths_relative_to_its_own_folder(model, tmp_path):
    save(tmp_path / "lists" / "photos" / "b.png", 1)
    save(tmp_path / "lists" / "a.png", 2)
    save(tmp_path / "elsewhere" / "c.png", 3)
    save(tmp_path / "gone.png", 4)  # where the command runs: not where the list means
    absolute = tmp_path / "elsewhere" / "c.png"
    lines = ["photos/b.png", "./a.png", "", "a.png", str(absolute), "../elsewhere/c.png", "gone.png", "photos"]
    (tmp_path / "lists" / "list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    done = run(model, "lists/list.txt", "--out", "p.csv", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert dict(rows(tmp_path / "p.csv")[1:]) == {
        "photos/b": label(1),
        "a": label(2),
        str(absolute.with_suffix("")): label(3),
        "../elsewhere/c": label(3),
        "gone": "",
        "photos": "",
    }
    assert "lists/gone.png: no such file" in done.stderr


HOSTILE = ["a,b", 'quo"te', "new\nline", "carriage\rreturn", "=1+1", "ünï ☃", "  space ", "<b>", "'", "a;b\tc"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_any_file_and_class_name_comes_back_from_the_csv(tmp_path):
    classes = [*HOSTILE, "other", "ano\rther"]
    model = tiny_onnx.write(tmp_path / "model.onnx", classes=classes)
    for seed, name in enumerate(HOSTILE):
        save(tmp_path / "photos" / f"{name}.png", seed)
    done = run(model, tmp_path / "photos", "--out", tmp_path / "p.csv", "--device", "cpu", "--bs", 4)
    assert (done.returncode, done.stderr) == (0, "")
    expected = {name: tiny_onnx.expected(tiny_onnx.photo(seed), classes)[0] for seed, name in enumerate(HOSTILE)}
    assert dict(rows(tmp_path / "p.csv")[1:]) == expected
    frame = pandas.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert dict(zip(frame["image_name"], frame["pred_label"], strict=True)) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names outside of Unicode")
def test_a_name_that_is_not_utf8_keeps_its_bytes(model, tmp_path):
    save(tmp_path / "photos" / "a.png", 5).rename(tmp_path / "photos" / os.fsdecode(b"caf\xe9.png"))
    done = run(model, tmp_path / "photos", "--out", tmp_path / "p.csv", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert b"caf\xe9," + label(5).encode() in (tmp_path / "p.csv").read_bytes()


# What the user gave is wrong


@pytest.fixture
def photos(tmp_path):
    save(tmp_path / "photos" / "a.png", 0)
    (tmp_path / "p.csv").write_text("earlier")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("<html>")
    (tmp_path / "w.safetensors").write_text("no model")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png")
    (tmp_path / "wide.txt").write_bytes("photos/a.png\n".encode("utf-16-le"))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{model} empty", "error: empty: no images found in it"),
        ("{model} nowhere", "error: nowhere: no such file or folder; give a folder, a photo, a quoted glob or a .txt"),
        ("{model} photos/*.jpg", "error: photos/*.jpg: no images found in it"),
        ("{model} blank.txt", "error: blank.txt: no images found in it"),
        ("{model} latin.txt", "error: latin.txt is not UTF-8 text"),
        ("{model} wide.txt", "error: wide.txt holds NUL bytes, as UTF-16 does: save it as UTF-8, one path a line"),
        ("gone.onnx photos", "error: gone.onnx: no such file; give a model.onnx"),
        ("{model} photos/a.png photos", "error: photos/a.png stands where a model.onnx is expected: quote a glob of"),
        (
            "w.safetensors photos",
            "error: w.safetensors stands where a model.onnx is expected: give the run's",
        ),
        ("text.onnx photos", "error: text.onnx is not a model that onnxruntime can load on cpu"),
        ("photos photos", "error: photos is a folder: give the model file"),
        ("{model} photos --bs 0", "error: --bs 0: give auto, or how many images a batch has, at least 1"),
        ("{model} photos --bs 999999999999", "error: --bs 999999999999: the images of "),
        ("{model} photos --bs 1000000000000000000000", "error: --bs 1000000000000000000000: the images of "),
        ("{model} photos --bs many", "error: argument --bs: invalid int or auto value: 'many'"),
        ("{model} photos --workers -1", "error: --workers -1: give 0 threads, for none beside the main one, or more"),
        ("{model} photos --device gpu", "error: argument --device: invalid choice: 'gpu'"),
        ("{model} photos --workres 2", "error: unknown flag --workres, the nearest is --workers"),
        ("{model}", "error: the following arguments are required: images"),
        pytest.param(
            "{model} photos --device cuda", "error: device cuda is not to be had: no NVIDIA GPU", marks=no_gpu
        ),
        pytest.param("{model} photos --device tensorrt", "error: device tensorrt is not to be had", marks=no_gpu),
    ],
)
def test_a_wrong_argument_is_an_error_and_the_earlier_file_stays(model, photos, arguments, message):
    arguments = arguments.format(model=model).split()
    if "--device" not in arguments:
        arguments += ["--device", "cpu"]
    done = run(*arguments, "--out", "p.csv", cwd=photos)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) <= 2
    assert (photos / "p.csv").read_text() == "earlier"
    assert not list(photos.glob(".p.csv*"))


def test_out_is_neither_a_folder_nor_a_file_that_is_read(model, photos):
    (photos / "list.txt").write_text("photos/a.png")
    with pytest.raises(IsADirectoryError, match=r"is a folder: give the file, as in .*empty/predictions.csv"):
        predict(model, photos / "photos", photos / "empty")
    with pytest.raises(FileExistsError, match=r"list.txt is what is being read: give another file"):
        predict(model, photos / "list.txt", photos / "list.txt")


def test_a_photo_that_a_list_names_twice_has_one_row_and_is_told(model, tmp_path, capsys):
    save(tmp_path / "photos" / "a.png", 0)
    (tmp_path / "list.txt").write_text("photos/a.png\nphotos/./a.png\n")
    predict(model, tmp_path / "list.txt", tmp_path / "p.csv", "cpu")
    assert rows(tmp_path / "p.csv")[1:] == [["photos/a", label(0)]]
    assert (
        f"{tmp_path / 'list.txt'}: a photo that is named twice has one row; lines left out: 1\n"
        in capsys.readouterr().err
    )


def test_an_archive_is_no_photo(model, tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="photos.zip is an archive: unpack it, and give the folder"):
        predict(model, tmp_path / "photos.zip", tmp_path / "p.csv", "cpu")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes among its files")
@pytest.mark.parametrize("place", ["p.fifo", "p.fifo.partial", "p.fifo.errors.csv", "p.fifo.zip"])
def test_a_pipe_under_the_name_of_any_output_file_is_refused_and_stays(model, photos, place):
    os.mkfifo(photos / place)
    words = ["--out", photos / "p.fifo", "--format", "csv", "--device", "cpu", "--zip"]
    done = run(model, photos / "photos", *words, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {photos / place} is no regular file, and would be replaced by one: give another name\n"
    )
    assert (photos / place).is_fifo()
    assert {path.name for path in photos.glob("*p.*")} == {place, "p.csv"}


def test_through_a_link_its_target_is_written_and_half_written_files_there_are_removed(model, photos):
    (photos / "there").mkdir()
    (photos / "there" / ".t.csv.abcd1234").write_text("half")
    (photos / "link.csv").symlink_to("there/t.csv")
    predict(model, photos / "photos", photos / "link.csv", device="cpu")
    assert (photos / "link.csv").is_symlink()
    assert rows(photos / "there" / "t.csv")[1:] == [["a", label(0)]]
    assert os.listdir(photos / "there") == ["t.csv"]


@pytest.mark.parametrize(
    ("images", "out"),
    [
        ("photos", "photos/a.png"),
        ("photos/a.png", "photos/a.png"),
        ("list.txt", "odd name.dat"),
        ("list.txt", "link.csv"),
        ("list.txt", "other"),  # with other.errors.csv beside it
        ("list.txt", "sub/../model.onnx"),
        ("photos", "sample.csv"),
    ],
)
def test_no_file_that_is_read_is_overwritten_by_whatever_name(photos, images, out):
    tiny_onnx.write(photos / "model.onnx")
    (photos / "sub").mkdir()
    for name in ("odd name.dat", "other.errors.csv"):
        save(photos / name, 1)
    (photos / "link.csv").symlink_to("photos/a.png")
    (photos / "list.txt").write_text("photos/a.png\nodd name.dat\nother.errors.csv\n")
    (photos / "sample.csv").write_text("id,label\na,\n")
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    sample = photos / "sample.csv" if out == "sample.csv" else None
    with pytest.raises(FileExistsError, match="is what is being read: give another file"):
        predict(photos / "model.onnx", photos / images, photos / out, device="cpu", sample=sample, format="csv")
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


# How it runs


def test_it_needs_neither_torch_nor_fastai(model, tmp_path):
    save(tmp_path / "photos" / "a.png", 0)
    code = f"""
import sys
import time
from export.predict import predict
predict({str(model)!r}, {str(tmp_path / "photos")!r}, {str(tmp_path / "p.csv")!r}, "cpu", probabilities=True)
heavy = "torch fastai timm matplotlib albumentations sklearn scipy pandas onnx IPython".split()
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_help_describes_each_flag():
    done = run("--help")
    assert done.returncode == 0
    for said in (
        "--device {auto,cuda,tensorrt,cpu}",
        "a folder, a photo, a quoted glob",
        "add the confidence and one column",
    ):
        assert said in done.stdout


@no_gpu
def test_a_missing_model_is_reported_before_a_missing_device(tmp_path):
    save(tmp_path / "photos" / "a.png", 0)
    with pytest.raises(FileNotFoundError, match=r"no.onnx: no such file; give a model.onnx"):
        predict(tmp_path / "no.onnx", tmp_path / "photos", tmp_path / "p.csv", "cuda")


@no_gpu
def test_auto_prints_its_choice(model, tmp_path):
    save(tmp_path / "photos" / "a.png", 0)
    done = run(model, tmp_path / "photos", "--out", tmp_path / "p.csv")
    device_line, bs_line = done.stderr.splitlines()
    assert device_line == "device auto: cpu (no NVIDIA GPU here, or no driver for it)"
    assert bs_line == "bs auto: 8"


def test_bs_auto_keeps_the_batch_size_of_the_run_it_resumes(model, tmp_path, monkeypatch, capsys):
    for seed in range(20):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    with monkeypatch.context() as patch:
        patch.setattr("export.predictions.formats.write_errors", None)  # which comes last
        with pytest.raises(TypeError):
            predict(model, tmp_path / "photos", tmp_path / "p.csv", "cpu", bs=5)
    predict(model, tmp_path / "photos", tmp_path / "p.csv", "cpu", resume=True)
    assert capsys.readouterr().err == "bs auto: 5\n"
    assert rows(tmp_path / "p.csv")[1:] == [[str(seed), label(seed)] for seed in range(20)]


def many_big_photos(folder: Path, count: int) -> Path:
    "One 3-megapixel JPEG under many names: seconds of work, one file on disk."
    first = folder / "photos" / "0.jpg"
    first.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)).save(first)
    for number in range(1, count):
        os.link(first, first.with_name(f"{number}.jpg"))
    return first.parent


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_bar_and_then_a_clean_line(model, tmp_path):
    photos = many_big_photos(tmp_path, 40)
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "export.predict", model, photos, "--out", tmp_path / "p.csv"]
    process = subprocess.run([*command, "--device", "cpu", "--bs", "1"], cwd=ROOT, stderr=theirs, capture_output=False)
    os.close(theirs)
    drawn = os.read(mine, 100_000).decode()
    assert process.returncode == 0
    assert drawn.endswith("\r\033[K")
    assert "/40 " in drawn
    assert "\n" not in drawn
