"""The recipe of docs/writing-a-recipe.md, used as a user would: from another folder, in processes of its own."""

import html
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from noise import write_noise
from safetensors.torch import load_file

from export.verify import verify
from recipes import loss_study
from toolkit.data.augment import A, RandomResizedCrop, reseed
from toolkit.models.losses import LOSSES
from toolkit.options import TYPES, without_marks
from toolkit.run import load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / "docs" / "example_recipe.py").read_text()
PAGE = (ROOT / "docs" / "writing-a-recipe.md").read_text()
SMALL = "--arch test_resnet --weights none --image_size 32 --bs 16 --device cpu --precision fp32 --workers 0".split()


def python(folder, *words, begin=False, **environment):
    given = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"} | environment
    start = forked.Popen if begin else forked.run
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return start([sys.executable, *map(str, words)], cwd=folder, env=os.environ | given, **outputs)


def train(folder, *words, recipe="example_recipe.py", **options):
    done = python(folder, recipe, "--data", "photos", *SMALL, *words, **options)
    assert done.returncode == 0, done.stderr
    return done


def history(run):
    "Rows of history.csv without the seconds."
    return [line.rpartition(",")[0] for line in run.path("history.csv").read_text().splitlines()]


def assert_same_bits(one, other):
    assert history(one) == history(other)
    first, second = (torch.load(each.path("last.pt"), weights_only=True) for each in (one, other))
    assert first["model"].keys() == second["model"].keys()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    best = [load_file(each.path("best.safetensors")) for each in (one, other)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    "A user's folder: photos/, example_recipe.py and a run of it over 3 epochs."
    folder = tmp_path_factory.mktemp("mine")
    write_noise(folder / "photos", valid=4)
    (folder / "example_recipe.py").write_text(EXAMPLE)
    train(folder, "--epochs", 3, "--dropout", 0.1, "--out", "run")
    return folder


def test_the_page_shows_the_file_in_40_lines():
    assert f"```python\n{EXAMPLE}```" in PAGE
    assert len(EXAMPLE.splitlines()) <= 40


def test_the_loss_option_and_the_table_of_losses_agree():
    assert list(without_marks(TYPES["loss"]).__args__) == list(LOSSES)


def test_it_leaves_what_every_recipe_leaves(mine):
    run = load(mine / "run")
    assert len(history(run)) == 1 + 3
    assert {path.name for path in run.folder.iterdir()} >= {"report.html", "model.onnx", "valid_predictions.csv"}
    assert run.recipe["recipe"] == "example_recipe"
    assert run.recipe["options"]["dropout"] == 0.1
    assert [part["__class_fullname__"] for part in run.recipe["augment"]["transforms"]] == [
        *("toolkit.RandomResizedCrop", "HorizontalFlip", "ColorJitter", "OneOf", "CoarseDropout")
    ]


@pytest.mark.slow
def test_the_line_on_its_page_runs_it_again(mine):
    page = (mine / "run" / "report.html").read_text()
    words = shlex.split(html.unescape(re.sub("</?span>", "", re.search("<pre>(.*?)</pre>", page, re.DOTALL)[1])))
    assert words[:2] == ["python", str(mine / "example_recipe.py")]
    done = python(mine, *words[1:], "--out", "again")
    assert done.returncode == 0, done.stderr
    assert_same_bits(load(mine / "run"), load(mine / "again"))


@pytest.mark.long
def test_interrupted_and_resumed_it_ends_with_the_same_bits(mine):
    words = ["--data", "photos", *SMALL, "--epochs", 3, "--dropout", 0.1, "--out", "broken"]
    process = python(mine, "example_recipe.py", *words, begin=True)
    next(line for line in process.stdout if line.startswith("epoch 1/"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = train(mine, "--epochs", 3, "--dropout", 0.1, "--out", "broken", "--resume")
    assert "going on after" in done.stdout
    assert_same_bits(load(mine / "run"), load(mine / "broken"))


@pytest.mark.slow
def test_a_cosine_that_has_ended_is_not_given_more_epochs(mine):
    shutil.copytree(mine / "run", mine / "longer")
    words = ["--data", "photos", *SMALL, "--epochs", 4, "--dropout", 0.1, "--out", "longer", "--resume"]
    done = python(mine, "example_recipe.py", *words)
    assert done.returncode == 2
    assert "its CosineAnnealingLR ends with T_max=9" in done.stderr


@pytest.mark.slow
def test_with_a_schedule_that_can_grow_more_epochs_are_those_of_an_unbroken_run(mine):
    text = EXAMPLE.replace("CosineAnnealingLR(optimizer, T_max=steps)", "StepLR(optimizer, step_size=4)")
    (mine / "stairs.py").write_text(text.replace("import CosineAnnealingLR", "import StepLR"))
    train(mine, "--epochs", 4, "--out", "unbroken", recipe="stairs.py")
    train(mine, "--epochs", 2, "--out", "grown", recipe="stairs.py")
    train(mine, "--epochs", 4, "--out", "grown", "--resume", recipe="stairs.py")
    assert_same_bits(load(mine / "unbroken"), load(mine / "grown"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "A.HorizontalFlip(p=0.5)",
            "A.VerticalFlip(p=0.5)",
            "now they are Compose[RandomResizedCrop, VerticalFlip, ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "A.GaussianBlur()",
            "A.MedianBlur()",
            "OneOf[GaussianBlur, MotionBlur], now they are OneOf[MedianBlur, ",
            marks=pytest.mark.slow,
        ),
        ("hue=0.05", "hue=0.1", "ColorJitter(hue=[-0.05, 0.05]), now they are ColorJitter(hue=[-0.1, 0.1])"),
    ],
)
def test_a_run_is_not_resumed_with_other_transforms(mine, tmp_path, old, new, message):
    shutil.copytree(mine / "run", tmp_path / "run")
    (tmp_path / "example_recipe.py").write_text(EXAMPLE.replace(old, new))
    words = ["--data", mine / "photos", *SMALL, "--epochs", 3, "--dropout", 0.1, "--out", "run", "--resume"]
    done = python(tmp_path, "example_recipe.py", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.long
def test_a_study_takes_it_by_its_file(mine):
    words = ["--recipe", "example_recipe.py", "--data", "photos", *SMALL, "--losses", "ce", "focal", "--seeds", 1]
    done = python(mine, "-m", "recipes.loss_study", *words, "--epochs", 1, "--options", "dropout=0.2", "--out", "study")
    assert done.returncode == 0, done.stderr
    assert (mine / "study" / "study.html").is_file()
    for loss in ("ce", "focal"):
        recipe = load(mine / "study" / f"{loss}-0").recipe
        assert (recipe["recipe"], recipe["options"]["loss"]) == ("example_recipe", loss)
        assert (recipe["options"]["dropout"], recipe["command"][1]) == (0.2, str(mine / "example_recipe.py"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.py", "--recipe nothing.py: no such file"),
        ("nothing", "--recipe nothing: no such module"),
        ("nothing.mine", "--recipe nothing.mine: no such module"),
        ("./sub/nothing", "--recipe ./sub/nothing: no such module"),
        ("recipes/hw1", "--recipe recipes/hw1: no such module; give .* a module or recipes/hw1.py"),
        ("json", "--recipe json: it has no `main = pipeline"),
    ],
)
def test_a_study_of_no_recipe_is_refused(name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        loss_study.load_recipe(name)


def test_a_study_takes_a_recipe_file_that_imports_its_neighbour(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_rate.py").write_text("LR = 0.02\n")
    text = EXAMPLE.replace("@recipe(", "@recipe(seed=int(LR), ").replace(
        "import SGD\n", "import SGD\nfrom my_rate import LR\n"
    )
    (tmp_path / "with_neighbour.py").write_text(text)
    assert loss_study.load_recipe(str(tmp_path / "with_neighbour.py")).recipe.name == "with_neighbour"


def test_its_run_is_rebuilt_with_its_transforms_and_verified(mine):
    run = load(mine / "run")
    learn = run.learner("cpu")
    train_part = [RandomResizedCrop((32, 32), (0.3, 1.0)), A.HorizontalFlip(p=0.5), A.ColorJitter(hue=0.05, p=0.8)]
    train_part += [A.OneOf([A.GaussianBlur(), A.MotionBlur()], p=0.2), A.CoarseDropout(p=0.3)]
    mine_, rebuilt = A.Compose(train_part), learn.dls.augment.at(32)
    photo = np.random.default_rng(1).integers(0, 256, (40, 48, 3), np.uint8)
    for sample in range(8):
        for compose in (mine_, rebuilt):
            reseed(compose, 0, 0, sample)
        np.testing.assert_array_equal(mine_(image=photo)["image"], rebuilt(image=photo)["image"])
    weights = load_file(run.path("best.safetensors"))
    assert all(torch.equal(weights[name], value) for name, value in run.model().state_dict().items())
    correct = learn.validate()[1]
    assert correct == pytest.approx(run.metrics["accuracy"])
    certificate = verify(run.path("model.onnx"), mine / "photos", device="cpu")
    assert certificate is not None


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ("A.Lambda(image=lambda image, **_: image, name='mine')", "the training transform Lambda can't be recorded"),
        pytest.param("Mine()", "the training transform Mine can't be recorded", marks=pytest.mark.slow),
        pytest.param("A.Normalize()", "expected uint8 [32, 32, 3]", marks=pytest.mark.slow),
    ],
)
def test_transforms_that_would_not_come_back_are_refused_before_a_run_begins(mine, transforms, message):
    own = "class Mine(A.ImageOnlyTransform):\n    pass\n\n\n@recipe("
    text = EXAMPLE.replace("A.CoarseDropout(p=0.3)", transforms).replace("@recipe(", own)
    (mine / "refused.py").write_text(text)
    done = python(mine, "refused.py", "--data", "photos", *SMALL, "--out", "refused")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (mine / "refused").exists()


@pytest.mark.slow
def test_a_recipe_in_a_package_runs_by_its_modules_name(mine):
    (mine / "mypkg").mkdir()
    (mine / "mypkg" / "__init__.py").touch()
    (mine / "mypkg" / "mine.py").write_text(EXAMPLE)
    words = ["--data", mine / "photos", *SMALL, "--epochs", 1, "--out", mine / "packaged"]
    elsewhere = {"PYTHONPATH": f"{ROOT}{os.pathsep}{mine}"}
    done = python(mine / "photos" / "train", "-m", "mypkg.mine", *words, **elsewhere)
    assert done.returncode == 0, done.stderr
    recipe = load(mine / "packaged").recipe
    assert (recipe["recipe"], recipe["command"]) == ("mine", ["python", "-m", "mypkg.mine"])
    study = ["--recipe", "mypkg.mine", "--data", "photos", *SMALL, "--losses", "ce", "--seeds", 1, "--epochs", 1]
    done = python(mine, "-m", "recipes.loss_study", *study, "--out", "packaged_study")
    assert done.returncode == 0, done.stderr
    assert load(mine / "packaged_study" / "ce-0").recipe["command"] == ["python", "-m", "mypkg.mine"]
