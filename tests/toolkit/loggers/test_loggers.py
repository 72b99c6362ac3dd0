"""The output of `--log`, read back from real event files, an offline run of wandb, and an MLflow file store."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from noise import write_noise

from recipes import hw1
from toolkit.files import write_json
from toolkit.loggers.log import LOGGERS, folders, logged, loggers
from toolkit.run import load
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit

ROOT = Path(__file__).resolve().parents[3]
CURVES = "train_loss valid_loss accuracy lr".split()
UNREACHABLE = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture(scope="module", autouse=True)
def log_folder(tmp_path_factory):
    "The folder that all libraries log to; they do not wait for an unreachable server."
    root = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME"):
            patch.setenv(name, str(root))
        for name in ("WANDB_API_KEY", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_TRACKING_URI", (root / "mlruns").as_uri())
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.setenv("TRACKIO_DIR", str(root / "trackio"))
        for name in ("TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            patch.delenv(name, raising=False)
        yield root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=5)


@pytest.mark.parametrize(
    ("name", "environment", "kept_in"),
    [
        ("tensorboard", {}, None),
        ("wandb", {"WANDB_DIR": "w"}, "w/wandb"),
        ("wandb", {}, "wandb"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "file:///x/mlruns"}, "/x/mlruns"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "http://host:5000"}, None),
        ("mlflow", {}, "mlruns"),
    ],
)
def test_the_folder_of_a_loggers_images_is_known_before_it_starts(name, environment, kept_in, tmp_path, monkeypatch):
    for variable in ("WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    assert folders(loggers([name])) == {f"--log {name}": kept_in and Path(kept_in)}


def train_until(photos, folder, epochs, names, stop=False):
    "Start or resume the run in `folder` until it has `epochs` epochs; then evaluate it, or interrupt it if `stop`."
    learn = hw1.learner(
        photos, arch="test_resnet", weights="none", image_size=32, bs=8, accum=1, workers=0, device="cpu",
        precision="fp32",
    )  # fmt: skip
    run = begin(folder, learn)
    with logged(learn, run, loggers(names)):
        fit(learn, run, epochs)
        if stop:
            raise KeyboardInterrupt
        evaluate(learn, run)
        run.path("model.onnx").write_bytes(b"the model")
    return run


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    "A run interrupted after two epochs, killed before log.json recorded the second, and resumed for two more."
    for name in LOGGERS:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("run") / "three"
    with pytest.raises(KeyboardInterrupt):
        train_until(photos, folder, 2, LOGGERS, stop=True)
    kept = load(folder).read_json("log.json")
    for name in ("tensorboard", "mlflow", "trackio"):  # wandb can't read back an offline run
        kept[name]["epochs"] = 1
    write_json(folder / "log.json", kept)
    return train_until(photos, folder, 4, LOGGERS)


def history(run):
    with run.path("history.csv").open() as file:
        return {int(row["epoch"]): {name: float(row[name]) for name in CURVES} for row in csv.DictReader(file)}


def mistakes(run):
    with run.path("valid_predictions.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["label"] != row["prediction"]]


def test_tensorboard_has_each_epoch_once_and_options_metrics_and_mistakes(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path("tensorboard")), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    for name in CURVES:
        points = events.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3, 4]
        assert [point.value for point in points] == pytest.approx([row[name] for row in history(run).values()])
    assert [point.value for point in events.Scalars("best/accuracy")] == pytest.approx([run.metrics["accuracy"]])
    assert "| arch | test_resnet |" in events.Tensors("options/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "_hparams_/session_start_info" in events.summary_metadata
    drawn = events.Tags()["images"]
    assert len(drawn) == len(mistakes(run)) > 0
    assert {tag.rpartition(": ")[2] for tag in drawn} == {row["file"] for row in mistakes(run)}
    assert events.Images(drawn[0])[0].encoded_image_string.startswith(b"\x89PNG")


def test_mlflow_has_each_epoch_once_and_options_metrics_mistakes_and_model(run):
    from mlflow import MlflowClient

    client, id = MlflowClient(), run.read_json("log.json")["mlflow"]["id"]
    for name in CURVES:
        points = {point.step: point.value for point in client.get_metric_history(id, name)}
        assert points == {epoch: row[name] for epoch, row in history(run).items()}
        assert len(client.get_metric_history(id, name)) == 4
    kept = client.get_run(id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params["arch"] == "test_resnet"
    assert kept.data.metrics["best/accuracy"] == run.metrics["accuracy"]
    assert Path(client.download_artifacts(id, "model.onnx")).read_bytes() == b"the model"
    assert len(client.list_artifacts(id, "mistakes")) == len(mistakes(run))
    assert len(client.search_runs(["0"], f"attributes.run_id = '{id}'")) == 1


def wandb_records(path):
    "The records of a .wandb file, which is LevelDB's log format after a header of 7 bytes."
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or last
            yield Record.FromString(whole)
            whole = b""


def test_wandb_has_each_epoch_once_under_one_id_and_options_metrics_mistakes_and_model(run, log_folder):
    id = run.read_json("log.json")["wandb"]["id"]
    parts = sorted((log_folder / "wandb").glob(f"offline-run-*-{id}"))
    records = [record for part in parts for record in wandb_records(part / f"run-{id}.wandb")]
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    curves = [{name: row[name] for name in ("epoch", *CURVES)} for row in rows if "accuracy" in row]
    assert curves == [{"epoch": epoch, **row} for epoch, row in history(run).items()]
    config = {item.key: json.loads(item.value_json) for record in records for item in record.run.config.update}
    assert config["arch"] == "test_resnet"
    summary = {
        ".".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }
    assert summary["best/accuracy"] == run.metrics["accuracy"]
    assert [row["mistakes.count"] for row in rows if "mistakes.count" in row] == [len(mistakes(run))]
    assert len(list(parts[-1].glob("files/media/images/*"))) == len(mistakes(run))
    assert [record.artifact.type for record in records if record.HasField("artifact")] == ["model"]
    kept = (path.read_bytes() for path in (log_folder / "artifacts" / "staging").iterdir())
    assert b"the model" in kept


def test_trackio_has_each_epoch_once_and_options_metrics_mistakes_and_model(run, log_folder):
    name, root = run.read_json("log.json")["trackio"]["id"], log_folder / "trackio"
    assert name.startswith("three-")
    with sqlite3.connect(root / "rapid-finetune.db") as base:
        logged = base.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", [name]).fetchall()
        (config,) = base.execute("SELECT config FROM configs WHERE run_name = ?", [name]).fetchall()
        kinds = base.execute("SELECT type FROM artifacts").fetchall()
    rows = [(step, json.loads(metrics)) for step, metrics in logged]
    assert {step: row for step, row in rows if "lr" in row} == history(run)
    assert len([row for _, row in rows if "lr" in row]) == 4
    (results,) = [row for _, row in rows if "best/accuracy" in row]
    assert results["best/accuracy"] == run.metrics["accuracy"]
    images = [value for value in results.values() if isinstance(value, dict)]
    assert {each["caption"].rpartition(": ")[2] for each in images} == {row["file"] for row in mistakes(run)}
    assert all((root / "media" / each["file_path"]).read_bytes().startswith(b"\x89PNG") for each in images)
    assert json.loads(config[0])["arch"] == "test_resnet"
    assert kinds == [("model",)]
    assert b"the model" in [path.read_bytes() for path in root.glob("artifacts/**/sha256/*/*")]


def test_resuming_a_finished_run_logs_nothing_twice(run, photos, log_folder, tmp_path):
    shutil.copytree(run.folder, tmp_path / "again")
    before = run.path("log.json").read_text()
    again = train_until(photos, tmp_path / "again", 4, ["tensorboard", "mlflow"])
    assert again.path("log.json").read_text() == before
    test_mlflow_has_each_epoch_once_and_options_metrics_mistakes_and_model(again)
    test_tensorboard_has_each_epoch_once_and_options_metrics_and_mistakes(again)


def test_an_unreachable_server_is_reported_and_gets_the_missing_epochs_later(photos, tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path / "run"
    train_until(photos, folder, 1, ["mlflow"])
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", UNREACHABLE)
        run = train_until(photos, folder, 2, ["mlflow"])
        assert run.metrics["epochs"] == 2
        stderr = capfd.readouterr().err
        assert "--log mlflow: API request to http://127.0.0.1:9" in stderr
        assert "what is missing there is sent next time, or with --resume" in stderr
        with pytest.raises(ValueError, match=r"--log mlflow: .*; is MLFLOW_TRACKING_URI right\?"):
            train_until(photos, tmp_path / "new", 1, ["mlflow"])
    run = train_until(photos, folder, 3, ["mlflow"])
    id = run.read_json("log.json")["mlflow"]["id"]
    points = mlflow.MlflowClient().get_metric_history(id, "valid_loss")
    assert sorted((point.step, point.value) for point in points) == [
        (epoch, row["valid_loss"]) for epoch, row in history(run).items()
    ]


def test_a_tracker_that_is_gone_at_the_end_ends_no_run(photos, tmp_path, monkeypatch, capfd):
    trackio = pytest.importorskip("trackio")

    class Odd(Exception):
        "As a library of a library may raise, such as the one that stores artifacts."

    def gone(*given, **named):
        raise Odd("trackio remote client not ready after 60.0s")

    monkeypatch.setattr(trackio.Run, "log_artifact", gone)
    run = train_until(photos, tmp_path / "gone", 1, ["trackio"])
    assert run.metrics["epochs"] == 1
    assert "--log trackio: trackio remote client not ready after 60.0s; what is missing" in capfd.readouterr().err
    assert run.read_json("log.json")["trackio"]["results"] == 0


def test_a_tracker_that_cannot_start_for_a_reason_of_its_own_is_named(photos, tmp_path, monkeypatch):
    def odd(**given):
        raise KeyError("one validation error for Settings")

    monkeypatch.setattr(pytest.importorskip("wandb"), "init", odd)
    with pytest.raises(ValueError, match="--log wandb can't start: 'one validation error for Settings'"):
        train_until(photos, tmp_path / "new", 1, ["wandb"])


def test_the_error_for_a_missing_library_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # Python then finds no such module
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt -e '.\[wandb\]'"):
        loggers(["wandb"])
    with pytest.raises(ValueError, match="--log comet: give one or more of tensorboard, wandb, mlflow, trackio"):
        loggers(["comet"])


@pytest.mark.long
def test_no_library_is_imported_unless_asked_for_and_wandb_without_a_login_names_the_remedy(tmp_path):
    pytest.importorskip("wandb")
    code = f"""
import sys
from pathlib import Path
from toolkit.loggers.log import loggers
from toolkit.run import Run
loggers([])
print(sorted({set(LOGGERS)} & set(sys.modules)))
run = Run(Path({str(tmp_path)!r}))
run.__dict__["recipe"] = {{"recipe": "hw1", "options": {{}}, "data": {{"fingerprint": ""}}}}
try:
    loggers(["wandb"])["wandb"].open(run, None, 0)
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"WANDB_MODE": "online"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "[]"
    assert "run `wandb login`, or set WANDB_MODE=offline" in done.stdout
