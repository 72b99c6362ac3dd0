"""`--arch auto`: which network is chosen, by which accuracy, within which time; what is told, recorded and refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from here import here
from noise import write_noise
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from recipes import hw1, rapid
from toolkit.finetuning.linear_probe import STRENGTHS, features_of
from toolkit.models.at_hand import Candidate, Choice
from toolkit.models.catalogue import NETWORKS
from toolkit.models.timm_model import create_model
from toolkit.options import Options
from toolkit.search import network_probe, network_text
from toolkit.search.network import Comparison, best_network, fastest_of_best
from toolkit.search.network_text import Compared, nothing_to_compare, print_compared, worth_fetching
from toolkit.search.network_time import Budget, Task, forward_seconds, published_seconds, training_seconds

SMALL = {"image_size": 32, "device": "cpu", "workers": 0, "precision": "fp32", "epochs": 2}
ROWS = {each.name.partition(".")[0]: each for each in NETWORKS}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), valid=5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A folder of weights for three networks, one of which does not fit."
    folder = tmp_path_factory.mktemp("weights")
    for seed, arch in enumerate(("test_resnet", "test_efficientnet")):
        torch.manual_seed(seed)
        torch.save(create_model(arch, 3, "none").state_dict(), folder / f"{arch}.pth")
    torch.save({"x": torch.zeros(1)}, folder / "test_vit.pth")
    return folder


@pytest.fixture(scope="module")
def done(photos, weights, tmp_path_factory):
    "(run folder, what the command printed) of --arch auto."
    import contextlib
    import io

    out = tmp_path_factory.mktemp("runs") / "run"
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert here("--data", photos, "--weights", weights, "--arch", "auto", "--out", out, *words, recipe=rapid) == 0
    return out, told.getvalue()


def options(photos, weights, **more):
    return Options(data=photos, arch="auto", weights=str(weights), **SMALL | more)


def compared(name, accuracy, training, error=0.02):
    return Compared(name, "imagenet", "mit", accuracy, error, 1.0, training)


def test_the_fastest_within_a_standard_error_of_the_best_is_chosen():
    best, near, far = compared("best", 0.9, 90), compared("near", 0.881, 40), compared("far", 0.879, 10)
    assert fastest_of_best([far, best, near]) is near
    assert fastest_of_best([far, replace(best, error=0.0), near]).name == "best"


def test_the_accuracy_is_scikit_learns_out_of_fold():
    draws = np.random.default_rng(0)
    labels, folds = draws.integers(0, 3, 90), np.arange(90) % 3
    folds[:4] = -1  # always fitted to
    features = (draws.normal(size=(90, 8)) + labels[:, None] * draws.normal(size=8)).astype(np.float32)
    scaled = (features - features.mean(0)) / features.std(ddof=1)

    def right(l2, fold):
        held = folds == fold
        other = LogisticRegression(C=1 / ((~held).sum() * l2), tol=1e-8, max_iter=5000).fit(
            scaled[~held], labels[~held]
        )
        return (other.predict(scaled[held]) == labels[held]).astype(float)

    first = {l2: right(l2, 0).mean() for l2 in STRENGTHS}
    top = max(first.values())
    l2 = max(l2 for l2 in STRENGTHS if first[l2] >= top - (top * (1 - top) / (folds == 0).sum()) ** 0.5)
    expected = np.concatenate([right(l2, fold) for fold in range(3)]).mean()
    accuracy, error = network_probe.judged(torch.from_numpy(features), torch.from_numpy(labels), folds)
    assert accuracy == pytest.approx(expected, abs=1e-6)
    assert error == pytest.approx((expected * (1 - expected) / 86) ** 0.5)


def test_near_duplicates_are_in_one_fold_and_too_few_photos_are_refused():
    draws = np.random.default_rng(0)
    thumbnails = draws.integers(0, 256, (40, 32, 32)).astype(np.uint8)
    thumbnails[1::2] = thumbnails[::2]  # each photo twice
    features, labels = draws.normal(size=(40, 16)).astype(np.float32), torch.arange(40) // 20
    features[1::2] = features[::2]
    folds = network_probe.folds_of(torch.from_numpy(features), labels, thumbnails)
    assert (folds[::2] == folds[1::2]).all()
    assert set(folds) == {0, 1, 2, 3, 4}
    with pytest.raises(ValueError, match="--arch auto: 2 training photos are too few to hold some out; give a name"):
        network_probe.folds_of(torch.from_numpy(features[:2]), labels[[0, 20]], thumbnails[:2])


def test_a_table_tells_what_was_compared_and_the_record_has_it(done):
    out, told = done
    recipe = json.loads((out / "recipe.json").read_text())
    searched, lines = recipe["searched"], told.splitlines()
    assert lines[0].split() == "--arch auto held-out accuracy compared in training licence".split()
    names = [each["name"] for each in searched["networks"]]
    assert sorted(names) == ["test_efficientnet", "test_resnet"]
    for each in searched["networks"]:
        row = next(line for line in lines if line.startswith(each["name"]))
        assert f"{100 * each['accuracy']:.1f} +- {100 * each['error']:.1f} %" in row
        assert "apache-2.0" in row
    left_out = next(line for line in lines if line.startswith("left out: "))
    assert left_out.startswith("left out: test_vit, ")
    assert "does not fit" in left_out
    assert searched["left_out"].keys() == {"test_vit"}
    assert re.search(
        f"--arch auto: {searched['chosen']}, (the most accurate|the fastest within a standard error)", told
    )
    assert recipe["options"]["arch"] == searched["chosen"]
    assert recipe["options"]["weights"].endswith(f"{searched['chosen']}.pth")


def test_a_resumed_run_takes_the_recorded_network_and_compares_nothing(done, photos, weights, capfd):
    out, _ = done
    before = json.loads((out / "recipe.json").read_text())
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    given = ["--data", photos, "--weights", weights, "--arch", "auto", "--out", out, "--resume", *words]
    assert here(*given, recipe=rapid) == 0
    assert "held-out" not in capfd.readouterr().out
    after = json.loads((out / "recipe.json").read_text())
    assert after["searched"] == before["searched"]
    assert after["options"] | {"resume": False} == before["options"]


def test_the_run_is_to_the_bit_that_of_the_chosen_name_and_its_probe_computes_no_features(photos, weights, monkeypatch):
    learn = rapid.learner(photos, arch="auto", weights=weights, **SMALL)
    chosen, known = SMALL | {"arch": learn.options.arch, "weights": learn.options.weights}, learn.probe.features
    with learn.no_logging(), learn.no_bar(), monkeypatch.context() as patch:
        patch.setattr("toolkit.finetuning.linear_probe.features_of", None)
        learn.fit(2)
    assert learn.probe.features is None
    other = rapid.learner(photos, **chosen)
    with other.no_logging(), other.no_bar():
        other.fit(2)
    pairs = zip(learn.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(mine, others) for mine, others in pairs)
    assert all(map(torch.equal, known[:2], features_of(rapid.learner(photos, **chosen))))
    assert other.probe.doubts == learn.probe.doubts


def test_any_recipe_takes_auto_and_a_network_that_cannot_be_probed_is_left_out(photos, weights, tmp_path, capsys):
    for path in weights.glob("test_resnet.pth"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    learn = hw1.learner(photos, arch="auto", weights=tmp_path, **SMALL)
    assert learn.options.arch == "test_resnet"
    assert learn.searched["chosen"] == "test_resnet"


def test_offline_a_network_of_the_hub_cache_is_compared_and_trained(photos, tmp_path, monkeypatch, capsys):
    snapshot = tmp_path / "models--timm--mobilenetv2_100.ra_in1k" / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123456789abcdef")
    source = timm.create_model("mobilenetv2_100", num_classes=1000)
    save_file(source.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    learn = rapid.learner(photos, arch="auto", **SMALL)
    assert (learn.options.arch, learn.options.weights) == ("mobilenetv2_100.ra_in1k", "imagenet")
    assert learn.model.origin["source"] == "timm/mobilenetv2_100.ra_in1k"
    assert torch.equal(learn.model.conv_stem.weight, source.conv_stem.weight)
    assert "worth fetching: timm/vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k" in capsys.readouterr().out
    with pytest.raises(ConnectionError, match="no way to .* for the ImageNet weights of vit_mediumd"):
        rapid.learner(photos, arch="auto", fetch=1, **SMALL)


# The time


def test_the_seconds_of_training_are_three_forward_passes_a_photo_and_one_to_validate():
    assert training_seconds(Task(100, 20, 32, "cpu"), 0.5, 4) == 4 * 0.5 * (3 * 100 + 20)


def test_a_forward_pass_is_timed_and_changes_nothing(photos):
    learn = rapid.learner(photos, arch="test_resnet", weights="none", **SMALL)
    learn.model.train()
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    assert 0 < forward_seconds(learn) < 10
    assert learn.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in learn.model.state_dict().items())


def test_a_published_speed_counts_in_proportion_to_the_area():
    row = ROWS["convnext_tiny"]
    assert published_seconds(row, Task(1, 1, 224, "cpu")) == pytest.approx(1 / row.cpu)
    assert published_seconds(row, Task(1, 1, 112, "cuda")) == pytest.approx(1 / row.gpu / 4)
    assert published_seconds(ROWS["vit_small_patch16_dinov3"], Task(1, 1, 224, "cpu")) is None


def budget(minutes, spent=0.0):
    made = Budget(minutes)
    made.task, made.spent = Task(1000, 100, 224, "cpu"), lambda: spent
    return made


def test_a_network_is_left_out_if_three_epochs_do_not_fit_into_two_thirds_of_the_minutes():
    each = 60 * 10 * 2 / 3 / (3 * (3 * 1000 + 100))  # just fits 10 minutes
    assert budget(10).fault(0.999 * each, first=True) is None
    assert budget(10).fault(1.1 * each, first=True) == "3 epochs would take 7.3 minutes"


def test_comparing_stops_at_a_third_of_the_minutes_but_one_network_is_compared_in_any_case():
    assert budget(10, spent=190.0).fault(0.011, first=False) == (
        "to compare it too would take more than a third of the minutes"
    )
    assert budget(10, spent=190.0).fault(0.011, first=True) is None
    assert budget(10, spent=180.0).fault(0.011, first=False) is None
    assert budget(10, spent=201.0).is_spent()
    assert not budget(None, spent=1e9).is_spent()


@pytest.mark.long
def test_with_minutes_networks_are_timed_first_and_too_slow_ones_are_never_compared(
    photos, weights, monkeypatch, capsys
):
    seconds = {"test_resnet": 0.001, "test_efficientnet": 100.0}
    monkeypatch.setattr("toolkit.search.network.forward_seconds", lambda learn: seconds[learn.options.arch])
    learn = rapid.learner(photos, arch="auto", weights=weights, minutes=1.0, **SMALL | {"epochs": None})
    assert learn.options.arch == "test_resnet"
    assert learn.searched["left_out"]["test_efficientnet"].startswith("3 epochs would take ")
    assert learn.own_options["minutes"] == 1.0
    told = capsys.readouterr().out
    assert "left out: test_efficientnet, 3 epochs would take " in told
    left = float(re.search(r"^--minutes ([\d.]+): \d+ epochs", told, re.MULTILINE)[1])
    assert left < 1.0  # the comparison is part of the minutes


def test_no_network_that_can_be_trained_in_the_minutes_is_an_error_that_says_what_is_needed(photos, weights, capfd):
    words = [f"--{name}={value}" for name, value in SMALL.items() if name != "epochs"]
    given = ["--data", photos, "--weights", weights, "--arch", "auto", "--minutes", "0.00001", *words]
    assert here(*given, recipe=rapid) == 2
    told = capfd.readouterr().err
    assert re.fullmatch(
        r"error: --arch auto --minutes 1e-05: too little for any network; \w+ needs about [\d.e-]+\n", told
    )


# Nothing at hand, and what would be worth fetching


def test_without_weights_at_hand_the_error_says_what_is_worth_fetching(photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    assert here("--data", photos, "--arch", "auto", *words, recipe=rapid) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert first == f"error: --arch auto: no network to compare in the hub cache {tmp_path}"
    assert second.startswith(
        "worth fetching: timm/vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k (86.6 % of ImageNet), "
    )
    assert second.endswith("; give --fetch 3, or --arch NAME")


def test_an_empty_folder_is_an_error_that_says_what_it_takes(photos, tmp_path, capfd):
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    assert here("--data", photos, "--arch", "auto", "--weights", tmp_path, *words, recipe=rapid) == 2
    assert capfd.readouterr().err == (
        f"error: --arch auto: no network to compare in {tmp_path}; give a folder of <timm's name>.safetensors or .pth "
        "files, or --arch NAME\n"
    )


def test_a_fault_that_has_nothing_to_do_with_the_networks_is_the_error_itself(photos, weights, capfd):
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    given = ["--data", photos, "--weights", weights, "--arch", "auto", "--minutes", 5, *words]
    assert here(*given, recipe=rapid) == 2
    assert capfd.readouterr().err == "error: --epochs 2 and --minutes 5: give one of them\n"


def test_networks_left_out_are_named_in_the_error_with_the_reason(tmp_path):
    found = Choice(left_out={"a": "no good", "b": "bad", "c": "worse"})
    assert nothing_to_compare(str(tmp_path), found, Budget(None)).startswith(
        f"--arch auto: no network to compare in {tmp_path} (a: no good; b: bad); give "
    )


def test_with_minutes_only_networks_that_are_fast_enough_are_worth_fetching():
    known, missing = ROWS["mobilenetv2_100"], [each for each in NETWORKS if each.name[:6] != "mobile"]
    slow = budget(10)
    slow.slowness = 0.02 / published_seconds(known, slow.task)  # this machine takes 0.02 s a photo for a mobilenetv2

    def fits(row):
        return 0.02 * known.cpu / row.cpu * (known.pixels and 224 / row.pixels) ** 2 * 9300 <= 400

    for row in missing:
        if row.cpu:
            assert slow.fits(row) == fits(row), row.name
    names = [each.name for each in worth_fetching(missing, slow, best=73.0)]
    ranked = sorted((each for each in missing if each.cpu and fits(each)), key=lambda each: -each.accuracy)
    assert names == [each.name for each in ranked if each.measure != "zero-shot"][:3]
    assert names[0] != worth_fetching(missing, budget(None))[0].name
    assert not worth_fetching(missing, slow, best=99.0)


def test_better_networks_that_are_not_there_are_told_after_the_table(capsys):
    row = ROWS["mobilenetv2_100"]
    found = Choice([Candidate(row.name, "imagenet", row.licence, row)], {}, [ROWS["convnext_tiny"], ROWS["levit_128s"]])
    one = compared(row.name, 0.5, 9.0)
    print_compared([one], one, found, Budget(None))
    told = capsys.readouterr().out
    assert (
        "worth fetching: timm/convnext_tiny.in12k_ft_in1k (84.2 % of ImageNet), timm/levit_128s.fb_dist_in1k "
        "(76.5 % of ImageNet); --fetch 2 downloads them\n"
    ) in told


def test_a_machine_that_was_not_timed_is_timed_by_a_network_with_random_weights(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    tried = []

    def build(options, **own):
        tried.append((options.arch, options.weights))
        return rapid.learner.recipe.build(replace(options, arch="test_resnet", lr=0.1, bs=8), **own)

    own = {name: rapid.learner.recipe.signature.parameters[name].default for name in rapid.learner.recipe.own}
    with pytest.raises(ValueError, match="no network to compare in the hub cache"):
        best_network(build, options(photos, "imagenet", epochs=None), own | {"minutes": 5.0})
    assert tried == [("mobilenetv2_100.ra_in1k", "none")]


def test_a_network_to_be_fetched_is_timed_with_random_weights_before_it_is(photos, monkeypatch):
    row = ROWS["levit_128s"]
    tried = []
    comparison = Comparison(None, options(photos, "imagenet"), Choice(), Budget(1.0))
    monkeypatch.setattr(comparison, "learner", lambda name, weights: tried.append(weights))
    monkeypatch.setattr("toolkit.search.network.forward_seconds", lambda learn: 1e9)
    monkeypatch.setattr(comparison.budget, "timed", lambda *given: None)
    monkeypatch.setattr(comparison.budget, "fault", lambda each, first: "too slow")
    comparison.add(Candidate(row.name, "imagenet", row.licence, row, cached=False))
    assert tried == ["none"]
    assert comparison.found.left_out == {row.name: "too slow"}
    assert network_text.published(comparison.found, []) == 0.0


def test_several_processes_and_a_recipe_without_a_command_are_refused(photos, weights, monkeypatch):
    monkeypatch.setattr("toolkit.ranks.count", lambda: 2)
    with pytest.raises(ValueError, match="--arch auto on 2 processes: give a name, such as one process alone finds"):
        best_network(None, options(photos, weights), {})
    with pytest.raises(ValueError, match="--arch auto is chosen by a recipe's command; give the name "):
        create_model("auto", 3)
