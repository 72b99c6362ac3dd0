"""Features beside the table: a row for each row of it, in npy and Parquet, also after a kill."""

import numpy as np
import onnx
import pytest
import tiny_onnx
from predicting import label, rows, run, save
from pyarrow import parquet

from export.predict import predict
from export.session import Classifier

SEEDS = [3, 1, 4, 15, 9, 2, 6]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx", features=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Seven photos and one that can't be read, in natural order 0, 1, ... 7; 5 is the one."
    folder = tmp_path_factory.mktemp("photos")
    for number, seed in enumerate(SEEDS):
        save(folder / f"{number + (number >= 5)}.png", seed)
    (folder / "5.png").write_bytes(b"no photo")
    return folder


EXPECTED = [tiny_onnx.photo(seed)[2:30, 2:30].reshape(-1, 3).mean(0) for seed in SEEDS]
EXPECTED.insert(5, [np.nan] * 3)


def test_npy_has_the_features_of_each_row_and_nan_where_a_photo_can_not_be_read(model, photos, tmp_path):
    done = run(model, photos, "--out", tmp_path / "p.csv", "--features", tmp_path / "f.npy", "--device", "cpu")
    assert done.returncode == 2
    assert [row[1] for row in rows(tmp_path / "p.csv")[1:]] == [label(s) for s in SEEDS[:5]] + [""] + [
        label(s) for s in SEEDS[5:]
    ]
    found = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert (found.dtype, found.shape) == (np.float32, (8, 3))
    np.testing.assert_allclose(found, EXPECTED, rtol=1e-5)


def test_parquet_has_them_beside_the_names_and_the_table_is_that_without_features(model, photos, tmp_path):
    predict(model, photos, tmp_path / "p.csv", device="cpu", bs=2, features=tmp_path / "f.parquet")
    table = parquet.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["image_name", "features"]
    assert table["image_name"].to_pylist() == [row[0] for row in rows(tmp_path / "p.csv")[1:]]
    assert str(table.schema.field("features").type).startswith("list<")
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), EXPECTED, rtol=1e-5)
    predict(model, photos, tmp_path / "plain.csv", device="cpu", bs=2)
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_flip_gives_the_mean_of_a_photo_and_its_mirror_image(photos, tmp_path):
    "The mean colour of the left half is that of the right half of the mirror image."
    path = tiny_onnx.write(tmp_path / "left.onnx", features=True)
    model = onnx.load(path)
    starts = {"from": [0], "to": [14], "axis": [2]}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in starts.items()
    )
    model.graph.node.insert(1, onnx.helper.make_node("Slice", ["pixels", *starts], ["left"]))
    model.graph.node[2].input[0] = "left"
    onnx.save(model, path)
    pixels = tiny_onnx.photo(3)
    labels, probabilities, found = Classifier(path, "cpu", tta="flip", features=True)([pixels])
    np.testing.assert_allclose(found[0], pixels[2:30, 2:30].reshape(-1, 3).mean(0), rtol=1e-5)
    assert probabilities.shape == (1, 12)
    plain = Classifier(path, "cpu", features=True)([pixels])[2]
    np.testing.assert_allclose(plain[0], pixels[2:30, 2:16].reshape(-1, 3).mean(0), rtol=1e-5)


@pytest.mark.parametrize("name", ["f.npy", "f.parquet"])
def test_a_prediction_that_was_killed_continues_to_the_same_bytes_of_both_files(model, photos, tmp_path, name):
    names = {f"{n}.png": photos / f"{n % 8}.png" for n in range(20)}
    options = {"device": "cpu", "bs": 4, "workers": 1}
    predict(model, names, tmp_path / "whole.csv", features=tmp_path / f"whole{name}", **options)
    out, features = tmp_path / "p.csv", tmp_path / name
    partial = tmp_path / "p.csv.partial"
    settings_only = {"features": features, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.predictions.formats.write_table", killed_after(9))
        with pytest.raises(KeyboardInterrupt):
            predict(model, names, out, **settings_only)
    assert partial.exists()
    assert not features.exists(), "half written"
    with partial.open("ab") as file:
        file.write(b'["9", ["cat"], "", 1')  # a line that was cut off
    predict(model, names, out, resume=True, **settings_only)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert features.read_bytes() == (tmp_path / f"whole{name}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == [
        ".p.csv.asked",
        ".whole.csv.asked",
    ]


def killed_after(count):
    "Stands for write_table: Ctrl-C after so many rows."

    def write_table(out, kind, columns, rows, quoted, fallback):
        for number, _ in enumerate(rows):
            if number == count:
                raise KeyboardInterrupt

    return write_table


def test_a_resume_with_another_file_or_of_one_that_is_gone_is_refused(model, photos, tmp_path):
    out, features = tmp_path / "p.csv", tmp_path / "f.npy"
    predict(model, photos, out, device="cpu", features=features)
    predict(model, photos, out, device="cpu", features=features, resume=True)
    with pytest.raises(ValueError, match="was started with --features .*f.npy, now None"):
        predict(model, photos, out, device="cpu", resume=True)
    features.write_bytes(b"")
    with pytest.raises(ValueError, match="f.npy is gone or damaged, the table is finished: leave out --resume"):
        predict(model, photos, out, device="cpu", features=features, resume=True)
    np.save(features, np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="f.npy has 3 rows, not 8, the table is finished"):
        predict(model, photos, out, device="cpu", features=features, resume=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("f.csv", {}, "--features .*f.csv: its name says the format, give a file ending in .npy or .parquet"),
        ("p.parquet", {"out": "p.parquet"}, "another file of this run has that name"),
        ("f.npy", {"engine": "ray", "out": "folder"}, "leave out --features"),
    ],
)
def test_what_can_not_be_written_is_refused_before_the_model_runs(model, photos, tmp_path, name, options, message):
    options = {"out": "p.csv", "device": "cpu"} | options
    options["out"] = tmp_path / options["out"]
    with pytest.raises(ValueError, match=message):
        predict(model, photos, features=tmp_path / name, **options)
    assert not any(tmp_path.iterdir())


def test_a_model_without_features_is_refused_with_the_line_that_exports_them(photos, tmp_path):
    plain = tiny_onnx.write(tmp_path / "plain.onnx")
    with pytest.raises(ValueError, match="plain.onnx has no output features: export it with them, `python -m "):
        predict(plain, photos, tmp_path / "p.csv", device="cpu", features=tmp_path / "f.npy")
    assert not (tmp_path / "p.csv").exists()


def test_features_that_are_no_numbers_are_refused(tmp_path):
    path = tiny_onnx.write(tmp_path / "m.onnx", features=True)
    model = onnx.load(path)
    model.graph.node[-1].op_type = "Log"  # of a black photo's mean colour: minus infinity
    onnx.save(model, path)
    with pytest.raises(ValueError, match="m.onnx gives features that are no numbers: export it again in fp32"):
        Classifier(path, "cpu", features=True)([np.zeros((32, 32, 3), np.uint8)])


def test_an_output_of_another_kind_is_no_features(tmp_path):
    path = tiny_onnx.write(tmp_path / "m.onnx", features=True)
    model = onnx.load(path)
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Cast", ["mean"], ["features"], to=onnx.TensorProto.DOUBLE))
    model.graph.output[2].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"features is tensor\(double\) .*, expected float32 \[batch, n\]"):
        Classifier(path, "cpu")
