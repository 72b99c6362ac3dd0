"""A data set of the hub: fetched by huggingface_hub from a server on this machine, or found in a filled cache."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import hub_stand_in
import pytest

from toolkit.data.dataset import find_data
from toolkit.data.sources.hub import Address, address
from toolkit.options import data_text

ROOT = Path(__file__).resolve().parents[4]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIND = (
    "import sys; from toolkit.data.dataset import find_data; d = find_data(sys.argv[1]); "
    "print(d.fingerprint, d.source, d.path)"
)


class Hub(hub_stand_in.Answering):
    "The hub's answers for one data set of two revisions of one commit, at its addresses."

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        resolve = f"/datasets/me/pets/resolve/{COMMIT}/"
        if path in ("/", ""):
            return self.answer(b"hub")
        if path in (
            "/api/datasets/me/pets",
            "/api/datasets/me/pets/revision/main",
            "/api/datasets/me/pets/revision/v1",
        ):
            return self.answer(
                {"id": "me/pets", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            )
        if path == f"/api/datasets/me/pets/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            return self.answer(listed)
        if path.startswith(resolve) and path.removeprefix(resolve) in self.files:
            return self.answer(self.files[path.removeprefix(resolve)])
        code = "RevisionNotFound" if path.startswith("/api/datasets/me/pets") else "RepoNotFound"
        return self.answer(b"", 404, {"X-Error-Code": code})

    do_HEAD = do_GET

    def answer(self, content, status=200, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        described = {"X-Repo-Commit": COMMIT, "ETag": hashlib.sha1(body).hexdigest()}
        super().answer(content, status, described | dict(headers))


@pytest.fixture
def hub(folder):
    "The address of a server that has the folder of photos as the data set me/pets."
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}
    Hub.files = files | {"README.md": b"---\n---\n"}
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def in_process(*arguments, code=FIND, **environment):
    words = [sys.executable, *(["-c", code] if code else ["-m"]), *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=clean | environment, check=False)
    return done


def filled(cache, files):
    "A hub cache that holds these files of me/pets, as huggingface_hub would have written it."
    repository = cache / "datasets--me--pets"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    for name, content in files.items():
        path = repository / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return cache


def test_a_data_set_is_fetched_once_and_after_that_needs_no_network(hub, folder, tmp_path):
    expected = find_data(folder).fingerprint
    done = in_process("hf://me/pets", HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == [expected, f"hf://me/pets@{COMMIT}"]
    assert done.stderr == ""  # no bars where it is no terminal
    offline = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub}
    count = len(Hub.asked)
    again = in_process("hf://me/pets", **offline)
    assert again.stdout == done.stdout
    assert again.stderr.splitlines()[-1] == (
        f"note: hf://me/pets is taken from the hub cache, commit {COMMIT[:12]}; HF_HUB_OFFLINE is set"
    )
    assert in_process(f"hf://datasets/me/pets@{COMMIT}", **offline).stdout == done.stdout
    assert len(Hub.asked) == count


def test_a_commit_in_the_cache_is_not_asked_for(hub, tmp_path):
    in_process("hf://me/pets@v1", HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path))
    count = len(Hub.asked)
    assert count
    done = in_process(f"hf://me/pets@{COMMIT}", HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path))
    assert done.stdout.split()[1] == f"hf://me/pets@{COMMIT}"
    assert done.stderr == ""
    assert len(Hub.asked) == count


def test_parquet_files_of_the_hub_are_unpacked(folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    photos = [file for file in (folder / "train").rglob("*.jpg")]
    held = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in photos]
    parquet.write_table(
        pa.table({"image": held, "label": [photo.parent.name for photo in photos]}), tmp_path / "train.parquet"
    )
    cache = filled(
        tmp_path / "hub", {"fine/train.parquet": (tmp_path / "train.parquet").read_bytes(), "README.md": b"#"}
    )
    done = in_process("hf://me/pets/fine", HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    fingerprint, source, path = done.stdout.split()
    assert fingerprint == find_data(folder / "train").fingerprint
    assert source == f"hf://me/pets@{COMMIT}/fine"
    assert str(cache) not in path


def test_without_a_network_and_a_cache_one_line_says_both_ways_out(tmp_path):
    done = in_process("toolkit.check", "hf://me/pets", code="", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr == (
        "error: no way to https://huggingface.co for the data set hf://me/pets (HF_HUB_OFFLINE is set): give photos on "
        f"this machine, or bring it into this machine's hub cache ({tmp_path})\n"
    )
    gone = in_process("hf://me/pets", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=str(tmp_path))
    assert "ConnectionError: no way to http://127.0.0.1:9 for the data set hf://me/pets" in gone.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://me/none", "--data hf://me/none: the hub has no such data set, or not for you: see its page, and"),
        ("hf://me/pets@none", "--data hf://me/pets@none: "),
        ("hf://me/pets@v1/none", "--data hf://me/pets@v1/none: the data set has no folder none"),
    ],
)
def test_what_the_hub_does_not_have_is_an_error_of_one_line(name, message, hub, tmp_path):
    done = in_process("toolkit.check", name, code="", HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}"), done.stderr
    assert "Traceback" not in done.stderr


def test_what_an_interrupted_fetch_left_is_not_taken_for_the_data_set(hub, tmp_path):
    in_process("hf://me/pets", HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path))
    next(tmp_path.glob("datasets--me--pets/snapshots/*/train/cat/cat0.jpg")).unlink()
    done = in_process("hf://me/pets", HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "ConnectionError: no way to" in done.stderr


def test_a_recorded_run_fetches_nothing(hub, tmp_path):
    code = (
        "import sys; from toolkit.data.dataset import recorded_dataset; "
        "data = {'path': '/none', 'fingerprint': '', 'source': sys.argv[1]}; "
        "print(recorded_dataset({'options': {'seed': 0}, 'data': data}))"
    )
    done = in_process("hf://me/pets", code=code, HF_ENDPOINT=hub, HF_HUB_CACHE=str(tmp_path))
    assert (
        "hf://me/pets is not in this machine's hub cache: `python -m toolkit.check hf://me/pets` fetches" in done.stdout
    )
    assert Hub.asked == []


ADDRESSES = {
    "hf://a/b": Address("a/b", None, None),
    "hf:/a/b": Address("a/b", None, None),  # as a Path has it
    "hf://datasets/a/b": Address("a/b", None, None),
    "hf://a/b.c@v1": Address("a/b.c", "v1", None),
    "hf://a/b@refs/convert/parquet": Address("a/b", "refs/convert/parquet", None),
    "hf://a/b@refs/convert/parquet/default": Address("a/b", "refs/convert/parquet", "default"),
    "hf://a/b/data/fine": Address("a/b", None, "data/fine"),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_has_a_repository_and_perhaps_a_revision_and_a_folder(text):
    assert address(text) == address(Path(text)) == ADDRESSES[text]
    assert data_text(Path(text)) == text.replace("hf:/a", "hf://a")


@pytest.mark.parametrize("text", ["hf://b", "hf://a/b/../c", "hf://a b/c", "hf://a/b@"])
def test_another_address_is_refused_by_the_form_that_is_accepted(text):
    with pytest.raises(ValueError, match=r"a data set of the hub is hf://USER/NAME, or hf://USER/NAME@REVISION"):
        find_data(text)
