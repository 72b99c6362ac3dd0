"""heatmaps.json: what is written is read, and damage is an error."""

import json

import numpy as np
import pytest
from run_folders import make_run

from toolkit.evaluation.heatmaps import FILE, LARGEST, Heatmap, Heatmaps, read_heatmaps, write_heatmaps
from toolkit.run import load


def test_what_is_written_is_read_back(tmp_path):
    run, cells = load(make_run(tmp_path, list("ab"))), np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    write_heatmaps(run, Heatmaps("layer4", {"valid/\udcff\n.png": Heatmap("b", cells)}))
    found = read_heatmaps(run)
    assert (found.layer, found.missing) == ("layer4", "")
    assert found.of("valid/\udcff\n.png", "b").tolist() == cells.tolist()
    assert found.of("valid/\udcff\n.png", "a") is None  # explained another class than is predicted now
    assert found.of("other.png", "b") is None


def test_a_run_without_the_file_has_none(tmp_path):
    assert read_heatmaps(load(make_run(tmp_path, list("ab")))) == Heatmaps()


ROWS = {"class": "a", "rows": ["00ff", "0102"]}


@pytest.mark.parametrize("content", [
    [],
    {"layer": 3, "missing": "", "photos": {}},
    {"layer": "x", "missing": ""},
    {"layer": "x", "missing": "", "photos": {"a.png": []}},
    {"layer": "x", "missing": "", "photos": {"a.png": ROWS | {"class": None}}},
    {"layer": "x", "missing": "", "photos": {"a.png": ROWS | {"rows": []}}},
    {"layer": "x", "missing": "", "photos": {"a.png": ROWS | {"rows": ["00ff", "01"]}}},
    {"layer": "x", "missing": "", "photos": {"a.png": ROWS | {"rows": ["00ff", "01g2"]}}},
    {"layer": "x", "missing": "", "photos": {"a.png": ROWS | {"rows": ["00" * (LARGEST + 1)] * (LARGEST + 1)}}},
])  # fmt: skip
def test_a_damaged_file_is_an_error(tmp_path, content):
    run = load(make_run(tmp_path, list("ab")))
    run.path(FILE).write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match="heatmaps.json (holds no layer, missing and photos|has no square of cells for)"
    ):
        read_heatmaps(run)
