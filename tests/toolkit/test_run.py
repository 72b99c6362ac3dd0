"""Files that are never half written, folders that are never overwritten, a recipe.json that is checked."""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings

import pytest
from filelock import Timeout
from run_folders import make_run
from safetensors.torch import load_file

from export.predictions import journal
from toolkit import files, run
from toolkit.data.on_disk.photo_files import natural_key


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"accuracy": 1})

    def write_half():
        with files.replacing(path) as beside:
            beside.write_bytes(b"{")
            raise OSError(errno.ENOSPC, "No space left on device")

    pytest.raises(OSError, write_half)
    with pytest.raises(ValueError, match="Out of range float|not JSON compliant"):
        files.write_json(path, {"accuracy": float("nan")})
    assert json.loads(path.read_text()) == {"accuracy": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_atomic(tmp_path / "atomic", "ä\r\n")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "atomic").read_bytes() == "ä\r\n".encode()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux's /proc")
def test_a_link_to_a_pipe_as_dev_stdout_may_be_is_not_replaced(tmp_path):
    ends = os.pipe()
    (tmp_path / "out").symlink_to(f"/proc/self/fd/{ends[1]}")
    with pytest.raises(FileExistsError, match="is no regular file, and would be replaced by one"):
        files.write_atomic(tmp_path / "out", b"text")
    for end in ends:
        os.close(end)
    assert os.listdir(tmp_path) == ["out"]


def test_a_name_as_long_as_a_file_system_takes_can_be_written(tmp_path):
    longest = "\u9577" * 83 + ".jpg"  # 253 bytes
    files.write_atomic(tmp_path / longest, b"whole")
    assert os.listdir(tmp_path) == [longest]


def test_a_disk_without_locks_is_locked_by_the_files_presence(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def missing(*given):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # filelock's, that it does so
        with files.file_lock(tmp_path / ".lock", timeout=0):
            with pytest.raises(Timeout):
                files.file_lock(tmp_path / ".lock", timeout=0).acquire()
        with files.file_lock(tmp_path / ".lock", timeout=0):
            pass
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []


def test_names_sort_by_their_numbers_however_many_digits_they_have():
    names = ["a10", "a2", "a" + "9" * 5000]
    assert sorted(names, key=natural_key) == ["a2", "a10", "a" + "9" * 5000]


def test_a_csv_comes_back_cell_by_cell_whatever_is_in_it(tmp_path):
    rows = [["a,b", 'quo"te'], ["new\nline", "a lone\rreturn"], ["\r", ""], [os.fsdecode(b"\xff"), "☃"]]
    files.write_csv(tmp_path / "t.csv", ["x", "y"], rows)
    assert files.read_csv(tmp_path / "t.csv", ["x", "y"]) == [["x", "y"], *rows]
    assert files.csv_text(["x", "y"], [[1, 0.5], ["a,b", ""]]) == 'x,y\n1,0.5\n"a,b",\n'


def odd_ones(folder):
    "The names of paths, made here, that are no regular files."
    os.mkfifo(folder / "pipe")
    (folder / "to_pipe").symlink_to("pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound, contextlib.chdir(folder):
        bound.bind("socket")  # a path of over 100 bytes is refused
    return ["pipe", "to_pipe", "loop", "folder", "socket"]


def test_paths_that_are_no_regular_files_are_refused_before_anything_is_written_and_stay(tmp_path):
    names = odd_ones(tmp_path)
    kinds = {name: (tmp_path / name).lstat() for name in names}
    for name in names:
        with pytest.raises((FileExistsError, IsADirectoryError), match=f"{name} is (no regular file|a folder)"):
            with files.replacing(tmp_path / name):
                pytest.fail("the write was started")
    assert {name: (tmp_path / name).lstat() for name in names} == kinds
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_link_stays_and_the_file_it_leads_to_is_written_whether_it_exists_or_not(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").write_text("old")
    (tmp_path / "link").symlink_to("link2")
    (tmp_path / "link2").symlink_to(tmp_path / "there" / "old")
    (tmp_path / "fresh").symlink_to("there/new")
    for name in ("link", "fresh"):
        files.write_atomic(tmp_path / name, "written")
        assert (tmp_path / name).is_symlink()
    assert {path.name: path.read_text() for path in (tmp_path / "there").iterdir()} == {
        "old": "written",
        "new": "written",
    }
    assert sorted(os.listdir(tmp_path)) == ["fresh", "link", "link2", "there"]


def test_default_folders_are_named_by_time_and_loss_and_never_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run.new_folder("hw1", "ce", None, False)
    first.mkdir(parents=True)
    second = run.new_folder("hw1", "ce", None, False)
    assert first.parts[:2] == second.parts[:2] == ("runs", "hw1")
    assert first.name.split("-")[2] == "ce"
    assert first != second


def test_a_folder_in_use_is_refused_unless_resumed(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(FileExistsError, match="already holds a run: give another folder, or add --resume"):
        run.new_folder("hw1", "ce", tmp_path, False)
    with pytest.raises(ValueError, match="recipe.json lacks recipe, options"):  # to go on with, it is read
        run.new_folder("hw1", "ce", tmp_path, True)
    (tmp_path / "recipe.json").rename(tmp_path / "thesis.txt")
    with pytest.raises(FileExistsError, match="is not empty"):
        run.new_folder("hw1", "ce", tmp_path, False)
    with pytest.raises(NotADirectoryError, match="is a file"):
        run.new_folder("hw1", "ce", tmp_path / "thesis.txt", False)


def test_resume_needs_to_know_which_run():
    with pytest.raises(ValueError, match="--resume without --out"):
        run.new_folder("hw1", "ce", None, True)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not valid JSON"), ("[]", "lacks recipe"), ('{"recipe": "hw1"}', "lacks options")]
)
def test_a_recipe_json_that_is_not_one_is_refused(tmp_path, content, message):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        _ = run.load(tmp_path).recipe


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        run.load(tmp_path)


def test_versions_are_those_installed():
    import onnxruntime
    import torch

    found = run.versions()
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["onnxruntime"] == onnxruntime.__version__


def test_a_run_deletes_half_written_files_in_its_folder_but_not_those_that_a_prediction_is_writing(tmp_path):
    with journal.held(tmp_path / "p.csv.partial"), files.replacing(tmp_path / "p.csv") as table:
        for name in (".p.json.abcd1234", ".last.pt.abcd1234", ".env.template", ".env.defaults"):
            (tmp_path / name).write_bytes(b"half")
        held = run.lock(tmp_path)
        assert table.exists()
        assert sorted(path.name for path in tmp_path.glob(".*.abcd1234")) == []
        assert sorted(path.name for path in tmp_path.glob(".env.*")) == [".env.defaults", ".env.template"]
        held.release()
    assert (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("begun", ["recipe.json", "search.json", "folds.csv", "held_out.csv", ".lock"])
def test_a_folder_of_something_else_is_not_resumed(tmp_path, begun):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds notes.txt and no run: give another folder"):
        run.new_folder("hw1", "ce", tmp_path, resume=True)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / begun).write_text("")
    with contextlib.suppress(ValueError):  # an empty recipe.json
        assert run.new_folder("hw1", "ce", tmp_path, resume=True) == tmp_path


@pytest.fixture
def copied_run(digits_run, tmp_path):
    "A copy of the digits run, with photos of its own to change."
    folder = shutil.copytree(digits_run.folder, tmp_path / "run")
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["data"]["path"] = str(shutil.copytree(recipe["data"]["path"], tmp_path / "photos"))
    files.write_json(folder / "recipe.json", recipe)
    return run.load(folder)


def test_the_data_set_of_a_run_is_the_one_it_was_trained_on(copied_run):
    data, here = copied_run.dataset(), copied_run.learner("cpu").dls.data
    assert (data, data.fingerprint) == (here, copied_run.recipe["data"]["fingerprint"])
    on_disk = sorted(copied_run.folder.with_name("photos").glob("train/*/*.png"))
    assert sorted(data.train) == on_disk
    assert {label == photo.parent.name for photo, label in data.train.items()} == {True}


def test_photos_that_the_run_left_out_are_left_out_of_its_data_set(copied_run):
    data = copied_run.dataset()
    gone = next(iter(data.train))
    copied_run.recipe["data"] |= {
        "left_out": {data.relative(gone): "cut short"},
        "fingerprint": data.without({gone: ""}).fingerprint,
    }
    assert copied_run.dataset().left_out == {gone: "cut short"}
    assert gone not in copied_run.dataset().train


@pytest.mark.parametrize(("change", "reason"), [("relabel", "have changed since"), ("remove", "can't be used .*exist")])
def test_the_data_set_of_a_run_whose_photos_changed_has_none_and_warns(copied_run, change, reason):
    photos = copied_run.folder.with_name("photos")
    if change == "remove":
        shutil.rmtree(photos)
    else:
        photo = next((photos / "train/1").iterdir())
        photo.rename(photos / "train/2/relabelled.png")
    with pytest.warns(UserWarning, match=f"the photos of .*run {reason}.*: its data set is without photos") as warned:
        data = copied_run.dataset()
    assert (data.path, data.train, data.valid, data.test) == (photos, {}, {}, {})
    assert warned[0].filename == __file__


def test_the_model_of_a_run_says_what_its_learner_says(digits_run):
    import torch

    learn, model = digits_run.learner("cpu"), digits_run.model()
    photos = learn.dls.valid.one_batch()[0]
    assert not model.training
    with torch.inference_mode():
        assert torch.equal(model(photos), learn.model.eval()(photos))
    weights = load_file(digits_run.path("best.safetensors"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_the_model_of_a_run_without_weights_is_refused(copied_run):
    copied_run.path("best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="the run has not finished its first epoch"):
        copied_run.model()


def test_the_data_set_of_a_run_needs_no_torch(copied_run):
    code = f"import sys, toolkit.run as r; r.load({str(copied_run.folder)!r}).dataset(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_a_resume_of_nothing_says_that_a_run_begins(tmp_path, capsys):
    assert run.new_folder("hw1", "ce", tmp_path / "typo", resume=True) == tmp_path / "typo"
    assert capsys.readouterr().out == f"--resume: {tmp_path / 'typo'} holds no run yet; a new run begins\n"
    begun = make_run(tmp_path / "run", list("ab"))
    run.new_folder(run.load(begun).recipe["recipe"], "ce", begun, resume=True)
    assert capsys.readouterr().out == ""
