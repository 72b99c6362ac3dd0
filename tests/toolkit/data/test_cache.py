"""The cache of decoded photos: the same pixels, never stale, never half written, never more than the disk can hold."""

import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from here import here
from noise import write_noise
from sklearn.datasets import load_sample_images
from torchvision.transforms import functional as F

from toolkit.data.augment import homework, reseed
from toolkit.data.augmentation import train_transform
from toolkit.data.cache import HEADER, TRAINED, open_cache
from toolkit.data.dataloaders import make_dataloaders
from toolkit.data.dataset import find_data
from toolkit.data.photo import read_photo, read_reduced
from toolkit.data.preprocess import for_size, resize_center_crop, smallest_side
from toolkit.options import Options
from toolkit.run import load

ROOT = Path(__file__).resolve().parents[3]
SIZE = 32  # photos are reduced from a shorter side of 2 * 128 pixels for training, of 2 * 102 for validation
SIDES = {"whole": (150, 190), "valid_only": (220, 300), "both": (300, 400), "quarter": (520, 701)}


def write_photos(root: Path, kinds: dict[str, tuple[int, int]], form: str = "jpg") -> Path:
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            (root / split / label).mkdir(parents=True)
            for kind, size in kinds.items():
                pixels = cv2.resize(draws.integers(0, 256, (9, 12, 3), np.uint8), size[::-1])
                cv2.imwrite(str(root / split / label / f"{kind}.{form}"), pixels)
    return root


@pytest.fixture
def data(tmp_path):
    return find_data(write_photos(tmp_path / "photos", SIDES))


@pytest.fixture
def small(tmp_path):
    return find_data(write_noise(tmp_path / "noise", 4))


def loaders(data, cache=None, workers=0):
    options = Options(data.path, bs=4, image_size=SIZE, workers=workers, device="cpu", cache=cache)
    return make_dataloaders(options, data, homework(), resize_center_crop(SIZE), normalize={})


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def the_file(folder):
    [file] = folder.glob("*.photos")
    return file


def test_validation_photos_are_bit_for_bit_those_of_read_reduced(data, tmp_path):
    cache, shorter = open_cache(tmp_path / "c", data, for_size(SIZE)), smallest_side(for_size(SIZE))
    shapes = set()
    for path in (*data.train, *data.valid):
        expected, whole = read_reduced(path, shorter)
        photo, size = cache.read(path, valid=True)
        np.testing.assert_array_equal(photo, expected)
        assert size == whole
        shapes.add(photo.shape[:2])
    assert shapes == {(150, 190), (110, 150), (150, 200), (130, 176)}


def test_training_photos_keep_four_times_the_image_size(data, tmp_path):
    cache = open_cache(tmp_path / "c", data, for_size(SIZE))
    shapes = {path.stem: cache.read(path, valid=False)[0].shape[:2] for path in data.train}
    assert shapes == {"whole": (150, 190), "valid_only": (220, 300), "both": (150, 200), "quarter": (130, 176)}
    for path in data.train:
        np.testing.assert_array_equal(cache.read(path, valid=False)[0], read_reduced(path, TRAINED * SIZE)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_whole_photos_are_the_same_with_and_without_a_cache(small, tmp_path, workers):
    plain, cached = loaders(small), loaders(small, tmp_path / "c", workers)
    assert cached.reduced_to is None
    assert same(plain.train, cached.train)
    assert same(plain.valid, cached.valid)


def test_reduced_photos_leave_validation_the_same_and_the_loaders_say_that_training_differs(data, tmp_path):
    plain, cached = loaders(data), loaders(data, tmp_path / "c")
    assert same(plain.valid, cached.valid)
    assert same(plain.test_dl(list(data.train), with_labels=True), cached.test_dl(list(data.train), with_labels=True))
    assert (plain.reduced_to, cached.reduced_to) == (None, TRAINED * SIZE)
    assert not same(plain.train, cached.train)


def test_training_reads_no_photo_file_that_is_in_the_cache(small, tmp_path):
    dls = loaders(small, tmp_path / "c")
    for path in (*small.train, *small.valid):
        path.unlink()
    assert len([*dls.train, *dls.valid]) == 12 + 3


def test_crops_of_reduced_photos_are_torchvisions_of_whole_ones_within_the_preprocessing_bound(tmp_path):
    "The photo is the smallest that is reduced by the factor, and as sharp as pixels can be."
    size, sharp = 48, np.concatenate([np.concatenate([*load_sample_images().images] * 3, 1)] * 4)
    for factor in (2, 4, 8):
        height = factor * TRAINED * size
        path = tmp_path / "sharp.jpg"
        cv2.imwrite(str(path), sharp[:height, : height * 5 // 4, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        whole, (reduced, _) = read_photo(path), read_reduced(path, TRAINED * size)
        assert reduced.shape[0] == whole.shape[0] // factor
        compose, errors = train_transform(size, flip=0, degrees=0), []
        for sample in range(40):
            reseed(compose, 0, 0, sample)
            crop = compose(image=reduced)["image"].astype(int)
            left, top, right, bottom = (factor * at for at in compose[0].params["crop_coords"])
            box = torch.from_numpy(whole[top:bottom, left:right].copy()).permute(2, 0, 1)
            expected = F.resize(box, [size, size], antialias=True).permute(1, 2, 0).numpy()
            errors.append(np.abs(crop - expected).mean())
        assert np.mean(errors) < 1.1, factor


def test_a_cache_is_built_once_and_shared_by_runs_and_seeds(tmp_path, capsys):
    root = tmp_path / "classes"
    shutil.copytree(write_noise(tmp_path / "noise", 4) / "train", root)
    for seed in (0, 1):
        loaders(find_data(root, seed), tmp_path / "c")
    printed = capsys.readouterr().out
    assert printed.count("are decoded into") == 1
    assert len(list((tmp_path / "c").glob("*.photos"))) == 1


def test_all_folds_share_the_cache_of_the_whole_data_set(tmp_path, capsys):
    data = find_data(write_noise(tmp_path / "noise", 4))
    for held_out in ([], [*data.train][::2], [*data.train][1::2]):
        part = data.holding_out(held_out)
        loaders(part, tmp_path / "c")
        assert open_cache(tmp_path / "c", part, for_size(SIZE)).read([*data.train][0], valid=True) is not None
    assert capsys.readouterr().out.count("are decoded into") == 1


def test_a_pickled_cache_holds_no_pixels(data, tmp_path):
    cache = open_cache(tmp_path / "c", data, for_size(SIZE))
    content = pickle.dumps(cache)
    assert len(content) < 10_000 < the_file(tmp_path / "c").stat().st_size
    path = next(iter(data.train))
    np.testing.assert_array_equal(pickle.loads(content).read(path, True)[0], cache.read(path, True)[0])


def test_a_cache_that_was_replaced_under_a_worker_is_refused(data, tmp_path):
    content = pickle.dumps(open_cache(tmp_path / "c", data, for_size(SIZE)))
    path = next(iter(data.train))
    os.utime(path, ns=(1, 1))
    open_cache(tmp_path / "c", data, for_size(SIZE))
    with pytest.raises(ValueError, match="have changed since"):
        pickle.loads(content).read(path, True)


def damage(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    if kind == "cut":
        content = content[:-1000]
    elif kind == "longer":
        content += bytes(64)
    elif kind == "head only":
        content = content[:20]
    elif kind == "index":
        content[-5] ^= 1
    elif kind == "version":
        content[6] += 1
    elif kind == "pixels missing":
        del content[HEADER.size : HEADER.size + 3000]
    elif kind == "empty":
        content = b""
    file.write_bytes(content)


KINDS = {
    "cut": "is cut short or damaged",
    "longer": "is cut short or damaged",
    "head only": "is not a cache of this version",
    "index": "is cut short or damaged",
    "version": "is not a cache of this version",
    "pixels missing": "is cut short or damaged",
    "empty": "is not a cache of this version",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_cache_is_built_again_with_a_message(small, tmp_path, capsys, kind):
    loaders(small, tmp_path / "c")
    whole = the_file(tmp_path / "c").read_bytes()
    damage(the_file(tmp_path / "c"), kind)
    cached = loaders(small, tmp_path / "c")
    assert f"{KINDS[kind]}: it is built again" in capsys.readouterr().err
    assert the_file(tmp_path / "c").read_bytes() == whole
    assert same(loaders(small).train, cached.train)


def test_a_changed_photo_of_the_same_size_and_time_is_noticed(small, tmp_path, capsys):
    loaders(small, tmp_path / "c")
    path, *others = small.train
    before = path.stat()
    other = next(other for other in others if other.stat().st_size == before.st_size)
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    cached = loaders(small, tmp_path / "c")
    assert "have changed since: it is built again" in capsys.readouterr().err
    np.testing.assert_array_equal(cached.train_ds[0][0], read_photo(other))


def test_a_cache_is_built_again_for_one_more_photo_and_for_another_decoder(small, tmp_path, capsys, monkeypatch):
    loaders(small, tmp_path / "c")
    path = next(iter(small.train))
    shutil.copy(path, path.with_name("new.png"))
    loaders(find_data(small.path), tmp_path / "c")
    assert "have changed since" in capsys.readouterr().err
    monkeypatch.setattr(cv2, "__version__", "0.1")
    loaders(find_data(small.path), tmp_path / "c")
    assert "have changed since" in capsys.readouterr().err
    loaders(find_data(small.path), tmp_path / "c")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
def test_a_folder_where_no_file_can_be_made_is_an_error_and_not_waited_for(data):
    with pytest.raises(FileNotFoundError, match=r"/proc can't be written to \(No such file or directory\)"):
        open_cache("/proc", data, for_size(SIZE))


def test_a_disk_without_room_is_refused_before_a_photo_is_decoded(small, tmp_path, monkeypatch):
    usage, needed = namedtuple("usage", "total used free"), 60 * 40 * 48 * 3 + 60 * 64 + HEADER.size
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**7, 0, 5 * 10**5 + needed - 1))
    with pytest.raises(OSError, match=r"the photos take 0.3 MB, .* stay so; give a folder on a larger disk"):
        loaders(small, tmp_path / "c")
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**7, 0, 5 * 10**5 + needed))
    loaders(small, tmp_path / "c")


def test_a_cache_among_the_photos_is_refused_and_nothing_written(small):
    "The cache folder would be a class without photos, which is refused the next time."
    place = small.path / "train" / "cache"
    with pytest.raises(ValueError, match=r"--cache .*/train/cache lies in .*/train, where photos are looked for"):
        open_cache(place, small, for_size(SIZE))
    assert not place.exists()


def test_the_room_estimated_from_headers_is_right_to_the_byte(data, tmp_path, monkeypatch):
    estimates = []
    monkeypatch.setattr("toolkit.data.cache.check_disk_space", lambda folder, needed, option: estimates.append(needed))
    open_cache(tmp_path / "c", data, for_size(SIZE))
    assert estimates == [the_file(tmp_path / "c").stat().st_size]


def command(data, cache, *more):
    arguments = f"--data {data} --arch test_resnet --weights none --image_size 32 --bs 16 --device cpu --workers 0"
    return [*arguments.split(), "--cache", str(cache), *map(str, more)]


def test_a_disk_that_fills_up_ends_with_status_2_and_leaves_nothing(small, tmp_path):
    script = tmp_path / "fill.py"
    script.write_text(
        "import resource\nfrom toolkit.data.cache import open_cache\nfrom toolkit.command import run_script\n"
        "from toolkit.data.dataset import find_data\nfrom toolkit.data.preprocess import for_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "def main(data: str, folder: str):\n    open_cache(folder, find_data(data), for_size(32))\n"
        "if __name__ == '__main__':\n    run_script(main)\n"
    )
    arguments = [sys.executable, str(script), str(small.path), str(tmp_path / "c")]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]


def test_a_file_in_place_of_the_cache_folder_is_refused_with_status_2(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert here(*command(small.path, tmp_path / "file")) == 2
    assert "is a file: give a folder" in capsys.readouterr().err
    assert here(*command(small.path, "/proc/none")) == 2
    assert "/proc/none" in capsys.readouterr().err


def test_a_built_cache_works_from_a_read_only_folder(small, tmp_path, capsys):
    loaders(small, tmp_path / "c")
    (tmp_path / "c").chmod(0o555)
    try:
        loaders(small, tmp_path / "c")
        the_lock = next((tmp_path / "c").glob(".*.lock")).stat()
        if os.getuid():
            os.utime(next(iter(small.train)), ns=(1, 1))
            with pytest.raises(OSError, match=str(tmp_path / "c")):
                loaders(small, tmp_path / "c")
    finally:
        (tmp_path / "c").chmod(0o755)
    assert the_lock.st_size == 0
    assert capsys.readouterr().out.count("are decoded into") == 1


BUILDER = (
    "import sys, time, toolkit.data.cache as c\n"
    "from toolkit.data.dataset import find_data; from toolkit.data.preprocess import for_size\n"
    "read = c.read_reduced\n"
    "def slow(*source):\n"
    "    time.sleep(float(sys.argv[3])); return read(*source)\n"
    "c.read_reduced = slow\n"
    "c.open_cache(sys.argv[2], find_data(sys.argv[1]), for_size(32), 1)\n"
)


def builder(data, folder, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(data.path), str(folder), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def wait_for_start(folder):
    "Wait until a cache is being written there."
    for _ in range(600):
        if list(folder.glob(".*.photos.????????")):
            return
        time.sleep(0.05)
    raise AssertionError("no build was started")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_was_stopped_half_way_is_never_used_and_its_remains_are_deleted(small, tmp_path, number):
    folder = tmp_path / "c"
    process = builder(small, folder, 0.5)
    wait_for_start(folder)
    process.send_signal(number)
    process.communicate()
    left = list(folder.glob(".*.photos.????????"))
    assert len(left) == (1 if number == signal.SIGKILL else 0)
    assert not list(folder.glob("*.photos"))
    assert same(loaders(small).valid, loaders(small, folder).valid)
    assert {path.suffix for path in folder.iterdir()} == {".photos", ".lock"}


def test_one_of_two_runs_at_once_builds_the_cache_and_the_other_waits(small, tmp_path):
    folder = tmp_path / "c"
    first = builder(small, folder, 0.05)
    wait_for_start(folder)
    second = builder(small, folder, 0.05)
    printed = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "are decoded into" in printed[0]
    assert "waiting for another run" in printed[1] or "are decoded into" not in printed[1]
    assert "are decoded into" not in printed[1]


def test_an_unreadable_photo_gives_the_same_error_with_and_without_a_cache(small, tmp_path):
    path = next(iter(small.train))
    path.write_bytes(path.read_bytes()[:100])
    messages = []
    for cache in (tmp_path / "c", None):
        with pytest.raises(ValueError, match=path.name) as error:
            list(loaders(small, cache).train)
        messages.append(str(error.value).splitlines()[-1])
    assert messages[0] == messages[1]


@pytest.mark.long
def test_a_run_whose_cache_is_gone_is_rebuilt_and_resumed(small, tmp_path, no_export, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    options = command(small.path, f"{tmp_path.name}/c", "--epochs", 1, "--out", tmp_path / "run")
    assert here(*options) == 0
    recipe = load(tmp_path / "run").recipe
    assert (recipe["options"]["cache"], recipe["data"]["reduced_to"]) == (str(tmp_path / "c"), None)
    monkeypatch.chdir(tmp_path)  # another folder than the one that it was begun in
    shutil.rmtree(tmp_path / "c")
    assert len(load(tmp_path / "run").learner("cpu").dls.train_ds) == 48
    assert not (tmp_path / "c").exists()
    assert here("--out", tmp_path / "run", "--epochs", 2, "--resume") == 0
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 3
    assert (tmp_path / "c").is_dir()


def test_a_run_on_reduced_photos_does_not_go_on_with_whole_ones(data, tmp_path, no_export):
    from recipes import hw1
    from toolkit.training.begin import begin

    options = command(data.path, tmp_path / "c", "--epochs", 1, "--out", tmp_path / "run")
    assert here(*options) == 0
    assert load(tmp_path / "run").recipe["data"]["reduced_to"] == TRAINED * SIZE
    assert here("--out", tmp_path / "run", "--epochs", 2, "--resume") == 0
    recorded = load(tmp_path / "run").recipe
    assert (recorded["options"]["cache"], recorded["data"]["reduced_to"]) == (str(tmp_path / "c"), TRAINED * SIZE)
    whole = hw1.learner(
        data.path, arch="test_resnet", weights="none", image_size=32, bs=16, device="cpu", workers=0, epochs=2
    )
    with pytest.raises(ValueError, match="begun with a --cache that reduces these photos, now it is without; resume w"):
        begin(tmp_path / "run", whole)


def test_a_learner_with_a_cache_shows_predicts_and_runs_tta(small, tmp_path):
    from recipes import hw1

    learn = hw1.learner(
        small.path, arch="test_resnet", weights="none", bs=8, image_size=SIZE, workers=0, device="cpu",
        precision="fp32", cache=tmp_path / "c",
    )  # fmt: skip
    path = next(iter(small.valid))
    with learn.no_bar(), learn.no_logging():
        by_path, by_pixels = (learn.predict(source)[2] for source in (path, read_photo(path)))
        assert torch.equal(by_path, by_pixels)
        assert len(learn.tta(n=2)[0]) == len(small.valid)
    learn.dls.show_batch(max_n=2)
    assert math.isfinite(float(learn.validate()[0]))
