"The line on a run's page that says how to run it again, run."

import html
import re
import shlex

import pytest
import torch
from noise import write_noise

from recipes import digits, hw1, rapid
from toolkit.command import run
from toolkit.run import load

SMALL = "--arch test_resnet --weights none --image_size 32 --bs 16 --device cpu --precision fp32 --workers 0".split()
WEIGHTS = [*SMALL[:3], "weights.pth", *SMALL[4:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, few_digits):
    "With photos in `data` and the weights of a network in weights.pth."
    root = tmp_path_factory.mktemp("again")
    learn = hw1.learner(
        write_noise(root / "data", valid=4), arch="test_resnet", weights="none", image_size=32, workers=0
    )
    torch.save(learn.model.state_dict(), root / "weights.pth")
    (root / "few_digits").symlink_to(few_digits)
    return root


def again(page):
    "The words of the command that stands on the page."
    command = html.unescape(re.sub("</?span>", "", re.search("<pre>(.*?)</pre>", page.read_text(), re.DOTALL)[1]))
    return shlex.split(command)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (digits, "--data few_digits --epochs 1".split()),
        (hw1, [*SMALL, "--epochs", "1", "--loss", "focal", "--sampler", "balanced"]),
        (rapid, [*SMALL, "--epochs", "2", "--train_sizes", "24", "32", "--mixup", "0.4", "--average", "last"]),
        pytest.param(rapid, [*WEIGHTS, "--epochs", "2"], marks=pytest.mark.slow),
        (rapid, [*WEIGHTS, "--epochs", "1", "--no-probe", "--exact"]),
        pytest.param(rapid, [*WEIGHTS, "--minutes", "0.1"], marks=pytest.mark.long),
    ],
)
def test_the_line_that_says_how_to_run_it_again_does(recipe, words, folder, tmp_path, monkeypatch, no_export):
    monkeypatch.chdir(folder)
    assert run(recipe.main, [*words, "--out", str(tmp_path / "first")]) == 0
    python, minus_m, module, *said = again(tmp_path / "first" / "report.html")
    assert [python, minus_m, module] == ["python", "-m", recipe.__name__]
    assert run(recipe.main, [*said, "--out", str(tmp_path / "second")]) == 0
    first, second = (load(tmp_path / name) for name in ("first", "second"))
    for one in (first, second):
        for name in ("out", "minutes"):
            one.recipe["options"].pop(name, None)
    assert first.recipe["options"] == second.recipe["options"]
    rows = [
        [line.rpartition(",")[0] for line in one.path("history.csv").read_text().splitlines()]
        for one in (first, second)
    ]
    assert rows[0] == rows[1]
