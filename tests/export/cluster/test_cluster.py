"""The rows of the local engine by Ray, on two nodes of this machine, of which an actor and one of them die midway."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny_onnx
from PIL import Image

pytest.importorskip("ray", reason="needs Ray: pip install 'ray[data]'")
parquet = pytest.importorskip("pyarrow.parquet")

from export import session  # noqa: E402
from export.cluster import nodes, objects, shards  # noqa: E402
from export.cluster.engine import predict_on_cluster  # noqa: E402
from export.cluster.labeller import Job, Labeller  # noqa: E402
from export.cluster.nodes import share_of  # noqa: E402
from export.predict import predict  # noqa: E402
from export.predictions.options import PredictOptions  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # about its own settings
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def cluster():
    "Two nodes of one CPU each."
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", f"{ROOT}")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def write(folder: Path, count: int, size: int = 32) -> Path:
    "img0.jpg to img`count - 1`.jpg, of eight different contents."
    folder.mkdir()
    for number in range(count):
        path = folder / f"img{number}.jpg"
        if number < 8:
            Image.fromarray(tiny_onnx.photo(number)).resize((size, size)).save(path)
        else:
            os.link(folder / f"img{number % 8}.jpg", path)
    return folder


def local(model: Path, images, out: Path, **options):
    predict(model, images, out, device="cpu", **options)
    return parquet.read_table(out)


def on_cluster(model: Path, images, out: Path, device: str = "cpu", **options) -> list:
    return predict_on_cluster(model, images, PredictOptions(out, device, **options))


def same(folder: Path, expected) -> None:
    "The shards, one after another, are the table: columns, types, rows and their order, to the bit."
    files = sorted(folder.glob("part-*.parquet"))
    table = parquet.read_table(files[0].parent)
    assert table.schema.equals(expected.schema)
    assert table.equals(expected)


def complete(folder: Path, photos: Path) -> None:
    "Each photo once, with the label that its content has."
    table = parquet.read_table(folder).to_pydict()
    count = len(os.listdir(photos))
    assert table["image_name"] == [f"img{number}" for number in range(count)]
    assert table["pred_label"] == [table["pred_label"][number % 8] for number in range(count)]
    assert json.loads((folder / "_SUCCESS").read_text()) == {"images": count, "unread": 0}
    assert len(set(table["pred_label"][:8])) > 1, "a constant answer would pass"
    assert sorted(name for name in os.listdir(folder) if not name.startswith("part-")) == ["_SUCCESS", "_run.json"]


def actors(cluster) -> list:
    "The processes that hold a model, of our cluster."
    import psutil

    found = []
    for node in cluster.list_all_nodes():
        for child in psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True):
            try:
                found += [child] if "MapWorker" in child.name() else []
            except psutil.NoSuchProcess:
                continue
    return found


def midway(cluster, out: Path, strike) -> threading.Thread:
    "Calls `strike` once two actors are at work and shards are there."

    def wait():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if len(list(out.glob("part-*"))) >= 2 and len(actors(cluster)) == 2:
                return strike()
            time.sleep(0.02)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# The same rows


@pytest.mark.long
def test_two_nodes_give_the_rows_of_one_machine_and_say_no_more_than_it(cluster, model, tmp_path):
    photos = write(tmp_path / "photos", 1000)
    (photos / "img7.png").write_bytes(b"no photo")  # img7.jpg is there too: both keep their suffix
    expected = local(model, photos, tmp_path / "local.parquet", probabilities=True, fallback="3")
    code = (
        "import sys; from export.predict import predict; "
        "print(predict(*sys.argv[1:4], 'cpu', engine='ray', address=sys.argv[4], share=1, probabilities=True, "
        "fallback='3'))"
    )
    out = tmp_path / "predictions"
    command = [sys.executable, "-c", code, model, photos, out, cluster.address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    same(out, expected)
    assert len(list(out.glob("part-*.parquet"))) == 4
    reason = (tmp_path / "local.parquet.errors.csv").read_text()
    assert (tmp_path / "predictions.errors.csv").read_text() == reason
    chosen, first, second = done.stderr.splitlines()
    assert chosen == "bs auto: 8"
    assert first.startswith(f"{photos / 'img7.png'}: not a ")
    assert second == f"not read: 1; which and why: {out}.errors.csv"
    summary, unread = done.stdout.splitlines()
    assert summary.startswith("1001 images in ")
    assert summary.endswith(f" a second on cpu, 2 actors -> {out}")
    assert unread.startswith(f"[('img7.png', '{photos / 'img7.png'}', 'not a ")


class Recorded(SimpleHTTPRequestHandler):
    asked: list = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Range")))
        if self.path == "/busy.jpg" and len(self.asked) < 3:
            self.send_error(503)
        elif self.path == "/mine.jpg":
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    "A folder, its URL, and what was asked of it."
    folder, Recorded.asked = tmp_path / "served", []
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Recorded, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", Recorded.asked
        server.shutdown()
        thread.join()


@pytest.mark.long
def test_uris_are_read_whole_and_one_that_is_not_there_keeps_its_row(cluster, model, tmp_path, served):
    pytest.importorskip("aiohttp", reason="needs fsspec[http]")
    folder, url, asked = served
    photos = write(folder / "photos", 40)
    lines = [f"{url}/photos/img{number}.jpg" for number in range(39)] + [f"{url}/photos/gone.jpg", photos.as_uri()]
    lines[-1] += "/img39.jpg"
    (tmp_path / "list.txt").write_text("\n".join(lines))
    unread = on_cluster(model, tmp_path / "list.txt", tmp_path / "p", address=cluster.address, share=1, top=2)
    assert unread == [(f"{url}/photos/gone", f"{url}/photos/gone.jpg", "no such file")]
    gets = [path for path, header in asked if path.endswith(".jpg") and header is None]
    assert sorted(gets) == sorted([f"/photos/img{number}.jpg" for number in range(39)] + ["/photos/gone.jpg"])
    assert [header for _, header in asked if header] == [], "a range was asked for"
    rows = {row["image_name"]: row for row in parquet.read_table(tmp_path / "p").to_pylist()}
    expected = {row.pop("image_name"): row for row in local(model, photos, tmp_path / "l.parquet", top=2).to_pylist()}
    assert len(rows) == 41
    assert rows.pop(f"{url}/photos/gone")["pred_label"] is None
    for name, row in rows.items():
        assert row | {"image_name": ""} == expected[name.rpartition("/")[2]] | {"image_name": ""}


def test_a_request_that_fails_for_now_is_repeated_and_a_forbidden_one_is_not(served, monkeypatch):
    pytest.importorskip("aiohttp", reason="needs fsspec[http]")
    folder, url, asked = served
    monkeypatch.setattr(objects, "PAUSES", (0, 0))
    (folder / "busy.jpg").write_bytes(b"content")
    assert objects.read_object(f"{url}/busy.jpg") == b"content"
    assert len(asked) == 3
    with pytest.raises(OSError, match=r"/mine.jpg: can't be reached \(ClientResponseError: 403, .*Forbidden"):
        objects.read_object(f"{url}/mine.jpg")
    assert len(asked) == 4


@pytest.mark.parametrize("form", ["prefix", "slash", "glob", "photo", "txt", "zip"])
def test_uris_are_named_and_sorted_as_paths_are(tmp_path, form):
    photos = write(tmp_path / "photos", 12)
    (photos / "sub").mkdir()
    (photos / ".hidden").mkdir()
    for name in ("sub/img1.jpg", "sub/img1.png", ".hidden/img1.jpg", "notes.md"):
        os.link(photos / "img1.jpg", photos / name)
    uri = photos.as_uri()
    given = {"prefix": uri, "slash": uri + "/", "glob": uri + "/*.jpg", "photo": uri + "/img3.jpg"}
    if form == "txt":
        (tmp_path / "list.txt").write_text("photos/img10.jpg\r\n\nphotos/img9.jpg\n")
        given, plain = {form: (tmp_path / "list.txt").as_uri()}, tmp_path / "list.txt"
    elif form == "zip":
        given, plain = {form: f"zip://photos::{(tmp_path / 'a.zip').as_uri()}"}, photos
        subprocess.run([sys.executable, "-m", "zipfile", "-c", tmp_path / "a.zip", photos], check=True)
    else:
        plain = {"glob": photos / "*.jpg", "photo": photos / "img3.jpg"}.get(form, photos)
    expected = objects.named_objects(plain)
    found = objects.named_objects(given[form])
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, where), (_, path) in zip(found, expected, strict=True):
        assert objects.read_object(where) == Path(path).read_bytes()


# What dies midway


@pytest.mark.long
def test_an_actor_killed_midway_loses_and_doubles_nothing(cluster, model, tmp_path):
    photos, out, killed = write(tmp_path / "photos", 2000, size=600), tmp_path / "p", []

    def strike():
        killed.append(actors(cluster)[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = midway(cluster, out, strike)
    on_cluster(model, photos, out, bs=8, address=cluster.address, share=1)
    thread.join()
    assert killed, "the run ended before the actor could be killed"
    complete(out, photos)


@pytest.mark.long
def test_a_node_removed_midway_loses_and_doubles_nothing(cluster, model, tmp_path):
    photos, out, removed = write(tmp_path / "photos", 2000, size=600), tmp_path / "p", []

    def strike():
        removed.append(len(list(out.glob("part-*"))))
        cluster.remove_node(cluster.list_all_nodes()[-1])

    thread = midway(cluster, out, strike)
    on_cluster(model, photos, out, bs=8, address=cluster.address, share=1)
    thread.join()
    cluster.add_node(num_cpus=1)
    assert removed
    assert removed[0] < len(list(out.glob("part-*"))) == 8
    complete(out, photos)


@pytest.mark.slow
def test_a_photo_that_kills_its_actor_ends_the_run_after_some_attempts(cluster, model, tmp_path):
    photos, out, over = write(tmp_path / "photos", 600, size=600), tmp_path / "p", threading.Event()

    def kill_them_all():
        while not over.wait(0.2):
            for actor in actors(cluster):
                if "__init__" not in actor.name():  # at work, or waiting for it
                    os.kill(actor.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_them_all)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match=r"actors died 5 times .*\n.*--resume"):
            on_cluster(model, photos, out, address=cluster.address, share=1)
    finally:
        over.set()
        thread.join()
    assert not (out / "_SUCCESS").exists()


# What is begun, and what is refused


@pytest.mark.long
def test_resume_writes_only_missing_shards_and_refuses_other_settings(cluster, model, tmp_path, capsys):
    photos, out = write(tmp_path / "photos", 700), tmp_path / "p"
    (photos / "img3.png").write_bytes(b"no photo")
    options = {"address": cluster.address, "share": 1}
    unread = on_cluster(model, photos, out, **options)
    assert [name for name, _, _ in unread] == ["img3.png"]
    whole = parquet.read_table(out)
    for name in ("_SUCCESS", "part-00001.parquet"):
        (out / name).unlink()
    (out / "part-00002.parquet").write_bytes(b"half")
    (out / ".part-00002.parquet.abcdefgh").write_bytes(b"ha")
    kept = os.stat(out / "part-00000.parquet").st_mtime_ns
    for differing, said in (({"top": 2}, "--top 0, now 2"), ({"bs": 16}, "--bs 8, now 16")):
        with pytest.raises(ValueError, match=f"was started with .*{said}.*leave out --resume"):
            on_cluster(model, photos, out, resume=True, **options, **differing)
    other = tiny_onnx.write(tmp_path / "other.onnx", metadata={"recipe": json.dumps("another")})
    with pytest.raises(ValueError, match="was started with model [0-9a-f]{12}, now [0-9a-f]{12}: "):
        on_cluster(other, photos, out, resume=True, **options)
    capsys.readouterr()
    assert on_cluster(model, photos, out, resume=True, **options) == unread
    assert capsys.readouterr().out.startswith("445 images (and 256 earlier) in ")
    assert os.stat(out / "part-00000.parquet").st_mtime_ns == kept
    assert parquet.read_table(out).equals(whole)
    assert len(os.listdir(out)) == 5, "what was half written is still there"
    # fewer photos, begun anew: the third shard goes, and so does the list of what could not be read
    for number in range(600, 700):
        (photos / f"img{number}.jpg").unlink()
    (photos / "img3.png").unlink()
    assert on_cluster(model, photos, out, **options) == []
    assert parquet.read_table(out).num_rows == 600
    assert not (tmp_path / "p.errors.csv").exists()


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.md").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files, such as thesis.md: give a folder of its own"):
        shards.prepare_folder(str(tmp_path), {}, resume=False)


@pytest.mark.parametrize("kind", ["path", "memory"])  # the latter as object stores are
def test_a_shard_of_another_run_counts_for_nothing(tmp_path, model, kind):
    photos, settings = write(tmp_path / "photos", 5), settings_of(model, tmp_path)
    (photos / "img2.jpg").write_bytes(b"no photo")
    out = str(tmp_path / "p") if kind == "path" else f"memory://bucket{tmp_path}/p"
    shards.prepare_folder(out, settings, resume=False)
    assert labeller(model, settings, out)({"shard": 0, "photos": listed(photos)}) == {"rows": 5, "fault": ""}
    note = shards.notes(out, settings, [5])[0]
    assert (note.rows, [row for row, _ in note.unread]) == (5, [2])
    assert shards.notes(out, settings | {"--top": 1}, [5]) == {}
    assert shards.notes(out, settings, [6]) == {}
    with pytest.raises(FileExistsError, match="taken over by another run"):
        shards.finish(out, settings | {"--top": 1}, {0: note}, [5])
    shards.finish(out, settings, {0: note}, [5])
    assert objects.names_in(out) == ["_SUCCESS", "_run.json", "part-00000.parquet"]
    shards.prepare_folder(out, settings, resume=True)
    assert objects.names_in(out) == ["_SUCCESS", "_run.json", "part-00000.parquet"]
    shards.prepare_folder(out, settings, resume=False)
    assert objects.names_in(out) == ["_run.json"]
    with pytest.raises(RuntimeError, match="lacks 1 of 1 shards, such as part-00000.parquet: give --resume"):
        shards.finish(out, settings, {}, [5])


def settings_of(model, tmp_path) -> dict:
    import onnxruntime

    options = {"--bs": 32, "--tta": "none", "--probabilities": False, "--top": 0, "--fallback": ""}
    options["--answer_all"] = False
    return {"onnxruntime": onnxruntime.__version__, "device": "cpu", **options}


def labeller(model, settings, out) -> Labeller:
    made = Labeller(None, Job(settings, str(model), str(out), 1, 1))
    made.classifier = session.Classifier(model, "cpu", threads=1)
    return made


def listed(photos: Path) -> str:
    return json.dumps(objects.named_objects(photos))


def test_an_error_on_a_node_comes_back_as_one_line_and_a_bug_is_raised(model, tmp_path):
    photos, settings = write(tmp_path / "photos", 2), settings_of(model, tmp_path)
    row = {"shard": 0, "photos": listed(photos)}
    (tmp_path / "file").write_text("")
    answer = labeller(model, settings, tmp_path / "file")(row)
    assert answer["rows"] == 0
    assert answer["fault"].startswith(f"{tmp_path / 'file'}: ")
    older = Labeller(None, Job(settings | {"onnxruntime": "1.2.3"}, str(model), str(tmp_path / "p"), 1, 1))
    assert "1.2.3 on the machine that started the run: install one version on all nodes (on " in older(row)["fault"]
    with pytest.raises(ValueError, match="Expecting value"):
        labeller(model, settings, tmp_path / "p")({"shard": 0, "photos": "no JSON"})


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (
            "nothing://bucket/photos",
            ValueError,
            "nothing://bucket/photos: can't be opened .*nothing",
        ),
        ("sftp://host/photos", ImportError, r"sftp:// needs a library: pip install 'fsspec\[sftp\]'"),
        ("gs://bucket/photos", ImportError, "gs:// needs a library: pip install gcsfs"),
        ("s3://bucket/photos/*.jpg", ImportError, "s3:// needs a library: pip install s3fs"),
        (
            "file:///nowhere/photos",
            FileNotFoundError,
            "file:///nowhere/photos: nothing is there; give a",
        ),
        ("file://{tmp}", ValueError, "file://{tmp}: no images found in it"),
        ("{tmp}/nowhere", FileNotFoundError, "{tmp}/nowhere: no such file or folder"),
        ("{tmp}/list.txt", ImportError, "gs://b/a.jpg: gs:// needs a library: pip install gcsfs"),
        ("{tmp}/latin.txt", ValueError, "{tmp}/latin.txt is not UTF-8 text"),
    ],
)
def test_images_that_can_not_be_had_are_refused(tmp_path, images, error, said):
    for protocol, package in (("sftp", "paramiko"), ("gs", "gcsfs"), ("s3", "s3fs")):
        if f"{protocol}://" in images and importlib.util.find_spec(package):
            pytest.skip(f"{package} is installed")
    (tmp_path / "list.txt").write_text("gs://b/a.jpg\n")
    (tmp_path / "latin.txt").write_bytes("süß.jpg\n".encode("latin-1"))
    with pytest.raises(error, match=said.format(tmp=tmp_path)):
        objects.named_objects(images.format(tmp=tmp_path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bs": 0}, "--bs 0: give auto, or how many images a batch has, at least 1"),
        ({"share": 0.0}, "--share 0.0 --actors None: give more than 0"),
        ({"share": float("nan")}, "--share nan --actors None: give more than 0"),
        ({"top": 13}, "--top 13: the model has 12 classes"),
        ({"top": 1, "probabilities": True}, "give one of them"),
        ({"tta": "turn"}, "unknown tta 'turn'"),
        ({"out": "model.onnx"}, "is a file: --engine ray writes a folder of Parquet shards"),
        ({"model": "photos"}, "is a folder: give the model file"),
        ({"address": "127.0.0.1:1"}, "no Ray cluster at 127.0.0.1:1: .*\ngive --address HOST:PORT"),
    ],
)
def test_an_error_here_is_reported_before_anything_is_written(model, tmp_path, options, said):
    photos = write(tmp_path / "photos", 1)
    given = {"model": model, "images": photos, "out": "p"} | options
    given |= {name: tmp_path / given[name] for name in ("model", "out") if isinstance(given[name], str)}
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises((ValueError, OSError), match=said):
        on_cluster(**given)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([{"CPU": 2}], ("cpu", None, None), ("cpu", 2, 0, 1)),
        ([{"CPU": 0}, {"CPU": 16}, {"CPU": 6}], ("auto", None, None), ("cpu", 4, 0, 5)),
        ([{"CPU": 16}], ("cpu", 1, 3), ("cpu", 1, 0, 3)),
        ([{"CPU": 4}, {"CPU": 16, "GPU": 2}], ("auto", None, None), ("cuda", 8, 1, 2)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 6, "GPU": 1}], ("tensorrt", 0.5, None), ("tensorrt", 3, 0.5, 6)),
        ([{"CPU": 4}], ("cuda", None, 8), ("cuda", 1, 1, 8)),  # nodes that are yet to come
    ],
)
def test_actors_share_out_the_nodes(nodes, asked, expected):
    assert tuple(share_of(nodes, *asked)) == expected


def test_half_a_processor_is_no_share():
    with pytest.raises(ValueError, match="--share 0.5: give a whole number, or with GPUs a part of 1"):
        share_of([{"CPU": 2}], "cpu", 0.5, None)


def test_a_share_that_no_node_has_is_refused(cluster, model, tmp_path):
    photos = write(tmp_path / "photos", 1)
    with pytest.raises(ValueError, match="an actor is to have 3 CPUs, and no node has more than 1: give a smaller"):
        on_cluster(model, photos, tmp_path / "p", address=cluster.address, share=3)
    with pytest.raises(ValueError, match="an actor is to have 1 GPUs, and no node has more than 0"):
        on_cluster(model, photos, tmp_path / "p", device="cuda", address=cluster.address)


def test_predicting_on_one_machine_does_not_load_ray():
    code = "import sys, export.predict; print([name for name in ('ray', 'fsspec', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_to_connect_names_the_token_that_ray_wrote_here(tmp_path, monkeypatch):
    "From 2.59 on, a local run leaves one, and `ray start` asks for it."
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert nodes._token_hint() == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    with pytest.raises(ConnectionError, match="no Ray cluster at 127.0.0.1:1: .*\n.*set RAY_AUTH_MODE=token"):
        nodes._connect("127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert nodes._token_hint() == ""
