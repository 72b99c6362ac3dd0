"""Columns, kinds of file and samples of export.predict, against numpy and pandas."""

import csv
import json
import os
import shutil
import time
import zipfile

import numpy as np
import pandas
import pytest
import tiny_onnx
from PIL import Image
from predicting import label, rows, run, save

from export.predict import predict
from export.predictions import formats
from export.reading import prepare
from export.runtime.profiler import Stopwatch
from export.runtime.progress import print_line
from export.session import Classifier

CLASSES = tiny_onnx.NUMERIC


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def photos(tmp_path):
    "0 to 6, of which 4 can't be read."
    for seed in range(7):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    (tmp_path / "photos" / "4.png").write_bytes(b"no photo")
    return tmp_path / "photos"


def probabilities(seed: int) -> np.ndarray:
    return tiny_onnx.expected(tiny_onnx.photo(seed))[1]


# Columns


def test_top_adds_the_likeliest_classes_with_their_confidence(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv", "cpu", top=3)
    header, *found = rows(tmp_path / "p.csv")
    assert header == "image_name pred_label label_1 confidence_1 label_2 confidence_2 label_3 confidence_3".split()
    for seed, row in enumerate(found):
        if seed == 4:
            assert row == ["4"] + [""] * 7
            continue
        order = np.argsort(-probabilities(seed))[:3]
        assert row[:2] == [str(seed), label(seed)]
        assert row[2::2] == [CLASSES[index] for index in order]
        np.testing.assert_allclose([float(cell) for cell in row[3::2]], probabilities(seed)[order], rtol=1e-4)
    predict(model, photos, tmp_path / "all.csv", "cpu", top=12)
    assert len(rows(tmp_path / "all.csv")[0]) == 26


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 13}, "--top 13: the model has 12 classes; give 1 to 12"),
        ({"top": -1}, "--top -1: the model has 12 classes"),
        ({"top": 2, "probabilities": True}, "--top, --probabilities and --sample each say which columns there are"),
        (
            {"zip": True, "out": "p.zip"},
            "--out .*p.zip: give a name that ends in .csv, .json or .parquet, or a --format",
        ),
        ({"out": "p.zip"}, "--out .*p.zip: give a name that ends in .csv, .json or .parquet, or a --format"),
        ({"out": "p.csv.gz"}, "--out .*p.csv.gz: give a name that ends in .csv"),
        ({"format": "xml"}, "unknown format 'xml': choose one of auto, csv, json, parquet"),
        ({"sort_as": "hard"}, "unknown sort_as 'hard': choose one of link, copy"),
        ({"engine": "spark"}, "unknown engine 'spark': choose one of local, ray"),
        ({"format": "json"}, r"--out .*p.csv --format json: name the file .*p.json, or leave one out"),
        ({"tta": "rotate"}, "unknown tta 'rotate': choose one of none, flip"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, photos, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        predict(model, photos, tmp_path / options.pop("out", "p.csv"), "cpu", **options)
    assert set(os.listdir(tmp_path)) == {"photos"}


# Kinds of file


def test_json_is_a_list_of_objects_with_null_where_csv_is_empty(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.json", "cpu", probabilities=True)
    predict(model, photos, tmp_path / "p.csv", "cpu", probabilities=True)
    found = json.loads((tmp_path / "p.json").read_text())
    header, *expected = rows(tmp_path / "p.csv")
    assert [list(each) for each in found] == [header] * 7
    for each, row in zip(found, expected, strict=True):
        numbers = [float(cell) if cell else None for cell in row[2:]]
        assert list(each.values()) == [row[0], row[1] or None, *numbers]
    assert (tmp_path / "p.json").read_text().count("\n") == 7 + 2
    frame = pandas.read_json(tmp_path / "p.json", dtype={"image_name": str, "pred_label": str})
    assert frame["image_name"].tolist() == list("0123456")
    assert (tmp_path / "p.errors.csv").exists()


def test_the_table_of_errors_is_there_before_that_of_predictions(model, photos, tmp_path, monkeypatch):
    "A killed run leaves no predictions.csv that lacks its errors."
    found = []
    monkeypatch.setattr(
        "export.predictions.formats.write_errors", lambda out, unread: found.append((out.exists(), len(unread)))
    )
    predict(model, photos, tmp_path / "p.csv", "cpu")
    assert found == [(False, 1)]
    assert (tmp_path / "p.csv").exists()


def test_parquet_holds_strings_and_float32(model, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, an extra")
    predict(model, photos, tmp_path / "p.parquet", "cpu", probabilities=True, fallback="7")
    found = parquet.read_table(tmp_path / "p.parquet")
    assert [str(kind) for kind in found.schema.types] == ["string"] * 2 + ["float"] * 13
    assert found.column_names == ["image_name", "pred_label", "confidence", *CLASSES]
    assert found.column("pred_label").to_pylist() == [label(n) if n != 4 else "7" for n in range(7)]
    expected = np.array(Classifier(model, "cpu")([photos / f"{n}.png" for n in range(7) if n != 4])[1])
    got = np.array([found.column(name).to_pylist() for name in CLASSES], float).T
    np.testing.assert_array_equal(np.delete(got, 4, 0).astype(np.float32), expected)
    assert np.isnan(got[4]).all()
    options = {"probabilities": True, "fallback": "7", "resume": True}
    assert predict(model, photos, tmp_path / "p.parquet", "cpu", **options)[0][0] == "4"
    save(photos / "caf\udce9.png", 0)
    with pytest.raises(
        ValueError, match=r"--format parquet: the name 'caf.*' is not Unicode; only csv keeps its bytes"
    ):
        predict(model, photos, tmp_path / "p.parquet", "cpu")


def test_without_pyarrow_parquet_is_refused_with_the_line_that_brings_it(model, photos, tmp_path):
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "pyarrow.py").write_text("raise ImportError")
    done = run(model, photos, "--format", "parquet", "--device", "cpu", cwd=tmp_path / "no")
    assert done.returncode == 2
    assert done.stderr == "error: --format parquet needs pyarrow: pip install pyarrow\n"
    assert os.listdir(tmp_path / "no") == ["pyarrow.py"]


def test_the_suffix_chooses_the_format(tmp_path):
    assert formats.kind_of(tmp_path / "p.csv", "auto") == "csv"
    assert formats.kind_of(tmp_path / "p.JSON", "auto") == "json"
    assert formats.kind_of(tmp_path / "p.parquet", "auto") == "parquet"
    assert formats.kind_of(tmp_path / "p.txt", "auto") == "csv"
    assert formats.kind_of(tmp_path / "p.txt", "json") == "json"


def test_the_file_is_named_after_its_kind(model, photos, tmp_path):
    assert run(model, photos, "--format", "json", "--device", "cpu", cwd=tmp_path).returncode == 2
    written = {"predictions.json", "predictions.json.errors.csv", ".predictions.json.asked"}
    assert set(os.listdir(tmp_path)) == {"photos", *written}


def test_two_tables_beside_each_other_keep_their_lists_of_unread_photos(model, photos, tmp_path):
    assert len(predict(model, photos, tmp_path / "p.csv", "cpu")) == 1
    (photos / "4.png").rename(tmp_path / "4.png")
    assert predict(model, photos, tmp_path / "p.json", "cpu", zip=True) == []
    (tmp_path / "4.png").rename(photos / "4.png")
    assert len(predict(model, photos, tmp_path / "p.csv", "cpu", resume=True, zip=True)) == 1
    assert {"p.csv", "p.errors.csv", "p.zip", "p.json", "p.json.zip"} <= set(os.listdir(tmp_path))


def test_a_name_of_a_file_commands_no_terminal(tmp_path, capsys):
    print_line("evil\x1b]0;title\x07\x9b2J\nerror: forged.jpg: no photo, \u00e9")
    assert capsys.readouterr().err == "evil\\x1b]0;title\\x07\\x9b2J\\x0aerror: forged.jpg: no photo, \u00e9\n"


def test_two_columns_of_one_name_are_for_csv_alone(photos, tmp_path):
    model = tiny_onnx.write(tmp_path / "model.onnx", classes=["confidence", "other"])
    with pytest.raises(ValueError, match="--format json: two columns would be called 'confidence'; csv can hold them"):
        predict(model, photos, tmp_path / "p.json", "cpu", probabilities=True)
    predict(model, photos, tmp_path / "p.csv", "cpu", probabilities=True)


def test_a_class_with_a_carriage_return_comes_back(photos, tmp_path):
    classes = ["a\rb", *(f"\r{n}" for n in range(4))]
    predict(tiny_onnx.write(tmp_path / "model.onnx", classes=classes), photos, tmp_path / "p.csv", "cpu")
    assert rows(tmp_path / "p.csv")[1][1] == tiny_onnx.expected(tiny_onnx.photo(0), classes)[0]


def test_zip_holds_the_file_and_is_the_same_each_time(model, photos, tmp_path):
    contents = []
    for _ in range(2):
        predict(model, photos, tmp_path / "p.csv", "cpu", zip=True)
        contents.append((tmp_path / "p.zip").read_bytes())
    assert contents[0] == contents[1]
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert archive.namelist() == ["p.csv"]
        assert archive.read("p.csv") == (tmp_path / "p.csv").read_bytes()
    (tmp_path / "p.zip").unlink()
    predict(model, photos, tmp_path / "p.csv", "cpu", zip=True, resume=True)
    assert (tmp_path / "p.zip").read_bytes() == contents[0]


# Samples


def sample(path, header, ids, cells=1):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header, *([each] + ["0"] * cells for each in ids)])
    return path


def test_a_sample_gives_ids_order_and_columns(model, photos, tmp_path):
    ids = ["5.png", "0", "3.png", "4", "2.png", "6", "1"]
    given = sample(tmp_path / "sample.csv", ["Id", "Category"], ids)
    done = run(model, photos, "--out", tmp_path / "p.csv", "--sample", given, "--device", "cpu", "--fallback", "7")
    assert done.returncode == 2
    expected = [[each, label(int(each[0])) if each != "4" else "7"] for each in ids]
    assert rows(tmp_path / "p.csv") == [["Id", "Category"], *expected]


def test_a_sample_with_classes_as_columns_gets_their_probabilities(model, photos, tmp_path):
    given = sample(tmp_path / "sample.csv", ["id", "3", "11", "0"], [str(n) for n in range(7)], cells=3)
    predict(model, photos, tmp_path / "p.csv", "cpu", sample=given)
    header, *found = rows(tmp_path / "p.csv")
    assert header == ["id", "3", "11", "0"]
    assert found[4] == ["4", "", "", ""]
    for seed in (0, 1, 2, 3, 5, 6):
        expected = probabilities(seed)[[CLASSES.index(name) for name in header[1:]]]
        np.testing.assert_allclose([float(cell) for cell in found[seed][1:]], expected, rtol=1e-4)


def test_an_id_is_found_for_a_name_that_looks_like_one_with_its_suffix(model, photos, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    shutil.copy(sorted(photos.glob("*.png"))[0], folder / "b.png.png")
    given = sample(tmp_path / "s.csv", ["id", "label"], ["b.png.png"])
    predict(model, folder, tmp_path / "p.csv", "cpu", sample=given)
    assert [row[0] for row in rows(tmp_path / "p.csv")] == ["id", "b.png.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\n0,\n".encode("utf-16"), "s.csv is not UTF-8 text, but UTF-16 or no text: save it as CSV in UTF-8"),
        ("id,label\n0,\n".encode("utf-16-be"), "s.csv is not UTF-8 text, but UTF-16"),
        (b"id;label\n0;\n1;\n", "s.csv has ';' between its columns: save it with commas"),
        (b"id\tlabel\n0\t\n", r"s.csv has '\\t' between its columns: save it with commas"),
    ],
)
def test_a_sample_in_another_format_is_refused_naming_the_format(model, photos, tmp_path, content, message):
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"--sample .*{message}"):
        predict(model, photos, tmp_path / "p.csv", "cpu", sample=tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("header", "ids", "message"),
    [
        (["id", "label"], "0123", "--sample .*s.csv: no id for 3 of the images: .*4.png, .*5.png, .*6.png$"),
        (["id", "label"], "0123456789", "--sample .*s.csv: no image for 3 of its ids: 7, 8, 9$"),
        (["id", "label"], "12345abcde", "no image for 5 of its ids: a, b, c and 2 more; no id for 2 of the images: "),
        (["id", "label"], "01234566", "--sample .*s.csv has more than one row for 6$"),
        (["id", "label"], "", "--sample .*s.csv has no rows"),
        (["id", "3", "cat"], "0123456", "--sample has the columns id, 3, cat: expected an id and then one for the la"),
        (["id"], "0123456", "--sample has the columns id: expected"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_naming_some(model, photos, tmp_path, header, ids, message):
    given = sample(tmp_path / "s.csv", header, ids, cells=len(header) - 1)
    with pytest.raises(ValueError, match=message):
        predict(model, photos, tmp_path / "p.csv", "cpu", sample=given)
    assert set(os.listdir(tmp_path)) == {"photos", "s.csv"}


# Time


def test_flip_is_the_mean_of_the_probabilities_of_a_photo_and_its_mirror(tmp_path):
    # a model that sees only the left half, so that a mirror matters
    import onnx

    loaded = onnx.load(tiny_onnx.write(tmp_path / "half.onnx"))
    for name, values in (("start", [0]), ("end", [14]), ("axis", [2])):
        loaded.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))
    loaded.graph.node.insert(1, onnx.helper.make_node("Slice", ["pixels", "start", "end", "axis"], ["left"]))
    loaded.graph.node[2].input[0] = "left"
    onnx.save(loaded, tmp_path / "half.onnx")

    images = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8) for seed in range(5)]
    for number, image in enumerate(images):
        image[:, :16] //= 1 + number
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    plain = Classifier(tmp_path / "half.onnx", "cpu")
    one, other = plain(images)[1], plain([image[:, ::-1] for image in images])[1]
    assert abs(one - other).max() > 0.1
    labels, found = Classifier(tmp_path / "half.onnx", "cpu", bs=2, tta="flip")(images)
    np.testing.assert_allclose(found, (one + other) / 2, atol=1e-6)
    assert labels == [CLASSES[index] for index in ((one + other) / 2).argmax(1)]

    predict(tmp_path / "half.onnx", tmp_path / "photos", tmp_path / "p.csv", "cpu", tta="flip")
    assert [row[1] for row in rows(tmp_path / "p.csv")[1:]] == labels


def test_profile_prints_each_stage_and_the_one_that_limits_the_speed(model, photos, tmp_path):
    done = run(model, photos, "--out", tmp_path / "p.csv", "--device", "cpu", "--profile", "--workers", 2)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["read", "decode", "crop", "copy", "model", "write"]
    assert all(" s " in line and line.split()[3].replace(",", "").isdigit() for line in lines[1:7])
    assert lines[7].startswith("bound by ")
    assert len(lines) == 8


@pytest.mark.parametrize(("slow", "workers", "bound"), [("read_reduced", 2, "decode"), ("prepare", 0, "crop")])
def test_profile_finds_the_stage_that_is_slow(model, photos, tmp_path, monkeypatch, capsys, slow, workers, bound):
    real = getattr(prepare, slow)
    monkeypatch.setattr(prepare, slow, lambda *given: time.sleep(0.05) or real(*given))
    predict(model, photos, tmp_path / "p.csv", "cpu", workers=workers, profile=True)
    assert f"\nbound by {bound}: " in capsys.readouterr().out


def test_all_that_the_files_take_to_write_is_writing(model, photos, tmp_path, monkeypatch, capsys):
    real = formats.write_zip
    monkeypatch.setattr(formats, "write_zip", lambda out: time.sleep(1.0) or real(out))
    predict(model, photos, tmp_path / "p.csv", "cpu", zip=True, profile=True)
    said = capsys.readouterr().out
    seconds = {
        line.split()[0]: float(line.split()[1]) for line in said.splitlines() if " s " in line and "images/s" in line
    }
    assert 1.0 <= seconds["write"] < 2.0
    assert "\nbound by write: " in said


def test_the_limit_is_writing_or_the_longest_stage_of_the_workers():
    watch = Stopwatch()
    watch.seconds |= {"read": 9.0, "decode": 40.0, "crop": 5.0, "copy": 1.0, "model": 25.0, "write": 0.0, "wait": 12.0}
    lines = watch.report(images=100, workers=4, in_flight=6).splitlines()
    assert lines[1].split() == ["decode", "40.00", "s", "10", "images/s", "in", "4", "threads"]
    assert lines[4].split() == ["model", "25.00", "s", "16", "images/s", "in", "4", "threads"]
    assert lines[5].split() == ["write", "0.00", "s", "-"]
    assert lines[6] == "bound by decode: 50% of the workers' time"
    assert watch.report(100, 4, in_flight=2).endswith("bound by model: 48% of the workers' time")  # 12.5 of 26.25 s
    apart = watch.report(100, 4, in_flight=4, processes=True, runners=2)  # reading 13.75 s, the model 12.5
    assert apart.splitlines()[1].endswith("in 4 processes")
    assert apart.splitlines()[4].endswith("in 2 threads")
    assert apart.endswith("bound by decode: 73% of the time of those that read")
    watch.seconds["model"] = 28.0
    assert watch.report(100, 4, 4, runners=2).endswith("bound by model: it takes 14.00 s, reading 13.75 s beside it")
    watch.seconds["write"] = 36.0
    assert watch.report(100, 4, in_flight=6).endswith("bound by write: 75% of the time")
