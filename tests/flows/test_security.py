"""What others may have made is never run: weights, run folders, model files, and names of classes and files.

Each trap would leave a marker behind; that it would is shown first, by opening it as the trusting do.
"""

import csv
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas
import pytest
import tiny_onnx
import torch
from here import here
from onnx import TensorProto, helper
from PIL import Image

from export.session import Classifier
from export.to_onnx import to_onnx
from recipes import hw1
from toolkit import run as runs
from toolkit.errors import user_message
from toolkit.evaluation import least_certain, results
from toolkit.evaluation.results import read_certificate
from toolkit.features import doubts
from toolkit.models.timm_model import create_model
from toolkit.pages.run_page import write_report

REPOSITORY = Path(__file__).resolve().parents[2]
METHOD = {
    "arch": "test_resnet",
    "weights": "none",
    "bs": 16,
    "accum": 1,
    "image_size": 32,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
}
NAMES = [
    "<script>alert('1')</script>",
    '"><img src=x onerror=alert(1)>',
    "]]></svg><script>alert(2)</script>",
    "$\\frac{1}{$ $x^2$",
    "{{ 7 * 7 }}{% raw %}",
    "a, b; \"c\" 'd' `e`",
    "two\nlines\tand a tab",
    "a carriage\rreturn",
    "=1+1",
    "@SUM(A1)",
    "-2+3",
    "../../x",
    "a/b\\c",
    "/etc/passwd",
    "con",
    " ",
    " padded ",
    "NA",
    "007",
    "日本語 ñ 🦆",
    "e\u0301 \u202eright to left",
    "%s %d {0}",
    "&lt;b&gt; &amp;",
]


# A run on photos and classes with the worst of names


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    "A folder with data/ and run/, of a recipe run from outside/, all of it as hw1 leaves it."
    root = tmp_path_factory.mktemp("house")
    data, rows, random = root / "data", [], np.random.default_rng(0)
    data.mkdir()
    for index, name in enumerate(NAMES):
        for split in ("train", "train", "valid", "test"):
            file = f"{FILES[index % len(FILES)]}{len(rows)}.png"
            Image.fromarray(random.integers(0, 256, (36, 40, 3), np.uint8)).save(data / file)
            rows.append([file, "" if split == "test" else name, split])
    with (data / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    (root / "outside").mkdir()
    before = Path.cwd()
    os.chdir(root / "outside")
    try:
        hw1.main(data / "labels.csv", epochs=1, out=root / "run", **METHOD)
    finally:
        os.chdir(before)
    return root


FILES = ["plain", "=cmd ", 'a, "b" ', "<img src=x onerror=alert(3)>", "日本 ", "$x^", "-rf ", "two\nlines ", "'; #"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def in_pandas(path: Path) -> list[dict[str, str]]:
    return pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def test_nothing_is_written_outside_the_run_folder(house):
    assert sorted(path.name for path in house.iterdir()) == ["data", "outside", "run"]
    assert list((house / "outside").iterdir()) == []
    assert {path.suffix for path in (house / "data").iterdir()} == {".png", ".csv"}
    assert all(path.is_file() for path in (house / "run").iterdir())


def test_every_csv_of_a_run_round_trips_through_csv_and_pandas(house):
    photos = table(house / "data/labels.csv")
    for name in ("valid_predictions.csv", "per_class.csv", "predictions.csv", "history.csv"):
        assert table(house / "run" / name) == in_pandas(house / "run" / name)
    said = {row["file"]: row["label"] for row in table(house / "run/valid_predictions.csv")}
    assert said == {row["path"]: row["label"] for row in photos if row["split"] == "valid"}
    assert [row["class"] for row in table(house / "run/per_class.csv")] == sorted(NAMES)
    predicted = table(house / "run/predictions.csv")
    assert {row["pred_label"] for row in predicted} <= set(NAMES)
    tests = [row["path"].removesuffix(".png") for row in photos if row["split"] == "test"]
    assert sorted(row["image_name"] for row in predicted) == sorted(tests)


def test_names_come_back_exact_from_every_other_file(house):
    run = runs.load(house / "run")
    assert run.recipe["classes"] == sorted(NAMES)
    assert run.recipe["data"]["counts"] == dict.fromkeys(sorted(NAMES), 2)
    assert Classifier(house / "run/model.onnx", "cpu").card.classes == sorted(NAMES)


def test_the_page_shows_every_name_and_obeys_none(house):
    from html.parser import HTMLParser

    class Page(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.handlers, self.cells, self.where = [], [], [], None

        def handle_starttag(self, tag, attributes):
            self.tags.append(tag)
            self.handlers += [name for name, _ in attributes if name.startswith("on")]
            self.where = dict(attributes).get("scope") if tag == "th" else None
            if self.where == "row":
                self.cells.append("")

        def handle_endtag(self, tag):
            self.where = None

        def handle_data(self, data):
            if self.where == "row":
                self.cells[-1] += data

    page = Page()
    page.feed((house / "run/report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 1
    assert page.handlers == []
    assert {name.replace("\r", "\n") for name in NAMES} <= set(page.cells)  # HTML knows no other line end


# Traps


class Trap:
    "Unpickled, it makes the file `marker`."

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def pickled(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Trap(marker)}, protocol=2))


def zipped(path: Path, marker: Path) -> None:
    torch.save({"weight": torch.zeros(3), "trap": Trap(marker)}, path)


def legacy(path: Path, marker: Path) -> None:
    torch.save({"weight": torch.zeros(3), "trap": Trap(marker)}, path, _use_new_zipfile_serialization=False)


def tarred(path: Path, marker: Path) -> None:
    "The format of torch before 0.1.10."
    with tarfile.open(path, "w") as tar:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(Trap(marker) if name == "storages" else 0, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


TRAPS: dict[str, Callable[[Path, Path], None]] = {"pickle": pickled, "zip": zipped, "legacy": legacy, "tar": tarred}


def trap(kind: str, path: Path) -> Path:
    "Set one at `path`; its marker, which is not there, though it would be for the trusting."
    marker = path.with_name(f"{path.name}-ran")
    TRAPS[kind](path, marker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                pickle.load(file) if kind == "pickle" else torch.load(file, weights_only=False)
        except EOFError:
            pass  # a tar of torch's has more in it
    assert marker.exists(), "the trap does not work"
    marker.unlink()
    return marker


def refused(message: str, call: Callable, *arguments: object, **options: object) -> str:
    "What the error of ours says that the call ends in, in a line or two: the command's exit status is 2."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((ValueError, OSError), match=message) as caught:
            call(*arguments, **options)
    told = user_message(caught.value)
    assert told is not None, "would be a traceback"
    assert len(told.splitlines()) <= 2
    return told


@pytest.fixture
def copy(house, tmp_path) -> Path:
    "A run folder to spoil."
    return shutil.copytree(house / "run", tmp_path / "run")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".SafeTensors", ".bin", ""])
@pytest.mark.parametrize("kind", TRAPS)
def test_weights_that_are_a_trap_are_refused_and_not_run(tmp_path, kind, suffix):
    path = tmp_path / f"weights{suffix}"
    marker = trap(kind, path)
    refused(f"weights{suffix} holds no weights that can be read safely", create_model, "test_resnet", 3, str(path))
    if kind in ("pickle", "zip") and suffix.lower() != ".safetensors":
        refused(r".more than tensors: posix.system.: save model.state_dict", create_model, "test_resnet", 3, str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "state",
    [
        {0: torch.zeros(3)},
        {"conv1.0.weight": "text"},
        [torch.zeros(3)],
        {"state_dict": {"model": {"state_dict": {}}}},
        torch.zeros(3),
    ],
    ids=repr,
)
def test_weights_that_are_no_state_dict_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    assert "save model.state_dict()" in refused(
        "w.pth is not a state dict", create_model, "test_resnet", 3, str(tmp_path / "w.pth")
    )


def test_weights_of_the_right_names_and_shapes_that_are_no_dense_tensors_are_refused(tmp_path):
    state = create_model("test_resnet", 3, "none").state_dict()
    state["conv1.0.weight"] = state["conv1.0.weight"].to_sparse()
    torch.save(state, tmp_path / "w.pth")
    assert "w.pth" in refused("w.pth", create_model, "test_resnet", 3, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("kind", TRAPS)
def test_a_run_whose_weights_are_a_trap_is_refused_and_not_run(copy, kind):
    marker = trap(kind, copy / "best.safetensors")
    refused("best.safetensors does not hold this model's weights", runs.load(copy).learner, "cpu")
    refused("best.safetensors does not hold this model's weights", to_onnx, copy, device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize("kind", TRAPS)
def test_a_run_whose_last_state_is_a_trap_is_not_resumed(house, copy, kind):
    marker = trap(kind, copy / "last.pt")
    data = house / "data/labels.csv"
    refused("last.pt can't be read", hw1.main, data, epochs=2, out=copy, resume=True, **METHOD)
    assert not marker.exists()


def test_a_model_behind_a_name_that_fetches_or_loads_is_refused(copy, tmp_path, monkeypatch):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "test_resnet", "num_classes": 3}')
    marker = trap("pickle", folder / "pytorch_model.bin")
    connected = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: connected.append(arguments) or [])
    for arch in ("hf-hub:evil/x", "hf_hub:evil/x", f"local-dir:{folder}", "https://evil/x", "../x", "", "x" * 10**5):
        spoil(copy / "recipe.json", lambda said, arch=arch: said["model"].update(arch=arch))
        refused("has no model", runs.load(copy).learner, "cpu")
        refused("has no model", to_onnx, copy, device="cpu")
        refused("has no model", create_model, arch, 3, "imagenet")
    assert not marker.exists()
    assert connected == []


# Run folders that say what they should not


def spoil(path: Path, change: Callable[[dict], str | None]) -> None:
    "Write the JSON at `path` as `change` leaves it; the text that it returns, if any, instead."
    said = json.loads(path.read_text(encoding="utf-8"))
    text = change(said)
    path.write_text(json.dumps(said) if text is None else text, encoding="utf-8")


def setting(path: str, value: object) -> Callable[[dict], None]:
    "What sets said['a']['b'] for the path 'a.b'."

    def change(said: dict) -> None:
        *folders, name = path.split(".")
        for folder in folders:
            said = said[folder]
        said[name] = value

    return change


RECIPES = {
    "no JSON": (lambda said: "{'a': 1}", "recipe.json is not valid JSON"),
    "deep": (lambda said: "[" * 100_000, "recipe.json is not valid JSON .nested more than 20 deep"),
    "less deep": (lambda said: "[" * 30 + "]" * 30, "nested more than 20 deep"),
    "a list": (lambda said: "[]", "lacks recipe, options"),
    "null": (lambda said: "null", "lacks recipe, options"),
    "no options": (lambda said: said.pop("options") and None, "lacks options"),
    "nan": (setting("options.lr", float("nan")), "NaN is no number that is read"),
    "infinity": (lambda said: '{"a": 1e999}', "1e999 is no number that is read"),
    "huge": (lambda said: '{"a": ' + "9" * 5000 + "}", "99999999999999999999 is no number"),
    "options": (setting("options", []), r"has options.loss None, expected a name"),
    "bs": (setting("options.bs", "8"), "has options.bs '8', expected an integer from 1"),
    "no bs": (setting("options.bs", 0), "has options.bs 0"),
    "accum": (setting("options.accum", True), "has options.accum True"),
    "seed": (setting("options.seed", -1), "has options.seed -1"),
    "lr": (setting("options.lr", "x" * 10**6), "has options.lr 'xxx.{50,60}, expected a number from 0"),
    "arch": (setting("model.arch", ["resnet18"]), r"has model.arch \['resnet18'\], expected a name"),
    "model": (setting("model", "resnet18"), "has model.arch None"),
    "no classes": (setting("classes", []), "its classes are not a list of names"),
    "numbers": (setting("classes", [1, 2]), "its classes are not a list of names"),
    "a text": (setting("classes", "ab"), "its classes are not a list of names"),
    "twice": (setting("classes", ["a", "a"]), "two of its classes have one name"),
    "a million": (setting("classes", [str(n) for n in range(10**6)]), "names 1,000,000 classes, at most 100,000"),
    "half a letter": (setting("classes", ["a", "\ud800"]), "a name of its classes is not Unicode text"),
    "preprocess": (setting("preprocess", None), "preprocess is NoneType, expected a dictionary"),
    "crop": (setting("preprocess.crop", 10**9), "preprocess has crop 1000000000, expected 1 to"),
    "std": (setting("preprocess.std", [0, 0, 0]), "preprocess has std"),
    "mean": (setting("preprocess.mean", [1e308, "x", None]), "preprocess has mean"),
    "augment": (setting("augment.__class__", 1), "has augment .*, expected training transforms"),
    "scale": (setting("augment.scale", [2, -1]), "has augment .*, expected training transforms"),
    "path": (setting("data.path", 5), "has data.path 5, expected a path"),
    "counts": (setting("data.counts", {"a": "many"}), "has data.counts"),
}


@pytest.mark.parametrize("fault", RECIPES)
def test_a_recipe_that_can_not_be_followed_is_refused_by_all_that_reads_a_run(house, copy, fault):
    change, message = RECIPES[fault]
    spoil(copy / "recipe.json", change)
    before = sorted(path.name for path in copy.iterdir())
    refused(message, runs.load(copy).learner, "cpu")
    refused(message, to_onnx, copy, device="cpu")
    assert str(copy) in refused(message, write_report, runs.load(copy))
    refused(message, hw1.main, house / "data/labels.csv", epochs=2, out=copy, resume=True, **METHOD)
    assert sorted({*before, ".lock"}) == sorted({*(path.name for path in copy.iterdir()), ".lock"})


def test_data_that_are_gone_or_no_path_leave_a_learner_that_predicts(copy):
    for path in ("/nowhere", "nul\0", "\ud800", ""):
        spoil(copy / "recipe.json", setting("data.path", path))
        with pytest.warns(UserWarning, match="predicts, but has none to train on"):
            assert runs.load(copy).learner("cpu").predict(np.zeros((9, 9, 3), np.uint8))[0] in NAMES


METRICS = {
    "no JSON": (lambda said: "}", "metrics.json is not valid JSON"),
    "a list": (lambda said: "[1]", "metrics.json is no object"),
    "a text": (setting("accuracy", "<b>"), "has accuracy '<b>', expected a number"),
    "best": (setting("best_epoch", [1]), "has best_epoch"),
    "null": (setting("ece", None), "has ece None"),
    "reliability": (setting("reliability", [{"low": 0}]), "has reliability .*, expected bins"),
    "no images": (lambda said: said["reliability"][0].update(count=0), "has reliability .*, expected bins"),
    "no dict": (setting("scaled_reliability", {"a": 1}), "has scaled_reliability"),
}


@pytest.mark.parametrize("fault", METRICS)
def test_metrics_that_are_none_are_refused(copy, fault):
    change, message = METRICS[fault]
    spoil(copy / "metrics.json", change)
    assert str(copy) in refused(message, write_report, runs.load(copy))


def test_figures_that_no_recipe_writes_are_shown_as_they_are(copy):
    odd = [2**62, 1e308, True, None, "<script>alert(4)</script>", [[1, "a"], {"b": [None]}], {"a": {"b": {}}}]
    spoil(copy / "metrics.json", lambda said: said.update({f"extra {n}": value for n, value in enumerate(odd)}))
    page = write_report(runs.load(copy)).read_text(encoding="utf-8")
    assert "<script>alert(4)" not in page
    assert "&lt;script&gt;alert(4)" in page


@pytest.mark.parametrize("value", [2**62, 1e308, -1])
def test_figures_out_of_all_bounds_are_shown_as_they_are(copy, value):
    spoil(copy / "metrics.json", lambda said: said.update(dict.fromkeys(("best_epoch", "accuracy", "ece"), value)))
    assert write_report(runs.load(copy)).is_file()


TABLES = {
    "history, no table": ("history.csv", b"\0\xff\xfe", "history.csv is not a"),
    "history, columns": ("history.csv", b"epoch,loss\n1,2\n", "history.csv is not a table of epoch,train_loss"),
    "history, text": ("history.csv", b"1,x,0,0,0,0\n", "history.csv has a cell that is no number"),
    "history, epoch": ("history.csv", b"nan,0,0,0,0,0\n", "an epoch or a learning rate that is no number"),
    "history, row": ("history.csv", b"1,0\n", "history.csv is not a table"),
    "predictions, columns": ("valid_predictions.csv", b"file\nx\n", "is not a table of file,label,prediction"),
    "predictions, class": ("valid_predictions.csv", b"f,cat,cat,0.5\n", "has the class 'cat'"),
    "predictions, confidence": ("valid_predictions.csv", b"f,con,con,high\n", "a confidence that is no number from 0"),
    "predictions, nan": ("valid_predictions.csv", b"f,con,con,nan\n", "a confidence that is no number from 0"),
    "predictions, 2": ("valid_predictions.csv", b"f,con,con,2\n", "a confidence that is no number from 0"),
    "predictions, field": (
        "valid_predictions.csv",
        b"f" * 200_000 + b",con,con,1\n",
        "is not a CSV .field larger than",
    ),
    "predictions, quote": ("valid_predictions.csv", b'"f,con,con,1\n', "is not a CSV .unexpected end"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_a_table_that_is_none_is_refused(copy, fault):
    name, content, message = TABLES[fault]
    header = (copy / name).read_bytes().splitlines(keepends=True)[0]
    (copy / name).write_bytes(content if message.endswith("table of epoch,train_loss") else header + content)
    assert str(copy) in refused(message, write_report, runs.load(copy))


def test_photos_named_in_a_run_folder_are_read_as_photos_or_not_at_all(copy):
    rows = [
        (f"{name}", "con", "con", "0.5") for name in ("/etc/passwd", "../../x", "\udcff", "a" * 5000, "/proc/kcore")
    ]
    with (copy / "valid_predictions.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([results.PREDICTIONS, *rows])
    for name in (least_certain.FILE, doubts.FILE):  # which name photos of the data set
        (copy / name).unlink(missing_ok=True)
    page = write_report(runs.load(copy)).read_text(encoding="utf-8")
    assert "root:" not in page
    assert "<img " not in page


def test_a_certificate_that_is_none_is_not_believed(copy):
    for verification in ("{", "[1]", '"x"', "[" * 10**5, '{"agreement": "all", "probability_difference": []}'):
        model = onnx.load(copy / "model.onnx")
        helper.set_model_props(model, {"verification": verification})
        onnx.save(model, copy / "model.onnx")
        said = read_certificate(runs.load(copy))
        assert "model.onnx" in said or said == {"agreement": "all", "probability_difference": []}
    assert "the same label on" not in write_report(runs.load(copy)).read_text(encoding="utf-8")


# Model files; more of them in test_session.py


def from_another_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil.domain", 1))
    model.graph.node[0].domain, model.graph.node[0].op_type = "evil.domain", "Run"


def with_a_second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))
    model.graph.node.append(helper.make_node("Identity", ["extra"], ["unused"]))


def external_in_a_function(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL, name="t")
    tensor.external_data.add(key="location", value="../../etc/passwd")
    node = helper.make_node("Constant", [], ["out"], value=tensor)
    model.functions.append(helper.make_function("f", "F", [], ["out"], [node], [helper.make_opsetid("", 18)]))


def saying(name: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(prop for prop in model.metadata_props if prop.key == name).value = value

    return change


MODELS = {
    "another domain": (from_another_domain, "is not a model that onnxruntime can load on cpu"),
    "a second input": (with_a_second_input, "takes image, extra and gives"),
    "external data in a function": (external_in_a_function, "keeps weights in other files"),
    "deep classes": (saying("classes", "[" * 10**5), "'classes' is not JSON .nested more than 20 deep"),
    "nested classes": (saying("classes", json.dumps([["a"]] * 12)), "its classes are not a list of names"),
    "nan": (saying("preprocess", '{"crop": NaN}'), "'preprocess' is not JSON .NaN is no number"),
    "huge": (saying("preprocess", '{"crop": 1' + "0" * 5000 + "}"), "'preprocess' is not JSON .1000"),
    "half a letter": (
        saying("classes", '["\\ud800"' + "".join(f',"{n}"' for n in range(11)) + "]"),
        "not Unicode text",
    ),
}


@pytest.mark.parametrize("fault", MODELS)
def test_a_model_file_that_is_not_ours_is_refused(tmp_path, fault):
    change, message = MODELS[fault]
    model = onnx.load(tiny_onnx.write(tmp_path / "bad.onnx"))
    change(model)
    onnx.save(model, tmp_path / "bad.onnx")
    assert "bad.onnx" in refused(message, Classifier, tmp_path / "bad.onnx", "cpu")


def test_a_model_file_of_a_million_classes_is_refused_though_it_has_them(tmp_path):
    path = tiny_onnx.write(tmp_path / "bad.onnx", classes=[str(n) for n in range(10**6)])
    assert "bad.onnx" in refused("names 1,000,000 classes, at most 100,000 are read", Classifier, path, "cpu")


def test_a_model_file_whose_metadata_is_no_text_is_refused(tmp_path):
    path = tiny_onnx.write(tmp_path / "bad.onnx")
    path.write_bytes(path.read_bytes().replace(b'"agreement"', b'"agree\xffent"'))
    assert "bad.onnx" in refused("its metadata are no text", Classifier, path, "cpu")


# Through the commands


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True, cwd=REPOSITORY)


@pytest.mark.long
def test_the_commands_say_so_in_two_lines_and_exit_with_2(house, copy, tmp_path, capfd):
    weights = trap("zip", tmp_path / "weights.pth")
    last = trap("zip", copy / "last.pt")
    (copy / "history.csv").write_text("no\n")
    bad = tiny_onnx.write(tmp_path / "bad.onnx", metadata={"classes": "["})
    flags = [word for name, value in METHOD.items() if name != "weights" for word in (f"--{name}", value)]
    data = house / "data/labels.csv"
    for words in (
        ("recipes.hw1", "--data", data, "--weights", tmp_path / "weights.pth", "--out", tmp_path / "new", *flags),
        ("toolkit.report", copy),
        ("export.predict", bad, house / "data", "--out", tmp_path / "predictions.csv", "--device", "cpu"),
    ):
        done = command(*words)
        assert done.returncode == 2, (words, done.stderr)
        assert done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.splitlines()) <= 2, done.stderr
    capfd.readouterr()
    assert here("--data", data, "--weights", "none", "--epochs", 2, "--out", copy, "--resume", *flags) == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("error: "), stderr
    assert len(stderr.splitlines()) <= 2, stderr
    assert [marker for marker in (weights, last) if marker.exists()] == []
