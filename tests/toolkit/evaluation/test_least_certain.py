"""least_certain.csv: what is written is read, a photo that is gone has no pixels, damage is an error."""

from pathlib import Path

import pytest
from run_folders import make_run

from toolkit.data.dataset import DataSet
from toolkit.evaluation.least_certain import FILE, read_least_certain, write_least_certain
from toolkit.pages.run_page import render
from toolkit.run import load


def test_what_is_written_is_read_and_shown_without_its_photo(tmp_path):
    run = load(make_run(tmp_path / "run", list("ab")))
    data = DataSet(tmp_path, {}, {})
    write_least_certain(run, data, [(tmp_path / "test" / "<b>.jpg", "a", 0.25), (Path("/other/c.jpg"), "b", 0.5)])
    found = read_least_certain(run)
    assert [list(each.values()) for each in found] == [
        ["test/<b>.jpg", "a", 0.25, None],
        ["/other/c.jpg", "b", 0.5, None],
    ]
    page = render(run, {}, None, {})
    assert "&lt;b&gt;.jpg" in page
    assert "<b>.jpg" not in page


def test_a_run_without_the_file_has_none(tmp_path):
    run = load(make_run(tmp_path, list("ab")))
    assert read_least_certain(run) == []
    assert 'id="test"' not in render(run, {}, None, {})


@pytest.mark.parametrize("content", ["file,prediction\n", "file,prediction,confidence\na.jpg,a,high\n"])
def test_a_damaged_file_is_an_error(tmp_path, content):
    run = load(make_run(tmp_path, list("ab")))
    run.path(FILE).write_text(content)
    with pytest.raises(ValueError, match="least_certain.csv"):
        read_least_certain(run)
