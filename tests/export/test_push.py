"""export.hub --push, against a server on this machine that takes uploads as the hub does."""

import json
import os
import shutil
import sys
from pathlib import Path

import forked
import hub_stand_in
import onnx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import importlib, runpy
import huggingface_hub.constants
importlib.reload(huggingface_hub.constants)  # it reads the settings of the environment
runpy.run_module("export.hub", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def hub():
    with hub_stand_in.hub() as standing:
        yield standing


@pytest.fixture
def push(hub, digits_run, tmp_path):
    "export.hub with --push, in a process of its own."

    def push(*arguments, run=digits_run.folder, token=hub_stand_in.TOKEN, address=hub[0]):
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        settings = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        settings |= {"HF_TOKEN": token} if token else {}
        words = [sys.executable, "-c", COMMAND, str(run), *map(str, arguments), "--push"]
        return forked.run(words, cwd=ROOT, env=clean | settings, capture_output=True, text=True, timeout=180)

    return push


def test_a_model_and_its_space_go_there_and_work(hub, push, package, digits_run):
    address, there = hub
    done = push("me/digits", "--space", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"model {address}/me/digits", f"space {address}/spaces/me/digits"]
    model, space = there.repositories["model", "me/digits"], there.repositories["space", "me/digits"]
    assert (model.private, model.sdk, space.private, space.sdk) == (True, None, True, "static")
    assert set(model.files) == {".gitattributes", "README.md", "config.json", "model.onnx", "model.safetensors"}
    assert len(model.commits) == len(space.commits) == 1
    assert model.files["model.safetensors"][8:9] == b"{"
    assert space.files["model.onnx"] == model.files["model.onnx"]
    card = yaml.safe_load(space.files["README.md"].decode().split("---")[1])
    assert (card["sdk"], card["app_file"], card["models"]) == ("static", "index.html", ["me/digits"])
    assert {"index.html", "worker.js", "onnxruntime/ort.wasm.min.js"} <= set(space.files)
    secret, sent = str(digits_run.folder.parent).encode(), b"".join([*model.files.values(), *space.files.values()])
    assert secret in digits_run.path("model.onnx").read_bytes()
    assert secret not in sent


def test_a_dry_run_lists_what_would_go_and_sends_nothing(hub, push, digits_run):
    done = push("me/digits", "--dry_run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{hub[0]}/me/digits would get"
    assert [line.split()[-1] for line in lines[1:]] == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    assert hub[1].writes == []
    assert hub[1].repositories == {}


def test_a_second_upload_replaces_the_first_and_leaves_none_of_it(hub, push, digits_run, tmp_path):
    copy = shutil.copytree(digits_run.folder, tmp_path / "run")
    assert push("me/digits", run=copy).returncode == 0
    (copy / "model.onnx").unlink()
    assert push("me/digits", run=copy).returncode == 0
    files = hub[1].repositories["model", "me/digits"].files
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}


def test_a_repository_with_other_files_is_left_alone_and_nothing_else_is_sent(hub, push, package):
    theirs = hub_stand_in.Repository("space", False, "gradio", {"app.py": b"mine"}, ["mine"], theirs=True)
    hub[1].repositories["space", "me/digits"] = theirs
    done = push("me/digits", "--space", "--runtime", package)
    assert done.returncode == 2
    assert "spaces/me/digits holds app.py, which export.hub did not upload: give another name" in done.stderr
    assert theirs.files == {"app.py": b"mine"}
    assert hub[1].writes == []


@pytest.mark.long
def test_an_upload_that_was_interrupted_goes_through_later_and_leaves_files_that_are_not_ours(hub, push, package):
    hub[1].full.add("me/digits")
    assert push("me/digits", "--space", "--runtime", package).returncode == 2
    hub[1].full.clear()
    hub[1].repositories["model", "me/digits"].files[".gitignore"] = b"theirs"
    done = push("me/digits", "--space", "--runtime", package)
    assert done.returncode == 0, done.stderr
    assert ".gitignore" in hub[1].repositories["model", "me/digits"].files
    assert "style.css" not in hub[1].repositories["space", "me/digits"].files
    refused = push("me/digits", "--private")
    assert refused.returncode == 2
    assert "me/digits is public; make it private on its page first" in refused.stderr


@pytest.mark.parametrize("token", ["hf_wrong", None])
def test_without_a_token_that_may_write_it_says_how_to_get_one(push, token):
    done = push("me/digits", token=token)
    assert done.returncode == 2
    assert "`hf auth login`, or HF_TOKEN, with a token that may write there" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_without_a_way_to_the_hub_it_says_so(push):
    done = push("me/digits", address="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "no way to the hub for me/digits" in done.stderr


WRONG = ["digits", "me/../x", "me/", "/x", "me/a b", "https://hub/me/x", "me/a--b", "me/x.git", "me/x.", "mé/x"]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_is_none_is_refused_first(name, digits_run):
    from export.hub import hub

    with pytest.raises(ValueError, match="a repository of the hub is USER/NAME"):
        hub(digits_run.folder, name, push=True)


def test_its_options_need_push(digits_run, tmp_path):
    from export.hub import hub

    for option in ("space", "dry_run", "private"):
        with pytest.raises(ValueError, match="are of --push"):
            hub(digits_run.folder, str(tmp_path / "new"), **{option: True})
    assert not (tmp_path / "new").exists()


def test_a_space_needs_the_model_file(push, digits_run, tmp_path):
    copy = shutil.copytree(digits_run.folder, tmp_path / "run")
    (copy / "model.onnx").unlink()
    done = push("me/digits", "--space", run=copy)
    assert done.returncode == 2
    assert "--space needs the run's model.onnx" in done.stderr


def test_the_space_states_the_licence_of_the_weights(digits_run, tmp_path, package):
    from export.browser.space import write_space

    proto = onnx.load(digits_run.path("model.onnx"))
    found = {each.key: each.value for each in proto.metadata_props}
    onnx.helper.set_model_props(proto, found | {"weights_license": json.dumps("cc-by-nc-4.0")})
    onnx.save(proto, tmp_path / "model.onnx")
    write_space(tmp_path / "model.onnx", tmp_path / "space", "me/digits", package)
    text = (tmp_path / "space" / "README.md").read_text()
    assert "Licence of the weights that its training began with: cc-by-nc-4\\.0." in text
