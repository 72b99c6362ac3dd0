"""Photos in a zip and in Parquet files through the real commands: the run is that of their folder, to the byte."""

import csv
import json
import shutil
from pathlib import Path

import datasets
import pytest
from here import here
from noise import write_noise

from export.verify import verify
from recipes import hw1
from toolkit.check import main
from toolkit.command import run
from toolkit.data.on_disk.photo_files import find_photos
from toolkit.run import load
from toolkit.training.begin import begin
from toolkit.training.evaluate import evaluate
from toolkit.training.fit import fit

SMALL = "--arch test_resnet --weights none --image_size 32 --bs 16 --workers 0 --device cpu --precision fp32".split()


@pytest.fixture(autouse=True)
def cache(empty_data_cache):
    return empty_data_cache


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "A folder with train/, val/ and test/."
    folder = write_noise(tmp_path_factory.mktemp("photos") / "noise", 4)
    (folder / "test").mkdir()
    for number, photo in enumerate(find_photos(folder / "val")[:3]):
        shutil.copy(photo, folder / f"test/t{number}.png")
    return folder


SAME = {"arch": "test_resnet", "weights": "none", "image_size": 32, "bs": 16, "workers": 0, "device": "cpu"}


def begun(data, out, **more):
    "The run of hw1's learner, which has not been trained, and the learner."
    learn = hw1.learner(data, out=out, epochs=1, precision="fp32", **SAME, **more)
    return begin(out, learn), learn


def trained(data, out):
    "The run of a learner after an epoch."
    run, learn = begun(data, out)
    fit(learn, run)
    evaluate(learn, run)
    return run


@pytest.mark.long
def test_a_run_on_a_zip_is_the_run_on_its_folder_goes_on_is_rebuilt_and_verified(photos, tmp_path, cache):
    archive = Path(shutil.make_archive(str(tmp_path / "noise"), "zip", photos.parent, photos.name))
    packed, plain = trained(archive, tmp_path / "zip"), trained(photos, tmp_path / "plain")
    for name in ("valid_predictions.csv", "best.safetensors"):
        assert packed.path(name).read_bytes() == plain.path(name).read_bytes()
    data = packed.recipe["data"]
    assert data["fingerprint"] == plain.recipe["data"]["fingerprint"]
    assert packed.recipe["options"]["data"] == data["source"] == str(archive)
    assert "source" not in plain.recipe["data"]
    del packed  # it holds the lock of its folder
    shutil.rmtree(cache)
    moved = archive.rename(tmp_path / "moved.zip")
    assert here("--data", moved, "--out", tmp_path / "zip", "--epochs", 2, "--resume", *SMALL) == 0
    again = load(tmp_path / "zip")
    with again.path("history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    with again.path("predictions.csv").open() as file:
        assert [row["image_name"] for row in csv.DictReader(file)] == ["t0", "t1", "t2"]
    assert again.recipe["data"]["source"] == str(moved)
    shutil.rmtree(cache)  # what it was unpacked into is made again for the Learner
    assert len(again.learner("cpu").dls.valid_ds) == 12
    shutil.rmtree(cache)
    certificate = verify(again.path("model.onnx"), moved, device="cpu")
    assert certificate["images"] == 12  # the run's validation photos alone


def test_a_zip_with_other_photos_does_not_resume_the_run(photos, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "noise"), "zip", photos))
    begun(archive, tmp_path / "run")
    shutil.copytree(photos, tmp_path / "other")
    next((tmp_path / "other/train/c0").iterdir()).unlink()
    shutil.make_archive(str(tmp_path / "noise"), "zip", tmp_path / "other")
    with pytest.raises(ValueError, match="the photos are not those it was begun with"):
        begun(archive, tmp_path / "run", resume=True)


def test_parquet_files_are_checked_as_their_folder(photos, tmp_path, capsys):
    names = sorted(path.name for path in (photos / "train").iterdir())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    (tmp_path / "table").mkdir()
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        files = find_photos(photos / split)
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        labels = [-1 if split == "test" else names.index(file.parent.name) for file in files]
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(tmp_path / f"table/{name}-00000-of-00001.parquet")
    statuses, found = [], []
    for data in (photos, tmp_path / "table"):
        statuses.append(run(main, [str(data), "--json"]))
        found.append(json.loads(capsys.readouterr().out))
    assert found[1].pop("data") == str(tmp_path / "table")
    assert found[0].pop("data") == str(photos)
    assert found[0] == found[1]
    assert statuses[0] == statuses[1]


def test_columns_are_named_to_a_recipe_and_kept_by_a_resume(photos, tmp_path, cache):
    files = find_photos(photos / "train")
    columns = {
        "photo": [file.read_bytes() for file in files],
        "kind": [file.parent.name for file in files],
        "camera": ["x"] * len(files),
    }
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "x.parquet")
    run, learn = begun(tmp_path / "x.parquet", tmp_path / "run", label_column="kind")
    assert run.recipe["classes"] == ["c0", "c1", "c2"]
    options, _ = hw1.learner.recipe.resumed(run.folder, *hw1.learner.recipe.bound((tmp_path / "x.parquet",), {}))
    assert (options.image_column, options.label_column) == (None, "kind")
    shutil.rmtree(cache)
    assert list(run.dataset().valid) == list(learn.dls.data.valid)
