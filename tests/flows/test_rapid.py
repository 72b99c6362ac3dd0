"""rapid through its command: what it chooses, says and records; its time budget; each of its options."""

import csv
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import forked
import pytest
import timm
import torch
from fastai.torch_core import set_seed
from here import here
from noise import write_noise

from recipes import rapid
from toolkit import run as runs
from toolkit.finetuning.frozen_batch_norm import FrozenBatchNorm
from toolkit.finetuning.head_temperature import FACTORS, HeadTemperature
from toolkit.options import Options
from toolkit.search import halving
from toolkit.search.epoch_time import epochs_and_size
from toolkit.search.method import Method
from toolkit.search.plan import default_settings, fit_budget
from toolkit.search.search_method import set_method
from toolkit.training.begin import begin
from toolkit.training.fit import fit

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--arch test_resnet --image_size 32 --device cpu --precision fp32 --workers 0".split()


def command(*arguments):
    words = [sys.executable, "-m", "recipes.rapid", *map(str, arguments)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return forked.run(words, cwd=ROOT, capture_output=True, text=True, env=one_thread, check=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A file of weights for test_resnet, such as a pretrained network has."
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pth"
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def done(photos, weights, tmp_path_factory):
    "(run, what the command printed) with every option that may be left to it."
    out = tmp_path_factory.mktemp("runs") / "run"
    ended = command("--data", photos, "--weights", weights, "--epochs", 3, "--profile", "--out", out, *SMALL)
    assert ended.returncode == 0, ended.stderr
    return runs.load(out), ended


def options(run):
    return run.recipe["options"]


def test_what_it_chose_is_told_and_recorded(done, photos):
    run, ended = done
    count = run.recipe["data"]["train"]
    lines = [line for line in ended.stdout.splitlines() if not line.startswith("checked ")]  # if that took a second
    assert lines[0] == f"{count} photos, pretrained weights: bs 16, probe True, train_sizes 32"
    said = re.fullmatch(r"by the probe's features: photos (un)?like those of pretraining, mirrored ones .*", lines[1])
    decay = round(0.1 ** (1 / 3), 3)  # layers: stem, four stages, head; the first two are frozen, the third at 10 %
    batches_of_16 = math.sqrt(0.5)
    like = {
        "lr": 6e-4 * batches_of_16,
        "frozen": 0.333,
        "layer_decay": decay,
        "batch_norm": "fixed",
        "crop_area": 0.25,
    }
    unlike = {
        "lr": 3.5e-4 * batches_of_16,
        "frozen": 0.333,
        "layer_decay": 1.0,
        "batch_norm": "fixed",
        "crop_area": 0.6,
    }
    method = unlike if said[1] else like
    assert lines[2].startswith(", ".join(f"{name} {value:.3g}" for name, value in list(method.items())[:3]))
    expected = {"bs": 16, "probe": True, "epochs": 3, "average": "ema"} | method
    assert {name: options(run)[name] for name in expected} == pytest.approx(expected)
    assert [words.split()[0] for words in ended.stdout.splitlines()[-3:]] == ["report", "curves", "model"]


def test_its_history_begins_with_the_probe(done):
    run, _ = done
    rows = list(csv.DictReader(run.path("history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["lr"]) == float(rows[1]["lr"]) == pytest.approx(options(run)["lr"] / 25)
    assert float(rows[2]["lr"]) > float(rows[1]["lr"])


def test_its_profile_is_of_the_epochs_that_train(done):
    run, ended = done
    assert run.metrics["profile"]["epochs"] == 2
    assert min(run.metrics["profile"]["seconds"][part] for part in ("forward", "backward", "validation")) > 0


@pytest.mark.long
def test_a_finished_run_is_resumed_with_more_epochs_and_refused_with_another_decay(
    done, photos, weights, tmp_path, capfd
):
    run = runs.load(shutil.copytree(done[0].folder, tmp_path / "run"))
    again = ["--data", photos, "--weights", weights, "--out", run.folder, "--resume", *SMALL]
    assert here(*again, "--epochs", 4, "--layer_decay", 0.5, recipe=rapid) == 2
    other = capfd.readouterr()
    assert "epoch" not in other.out
    assert re.search(r"it was begun with --layer_decay [01]\.\d+, now it is 0\.5;", other.err)
    assert here(*again, "--epochs", 4, recipe=rapid) == 0
    assert "going on after 3 of 4 epochs" in capfd.readouterr().out
    assert len(list(csv.DictReader(run.path("history.csv").open()))) == 4


def test_batch_norms_keep_their_statistics_only_if_that_is_asked_for(photos, weights):
    small = {"arch": "test_resnet", "image_size": 32, "device": "cpu", "workers": 0}
    for given, fixed in (
        ({"weights": weights, "batch_norm": "adapt"}, False),
        ({"weights": weights, "batch_norm": "fixed"}, True),
        ({"weights": weights, "batch_norm": "fixed", "probe": False}, True),
        ({"weights": "none"}, False),
    ):
        assert rapid.learner(photos, **small, **given).callback(FrozenBatchNorm).everywhere == fixed


@pytest.mark.long
def test_without_weights_nothing_is_probed_and_every_option_is_taken(photos, tmp_path, capfd):
    given = "--weights none --epochs 2 --average last --mixup 0.4 --train_sizes 16 32 --bs 8 --accum 2".split()
    ended = command("--data", photos, "--out", tmp_path / "run", *given, *SMALL)
    assert ended.returncode == 0, ended.stderr
    run = runs.load(tmp_path / "run")
    method = "lr 0.0005, frozen 0, layer_decay 1, batch_norm adapt, crop_area 0.25, mirror yes, probe False"
    assert f"photos, random weights: {method}\n" in ended.stdout
    assert (options(run)["probe"], options(run)["train_sizes"], options(run)["bs"]) == (False, [16, 32], 8)
    assert here("--data", photos, "--out", tmp_path / "run", *given, *SMALL, "--resume", recipe=rapid) == 0
    assert "all 2 epochs are done\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--epochs", 3, "--minutes", 5], "--epochs 3 and --minutes 5: give one of them"),
        (["--minutes", "0.0001"], "--minutes 0.0001: the linear probe with what comes before it takes "),
        (["--layer_decay", 2], "--layer_decay 2.0: give more than 0, at most 1"),
        (["--mixup", -1], "--mixup -1.0: give 0 (none) or more"),
        (["--train_sizes", 0], "--train_sizes 0: give 1 pixel or more"),
    ],
)
def test_what_can_not_be_is_refused_in_two_lines(photos, weights, tmp_path, capfd, given, told):
    words = ["--data", photos, "--weights", weights, "--out", tmp_path / "run", *SMALL, *given]
    assert here(*words, recipe=rapid) == 2
    refused = capfd.readouterr().err
    assert refused.startswith(f"error: {told}")
    assert len(refused.splitlines()) <= 2
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_epochs_are_planned_into_the_minutes_by_what_they_were_measured_to_take(photos, weights, tmp_path, monkeypatch):
    learn = rapid.learner(photos, arch="test_resnet", weights=weights, image_size=32, device="cpu", workers=0)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    fit_budget(1.0)(learn)
    assert learn.options.epochs > 3
    assert learn.opt is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())
    monkeypatch.setattr("toolkit.search.plan.epoch_seconds", lambda learn, batches: (8.0, 1.5))
    monkeypatch.setattr("toolkit.search.plan.perf_counter", iter([100.0, 107.0]).__next__)
    fit_budget(2.0)(learn)  # 7 s went into the probe, 1.5 will into its validation
    assert learn.options.epochs == 1 + int((120 - 7 - 1.5) / (1.05 * 9.5))
    assert list(learn.own_options["train_sizes"]) == learn.progressive_resizing.sizes == [32]


@pytest.mark.parametrize("epochs_worth", [0.8, 1.0, 1.9, 2.5, 2.6, 2.98, 3.5, 7.3, 7.7, 20.9])
def test_time_left_over_buys_an_epoch_more_on_squares_an_eighth_smaller_at_most(epochs_worth):
    train, valid, size = 12.0, 2.0, 128

    def cost(epochs, smaller):
        sizes = [smaller, size]
        return sum(valid + train * (sizes[int(2 * epoch / epochs)] / size) ** 2 for epoch in range(epochs))

    budget = epochs_worth * (train + valid)
    epochs, smaller = epochs_and_size(budget, train, valid, size)
    assert size * 7 / 8 <= smaller <= size
    assert smaller % 8 == 0
    assert cost(epochs, smaller) <= budget + 1e-9
    assert epochs in (int(epochs_worth), int(epochs_worth) + 1)
    if epochs == int(epochs_worth):
        assert smaller == size
        assert cost(epochs + 1, 112) > budget
    else:
        assert cost(epochs, size) > budget
        assert smaller + 8 > size or cost(epochs, smaller + 8) > budget


@pytest.mark.parametrize("epochs_worth", [-9.5, -2.5, -1.0, 0.0, 0.5])
def test_where_there_is_no_time_no_epoch_fits(epochs_worth):
    assert epochs_and_size(epochs_worth * 14.0, 12.0, 2.0, 128) == (0, 128)


def test_smaller_squares_are_planned_and_printed_but_do_not_replace_given_ones(photos, weights, monkeypatch, capsys):
    made = {"arch": "test_resnet", "weights": weights, "image_size": 64, "device": "cpu", "workers": 0}
    monkeypatch.setattr("toolkit.search.plan.epoch_seconds", lambda learn, batches: (8.0, 1.5))
    for given, seconds, epochs, sizes in (
        ((), 2.9, 4, (56, 64)),
        ((), 3.1, 4, (64,)),
        ((64,), 2.9, 3, (64,)),
    ):
        learn = rapid.learner(photos, **made, train_sizes=given)
        monkeypatch.setattr("toolkit.search.plan.perf_counter", lambda: 0.0)
        fit_budget((1.5 + seconds * 1.05 * 9.5) / 60, given)(learn)
        assert (learn.options.epochs, learn.own_options["train_sizes"]) == (epochs, sizes)
        assert learn.progressive_resizing.sizes == list(sizes)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--minutes")]
    assert told[0].endswith("; each takes 10.0 s, less in the first half, on squares of 56 pixels")
    assert told[1].endswith("; each takes 10.0 s")


@pytest.mark.parametrize("seconds", [0.1, 9.9])
def test_with_time_for_the_probe_alone_the_probe_is_the_run(photos, weights, seconds, tmp_path, monkeypatch, capsys):
    learn = rapid.learner(photos, arch="test_resnet", weights=weights, image_size=32, device="cpu", workers=0)
    monkeypatch.setattr("toolkit.search.plan.epoch_seconds", lambda learn, batches: (8.0, 1.5))
    monkeypatch.setattr("toolkit.search.plan.perf_counter", lambda: 0.0)
    before = [weight.clone() for weight in learn.model.parameters()]
    fit_budget((1.5 + seconds) / 60)(learn)  # validation after the probe takes 1.5 s
    assert learn.options.epochs == 1
    assert "the probe alone, which is done after 1.5 s; one more epoch would take 10.0 s" in capsys.readouterr().out
    fit(learn, begin(tmp_path / "run", learn))
    changed = [not torch.equal(new, old) for new, old in zip(learn.model.parameters(), before, strict=True)]
    assert changed == [False] * (len(before) - 2) + [True] * 2  # the classifier alone
    with pytest.raises(ValueError, match="the linear probe with what comes before it takes 0.025; give as much"):
        fit_budget(1.4 / 60)(learn)


def test_without_a_probe_there_is_time_for_an_epoch_or_an_error(photos, monkeypatch):
    made = {"arch": "test_resnet", "weights": "none", "image_size": 32, "device": "cpu", "workers": 0}
    learn = rapid.learner(photos, **made)
    monkeypatch.setattr("toolkit.search.plan.epoch_seconds", lambda learn, batches: (8.0, 1.5))
    monkeypatch.setattr("toolkit.search.plan.perf_counter", lambda: 0.0)
    with pytest.raises(ValueError, match="one epoch with what comes before it takes 0.17; give as much"):
        fit_budget(9.9 / 60)(learn)


def test_a_network_of_one_size_only_is_not_given_smaller_squares(photos, monkeypatch):
    learn = rapid.learner(photos, arch="test_vit", weights="none", image_size=64, device="cpu", workers=0)
    learn.model.pretrained_cfg["fixed_input_size"] = True
    monkeypatch.setattr("toolkit.search.plan.epoch_seconds", lambda learn, batches: (8.0, 1.5))
    fit_budget(2.9 * 1.05 * 9.5 / 60)(learn)
    assert (learn.options.epochs, learn.own_options["train_sizes"]) == (2, (64,))


def test_a_probe_that_planning_has_done_is_put_in_place_by_its_epoch(photos, weights, tmp_path, monkeypatch):
    made = {"arch": "test_resnet", "weights": weights, "image_size": 32, "device": "cpu", "workers": 0}
    planned, other = (rapid.learner(photos, **made) for _ in range(2))
    fit_budget(1.0)(planned)
    assert planned.probe.found is None
    other.fit(1)
    monkeypatch.setattr("toolkit.finetuning.linear_probe.features_of", None)
    planned.fit(1)
    assert planned.probe.found | {"seconds": 0} == other.probe.found | {"seconds": 0}
    pairs = zip(planned.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.equal(mine, others) for mine, others in pairs)


def test_however_much_time_there_is_no_more_than_a_thousand_epochs_are_planned(photos, weights, tmp_path, capsys):
    learn = rapid.learner(photos, arch="test_resnet", weights=weights, image_size=32, device="cpu", workers=0)
    fit_budget(1e9)(learn)
    assert learn.options.epochs == 1000
    assert learn.own_options["train_sizes"] == (32,)
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("--minutes 1e+09: 1000 epochs, the most that are planned, the first a probe")


def test_a_run_of_another_recipe_is_not_resumed(done, photos, weights, tmp_path, capfd):
    folder = shutil.copytree(done[0].folder, tmp_path / "run")
    recipe = json.loads((folder / "recipe.json").read_text()) | {"recipe": "hw1"}
    del recipe["options"]["train_sizes"]
    (folder / "recipe.json").write_text(json.dumps(recipe))
    again = ["--data", photos, "--weights", weights, "--out", folder, "--resume", "--minutes", 5, *SMALL]
    assert here(*again, recipe=rapid) == 2
    assert capfd.readouterr().err == (
        f"error: --resume {folder}: it was begun by the recipe hw1, now it is rapid; resume it by that, or give "
        "another --out\n"
    )


def test_a_run_that_is_resumed_keeps_the_epochs_and_sizes_it_was_planned_for(done, tmp_path):
    recipe = done[0].recipe
    planned = recipe | {"options": recipe["options"] | {"epochs": 5, "train_sizes": [56, 64], "minutes": 3.0}}
    (tmp_path / "recipe.json").write_text(json.dumps(planned))
    options, own = rapid.learner.recipe.bound((), {"minutes": 1000.0})
    resumed, own = rapid.learner.recipe.resumed(tmp_path, options, own)
    assert (resumed.epochs, own["train_sizes"], own["minutes"]) == (5, (56, 64), None)
    assert resumed.lr == recipe["options"]["lr"]
    given, own = rapid.learner.recipe.resumed(tmp_path, Options(epochs=9), own | {"minutes": 2.0})
    assert (given.epochs, own["minutes"]) == (9, 2.0)  # the recipe then refuses the two together


def test_more_photos_are_trained_on_in_larger_batches_for_fewer_epochs():
    model = timm.create_model("test_resnet", num_classes=3)
    few, some, many = (default_settings(count, model, True, True) for count in (100, 10_000, 1_000_000))
    assert (few["bs"], some["bs"], many["bs"]) == (16, 64, 128)
    assert few["epochs"] > some["epochs"] >= many["epochs"] > 1
    assert few["lr"] < some["lr"] < many["lr"]
    scratch = default_settings(10_000, model, False, True)
    assert scratch["epochs"] > some["epochs"]
    assert (scratch["probe"], scratch["frozen"], scratch["layer_decay"]) == (False, 0.0, 1.0)
    assert default_settings(100, model, False, True)["bs"] == 32


def test_the_rate_is_the_documented_one_for_each_kind_of_photos_and_grows_with_the_root_of_the_batch():
    model = timm.create_model("test_resnet", num_classes=3)
    row = next(
        line for line in (ROOT / "docs/recipes.md").read_text().splitlines() if line.startswith("| `--lr` | 6e-4")
    )
    documented = [float(cell) for cell in row.strip("| ").split("|")[1:]]
    for familiar, rate in zip((True, False), documented, strict=True):
        for bs in (32, 128):
            found = default_settings(500, model, True, True, bs, familiar=familiar)["lr"]
            assert found == pytest.approx(rate * (bs / 32) ** 0.5)


def test_what_is_given_is_not_chosen(photos, weights):
    given = {"bs": 8, "lr": 0.1, "layer_decay": 0.9, "epochs": 2}
    learn = rapid.learner(photos, arch="test_resnet", weights=weights, image_size=32, device="cpu", workers=0, **given)
    used = vars(learn.options) | learn.own_options
    expected = given | {"probe": True, "train_sizes": (32,)}
    assert {name: used[name] for name in expected} == expected


@pytest.mark.slow
def test_rapid_learns_real_photos_from_real_weights(grocery, mobilenet_weights, tmp_path):
    real = f"--arch mobilenetv2_100 --weights {mobilenet_weights} --image_size 128 --device cpu --epochs 5".split()
    ended = command("--data", grocery, "--out", tmp_path / "run", *real)
    assert ended.returncode == 0, ended.stderr
    assert runs.load(tmp_path / "run").metrics["accuracy"] > 0.75


def test_a_search_by_short_runs_is_printed_recorded_and_trains_as_if_its_values_were_given(
    photos, weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("toolkit.search.halving.RUNGS", (1, 1))
    made = {"arch": "test_resnet", "weights": weights, "image_size": 32, "device": "cpu", "workers": 0}
    searched = rapid.learner(photos, **made, minutes=5)
    told = capsys.readouterr().out
    assert "method, judged on " in told
    own = searched.own_options
    assert f"\nlr {searched.options.lr:.3g}, frozen {own['frozen']:.3g}, layer_decay {own['layer_decay']:.3g}" in told
    rows = searched.searched["runs"]
    assert [row["epochs"] for row in rows] == [1] * (8 + 4)  # all candidates, then the better half with the first
    assert begin(tmp_path / "run", searched).recipe["searched"] == {"runs": rows}
    values = {name: own[name] for name in ("frozen", "layer_decay", "batch_norm", "crop_area", "mirror")}
    given = rapid.learner(photos, **made, **values, lr=searched.options.lr, epochs=9)
    assert not given.searched
    for learn in (searched, given):
        set_seed(0)  # a command does it before it makes the learner
        learn.fit(2)
    pairs = zip(searched.model.parameters(), given.model.parameters(), strict=True)
    assert all(torch.equal(mine, others) for mine, others in pairs)


@pytest.mark.long
def test_a_search_that_is_interrupted_goes_on_with_resume(photos, weights, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("toolkit.search.halving.RUNGS", (1, 2))
    words = ["--data", photos, "--weights", weights, *SMALL, "--minutes", 5, "--out"]
    real, left = halving.short_run, [3]

    def interrupted(*arguments):
        def run(method, epochs):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*arguments)(method, epochs)

        return run

    def few(learn, *rest):  # epochs: the budget has time for many
        return 2, (32,)

    monkeypatch.setattr("toolkit.search.plan.epochs_within", few)
    monkeypatch.setattr("toolkit.search.search_method.short_run", interrupted)
    assert here(*words, tmp_path / "run", recipe=rapid) == 130
    assert f"(short runs kept: 3); to go on, give the same options with --out {tmp_path / 'run'} --resume" in (
        capfd.readouterr().err
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["search.json"]
    assert here(*words, tmp_path / "run", recipe=rapid) == 2
    assert "--resume" in capfd.readouterr().err
    left[0] = 99
    assert here(*words, tmp_path / "run", "--resume", recipe=rapid) == 0
    assert left[0] == 99 - (8 + 4 - 3)
    assert not (tmp_path / "run" / "search.json").exists()
    assert here(*words, tmp_path / "whole", recipe=rapid) == 0
    broken, whole = (runs.load(tmp_path / name) for name in ("run", "whole"))
    kept = [[row["method"], row["epochs"], row["loss"]] for row in broken.recipe["searched"]["runs"]]
    assert kept == [[row["method"], row["epochs"], row["loss"]] for row in whole.recipe["searched"]["runs"]]
    assert broken.path("best.safetensors").read_bytes() == whole.path("best.safetensors").read_bytes()


def test_a_value_that_is_given_is_not_searched(photos, weights, capsys):
    made = {"arch": "test_resnet", "weights": weights, "image_size": 32, "device": "cpu", "workers": 0}
    values = {"frozen": 0.2, "layer_decay": 0.7, "batch_norm": "fixed", "crop_area": 0.5, "mirror": "no", "lr": 0.01}
    learn = rapid.learner(photos, **made, **values, minutes=5)
    assert not learn.searched
    assert (vars(learn.options) | learn.own_options).items() >= values.items()
    random = rapid.learner(photos, **made | {"weights": "none"}, minutes=1)
    assert not random.searched
    assert "features" not in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize("like", [True, False])
def test_photos_unlike_those_of_pretraining_are_trained_thoroughly(photos, weights, monkeypatch, like):
    monkeypatch.setattr("toolkit.search.search_method.is_familiar", lambda *features: like)
    made = {"arch": "test_resnet", "weights": weights, "image_size": 32, "device": "cpu", "workers": 0}
    for epochs in (None, 2):
        own = rapid.learner(photos, **made, epochs=epochs).own_options
        assert (own["batch_norm"], own["crop_area"]) == ("fixed", 0.25 if like else 0.6)
        assert (own["layer_decay"] == 1) != like


@pytest.mark.parametrize("probe", [True, False])
def test_the_probed_head_is_scaled_before_training_and_a_new_one_is_not(photos, weights, probe):
    made = {"arch": "test_resnet", "weights": weights, "image_size": 32, "device": "cpu", "workers": 0}
    learn = rapid.learner(photos, **made, probe=probe, epochs=2)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2)
    scaled = learn.callback(HeadTemperature)
    assert scaled.factor in FACTORS if probe else scaled is None


@pytest.mark.parametrize(("batch_norm", "frozen"), [("adapt", 0.0), ("adapt", 0.3), ("fixed", 0.3)])
def test_the_method_that_is_chosen_is_what_trains(photos, weights, batch_norm, frozen):
    made = {"arch": "test_resnet", "weights": weights, "image_size": 32, "device": "cpu", "workers": 0}
    learn = rapid.learner(photos, **made)
    method = Method(lr=0.01, frozen=frozen, layer_decay=1.0, batch_norm=batch_norm, crop_area=0.5, mirror=False)
    set_method(learn, method, rapid.transforms(method))
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    with learn.no_logging():
        learn.fit(2)
    changed = {name for name, tensor in learn.model.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {name for name in changed if "running" in name}
    trained = {name.partition(".")[0] for name in changed}
    assert trained == {"layer2", "layer3", "layer4", "fc"} | ({"conv1", "bn1", "layer1"} if not frozen else set())
    assert bool(statistics) == (batch_norm == "adapt")
