"""The finder's curve as a file that comes back as it was, and as a plot with words."""

import pytest

from toolkit.evaluation.results import Curve, read_curve, write_curve
from toolkit.pages import plots
from toolkit.pages.drawing import BLUE
from toolkit.pages.run_panels import finder_panels
from toolkit.run import Run

CURVE = Curve([1e-6, 1e-4, 1e-2, 1.0], [2.5, 2.25, 1.5, 40.0], 3e-3)


def test_a_curve_that_was_written_is_read_as_it_was(tmp_path):
    run = Run(tmp_path)
    assert read_curve(run) is None
    assert finder_panels(run) == []
    write_curve(CURVE, run)
    assert read_curve(run) == CURVE


def test_its_panel_says_in_words_what_the_plot_shows(tmp_path):
    write_curve(CURVE, Run(tmp_path))
    [panel] = finder_panels(Run(tmp_path))
    assert panel["alt"] == (
        "Learning-rate finder: training loss 2.5 at rate 1e-06, lowest 1.5 at 1.0e-02, 40 at 1.0e+00; chosen rate 0.003"
    )
    assert "chosen: 0.003" in panel["svg"]
    assert BLUE not in panel["svg"]


def test_the_chosen_rate_stands_in_the_plot_and_what_diverges_does_not_flatten_it():
    [axes] = plots.finder(CURVE.lrs, CURVE.losses, CURVE.chosen).axes
    curve, chosen = axes.lines
    assert list(curve.get_xdata()) == CURVE.lrs
    assert set(chosen.get_xdata()) == {CURVE.chosen}
    assert axes.get_xscale() == "log"
    low, high = axes.get_ylim()
    assert low < 1.5
    assert 2.5 < high < 5


@pytest.mark.parametrize("row", ["1e-3,nan,1e-3", "x,1,1e-3", "-1,1,1e-3", "0.1,1,0"])
def test_a_damaged_file_is_refused_with_the_remedy(tmp_path, row):
    (tmp_path / "lr_finder.csv").write_text(f"lr,loss,chosen\n{row}\n")
    with pytest.raises(ValueError, match=r"lr_finder.csv holds no rates above 0 with their losses: restore it"):
        read_curve(Run(tmp_path))
    (tmp_path / "lr_finder.csv").write_text("lr,loss,chosen\n")
    with pytest.raises(ValueError, match="holds no rates"):
        read_curve(Run(tmp_path))
