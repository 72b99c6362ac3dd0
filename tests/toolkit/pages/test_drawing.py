"""Plots and thumbnails as the pages show them."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image
from run_folders import make_run

from toolkit.evaluation import mistakes
from toolkit.pages import plots
from toolkit.pages.drawing import data_uri, heat_colours, heat_uri, short, svg, with_heat

REPOSITORY = Path(__file__).resolve().parents[3]


def test_thumbnails_are_those_of_pillow_and_the_page_has_them_as_jpeg(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    expected = Image.fromarray(noise)
    expected.thumbnail((160, 160))
    (pixels,) = mistakes.thumbnails(tmp_path, {"a.png", "missing.png"}).values()
    assert (pixels == np.asarray(expected)).all()
    kind, _, content = data_uri(pixels).partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (160, 120))


def test_a_text_of_a_plot_is_drawn_as_it_is_even_if_it_looks_like_a_colour_or_a_link():
    name = "#0072b2 url(#x)"
    drawn = svg(plots.counts({name: 3, "b": 4}), "counts")
    assert f">{name}</text>" in drawn
    assert 'id="counts-figure_1"' in drawn
    assert "fill: var(--blue)" in drawn


def test_a_long_name_keeps_its_start_and_end():
    assert short("a rather long class name number 28", 24) == "a rather lon…e number 28"
    assert [len(short("x" * n, 24)) for n in (23, 24, 25, 200)] == [23, 24, 24, 24]
    assert short("a\nb\rc\td") == "a b c d"


@pytest.mark.parametrize(("low", "high"), [(1.6e-4, 3e-3), (2e-4, 1e-3), (1e-9, 1e-3)])
def test_the_learning_rate_axis_has_2_to_9_ticks(low, high):
    history = {"epoch": np.arange(1.0, 4), "lr": np.array([low, high, low])}
    (axes,) = plots.curves(history, None, ("Learning rate",)).axes
    axes.figure.draw_without_rendering()
    bottom, top = axes.get_ylim()
    assert 2 <= sum(bottom <= mark <= top for mark in axes.get_yticks()) <= 9


def test_plots_neither_import_pyplot_nor_change_its_settings(tmp_path):
    make_run(tmp_path, list("abcd"))
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy();"
        "from toolkit import run; from toolkit.pages.run_page import write_report;"
        f"write_report(run.load({str(tmp_path)!r}));"
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams.copy() == before)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == "False True\n", done.stderr


def test_a_heatmap_colours_the_photo_where_its_cells_are():
    photo = np.full((40, 40, 3), 100, np.uint8)
    drawn = with_heat(photo, np.array([[0, 255], [0, 0]], np.uint8)).astype(float)
    ends = [np.array(colormaps["inferno"](value)[:3]) * 255 for value in (0, 255)]
    dark, bright = (0.4 * 100 + 0.6 * end for end in ends)
    assert drawn[0, -1] == pytest.approx(bright, abs=1.5)
    for corner in (drawn[0, 0], drawn[-1, 0], drawn[-1, -1]):
        assert corner == pytest.approx(dark, abs=1.5)


def test_the_data_uri_of_a_heatmap_is_a_png_of_its_cells():
    cells = np.arange(9, dtype=np.uint8).reshape(3, 3) * 28
    kind, _, data = heat_uri(cells).partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert np.array(image).tolist() == heat_colours(cells).tolist()
