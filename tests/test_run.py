"""Files that are never half written, folders that are never overwritten, a recipe.json that is checked."""

import errno
import json
import os

import pytest

from export import journal
from toolkit import run


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "metrics.json"
    run.write_json(path, {"accuracy": 1})

    def write_half():
        with run.replacing(path) as beside:
            beside.write_bytes(b"{")
            raise OSError(errno.ENOSPC, "No space left on device")

    pytest.raises(OSError, write_half)
    with pytest.raises(ValueError, match="Out of range float|not JSON compliant"):
        run.write_json(path, {"accuracy": float("nan")})
    assert json.loads(path.read_text()) == {"accuracy": 1}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    run.write_atomic(tmp_path / "atomic", "ä\r\n")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "atomic").read_bytes() == "ä\r\n".encode()


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
def test_a_recipe_that_is_none_is_refused(tmp_path, content, message):
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


def test_a_run_clears_what_was_half_written_in_its_folder_but_not_what_a_prediction_is_writing(tmp_path):
    with journal.held(tmp_path / "p.csv.partial"), run.replacing(tmp_path / "p.csv") as table:
        for name in (".p.json.abcd1234", ".last.pt.abcd1234"):
            (tmp_path / name).write_bytes(b"half")
        held = run.lock(tmp_path)
        assert table.exists()
        assert sorted(path.name for path in tmp_path.glob(".*.abcd1234")) == []
        held.release()
    assert (tmp_path / "p.csv").exists()
