"""Parquet files, which `datasets` and pandas write here, are read as the folder that their photos came from."""

import io
import json
import os
import sys

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from toolkit.check import main
from toolkit.command import run
from toolkit.data.dataset import find_data
from toolkit.data.on_disk.photo_files import find_photos
from toolkit.data.sources import rows, tables
from toolkit.data.sources.names import FolderNames, PhotoNames
from toolkit.data.sources.source import Columns, open_source

CLASSES = ["cat", "dog"]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})


def split_of(folder, name):
    "A split of the folder, as `datasets` has it; the label of a photo to predict is -1."
    files = find_photos(folder / name)
    labels = [-1 if name == "test" else CLASSES.index(file.parent.name) for file in files]
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=FEATURES)


@pytest.fixture(scope="session")
def dictionary(folder):
    return datasets.DatasetDict(
        {"train": split_of(folder, "train"), "validation": split_of(folder, "val"), "test": split_of(folder, "test")}
    )


@pytest.fixture
def hub_like(dictionary, tmp_path):
    "A folder as the hub has it: training photos in two files."
    root = tmp_path / "pets"
    (root / "data").mkdir(parents=True)
    for index in range(2):
        part = dictionary["train"].shard(2, index, contiguous=True)
        part.to_parquet(root / f"data/train-{index:05d}-of-00002.parquet")
    for name in ("validation", "test"):
        dictionary[name].to_parquet(root / f"data/{name}-00000-of-00001.parquet")
    (root / "README.md").write_text("---\nlicense: mit\n---\n")
    return root


def written(path, columns, schema=None):
    parquet.write_table(pa.table(columns, schema=schema), path)
    return path


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in find_photos(root)}


def png(value):
    with io.BytesIO() as file:
        Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "png")
        return file.getvalue()


def test_parquet_files_have_the_bytes_and_the_fingerprint_of_their_folder(hub_like, folder):
    found = find_data(hub_like)
    assert contents(found.path) == contents(folder)
    assert found.fingerprint == find_data(folder).fingerprint
    assert list(found.test) == list(find_data(folder).test)


@pytest.mark.parametrize("picture", ["thumbnail.png", "assets/figure.png"])
def test_a_picture_beside_parquet_files_is_none_of_their_photos(hub_like, folder, picture):
    (hub_like / picture).parent.mkdir(exist_ok=True)
    (hub_like / picture).write_bytes(png(1))
    assert find_data(hub_like).fingerprint == find_data(folder).fingerprint


@pytest.mark.parametrize("labels", [["train", "val"], ["train", "test"], ["valid", "other"]])
def test_classes_may_be_named_as_splits_are(tmp_path, labels):
    frame = pandas.DataFrame({"photo": [png(value) for value in range(10)], "label": labels * 5})
    frame.to_parquet(tmp_path / "x.parquet")
    found = find_data(tmp_path / "x.parquet")
    assert found.classes == sorted(labels)
    assert len(found.train) + len(found.valid) == 10


def test_one_parquet_file_is_class_folders_of_labelled_photos(dictionary, folder, tmp_path):
    dictionary["train"].to_parquet(tmp_path / "train-00000-of-00007.parquet")
    found = find_data(tmp_path / "train-00000-of-00007.parquet")
    assert found.fingerprint == find_data(folder / "train").fingerprint


def test_a_saved_data_set_has_the_fingerprint_of_its_folder_with_splits_and_without(dictionary, folder, tmp_path):
    dictionary.save_to_disk(tmp_path / "all")
    assert find_data(tmp_path / "all").fingerprint == find_data(folder).fingerprint
    assert find_data(tmp_path / "all/train").fingerprint == find_data(folder / "train").fingerprint
    dictionary["train"].save_to_disk(tmp_path / "parts", num_shards=3)
    assert find_data(tmp_path / "parts").fingerprint == find_data(folder / "train").fingerprint


def test_what_datasets_reads_from_a_folder_of_photos_and_writes_as_parquet_is_that_folder(folder, tmp_path):
    "Such a file has the paths of the photos and not their bytes."
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder / "train"), cache_dir=str(tmp_path / "cache"))
    loaded["train"].to_parquet(tmp_path / "pets.parquet")
    held = parquet.read_table(tmp_path / "pets.parquet")["image"].to_pylist()
    assert {photo["bytes"] for photo in held} == {None}
    assert find_data(tmp_path / "pets.parquet").fingerprint == find_data(folder / "train").fingerprint


def test_without_a_split_to_validate_on_a_fifth_is_held_out_and_the_test_photos_are_predicted(folder, tmp_path):
    for name in ("train", "test"):
        split_of(folder, name).to_parquet(tmp_path / f"{name}.parquet")
    found = find_data(tmp_path, seed=1)
    alone = find_data(folder / "train", seed=1)
    assert [path.name for path in found.valid] == [path.name for path in alone.valid]
    assert list(found.test) == ["test/t0.jpg", "test/t1.jpg", "test/t2.jpg"]


def test_pandas_writes_bytes_and_text_and_photos_without_names_are_numbered(tmp_path):
    frame = pandas.DataFrame(
        {"photo": [png(value) for value in range(6)], "label": ["a", "b"] * 3, "id": range(6)}, index=range(3, 9)
    )
    frame.to_parquet(tmp_path / "x.parquet")
    found = open_source(tmp_path / "x.parquet").path
    expected = {"a/1.png": 0, "b/1.png": 1, "a/2.png": 2, "b/2.png": 3, "a/3.png": 4, "b/3.png": 5}
    assert contents(found) == {name: png(value) for name, value in expected.items()}


def test_names_that_no_folder_can_have_are_classes_all_the_same(tmp_path):
    labels = ["n01 tench/Tinca", "..", "x" * 300, "Cat", "cat", ".hidden", "a\r\nb,c", "class-1", 'q"', "日本"]
    photos = [png(index) for index in range(2 * len(labels))]
    written(tmp_path / "x.parquet", {"image": photos, "label": labels * 2})
    found = find_data(tmp_path / "x.parquet")
    assert found.classes == sorted(labels)
    for path, label in (found.train | found.valid).items():
        assert labels[photos.index(path.read_bytes()) % len(labels)] == label
        assert path.is_relative_to(found.root)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".png"]


def test_numbers_are_classes_by_their_digits(tmp_path):
    written(tmp_path / "x.parquet", {"image": [png(i) for i in range(22)], "label": list(range(11)) * 2})
    assert find_data(tmp_path / "x.parquet").classes == sorted(map(str, range(11)))


def test_text_numbered_in_a_dictionary_is_text(tmp_path):
    label = pa.array(["a", "b", "a", "b"]).dictionary_encode()
    written(tmp_path / "x.parquet", {"image": [png(i) for i in range(4)], "label": label})
    assert find_data(tmp_path / "x.parquet").classes == ["a", "b"]


def test_columns_are_named_if_their_types_leave_several(tmp_path):
    features = datasets.Features(
        {name: datasets.ClassLabel(names=names) for name, names in (("fine", ["x", "y"]), ("coarse", ["A", "B"]))}
        | {name: datasets.Image() for name in ("photo", "mask")}
    )
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)]
    masks = [{"bytes": png(100), "path": "m.png"}] * 4
    columns = {"fine": [0, 1, 0, 1], "coarse": [1, 1, 0, 0], "photo": images, "mask": masks}
    path = tmp_path / "x.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    with pytest.raises(ValueError, match="2 columns that may be the image: photo, mask; name one by --image_column"):
        find_data(path)
    with pytest.raises(ValueError, match="2 columns that may be the label: fine, coarse; name one by --label_column"):
        find_data(path, columns=Columns("photo"))
    found = find_data(path, columns=Columns("photo", "coarse"))
    assert contents(found.path) == {f"{'BBAA'[i]}/{i}.png": png(i) for i in range(4)}
    assert run(main, [str(path), "--image_column", "photo", "--label_column", "fine"]) == 0
    for wanted, message in {
        Columns("none"): "--image_column none: x.parquet has the columns fine, coarse, photo, mask",
        Columns("fine"): "--image_column fine of x.parquet holds int64, which is no image",
        Columns("photo", "mask"): "--label_column mask of x.parquet holds struct.*, which is no label",
    }.items():
        with pytest.raises(ValueError, match=message):
            find_data(path, columns=wanted)


def test_a_column_of_paths_is_taken_if_it_is_named(folder, tmp_path):
    files, path = find_photos(folder / "train"), tmp_path / "x.parquet"
    written(path, {"file": [str(file) for file in files], "label": [file.parent.name for file in files]})
    with pytest.raises(ValueError, match=r"has no column of images, of file \(string\), label \(string\): name one"):
        find_data(path)
    assert find_data(path, columns=Columns("file")).fingerprint == find_data(folder / "train").fingerprint


IMAGES = [png(i) for i in range(4)]
STRUCT = [{"bytes": None, "path": "/etc/passwd"}, *({"bytes": photo, "path": None} for photo in IMAGES)]
BROKEN = {
    "no label": ({"image": IMAGES, "label": ["a", "b", None, "a"]}, "x.parquet, row 3: there is no label"),
    "no photo": ({"image": [*IMAGES[:3], None], "label": list("abab")}, "x.parquet, row 4: there is no photo"),
    "a path of no photo": (
        {"image": STRUCT, "label": list("ababa")},
        "row 1: it has the path /etc/passwd and no",
    ),
    "no labels": ({"image": IMAGES, "size": [1.5] * 4}, "x.parquet has no column of labels, of image .*size .double"),
    "two labels": ({"image": IMAGES, "a": list("abab"), "b": [1] * 4}, "2 columns that may be the label: a, b"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_table_that_does_not_say_what_is_needed_is_refused_and_leaves_nothing(kind, tmp_path, unpacked_into):
    columns, message = BROKEN[kind]
    written(tmp_path / "x.parquet", columns)
    with pytest.raises(ValueError, match=message):
        find_data(tmp_path / "x.parquet")
    assert unpacked_into() == []


def declared(path, feature, label=(0, 1, 0, 1)):
    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    features = feature if isinstance(feature, str) else json.dumps({"info": {"features": {"label": feature}}})
    return written(path, [IMAGES, list(label)], schema.with_metadata({"huggingface": features}))


@pytest.mark.parametrize(
    ("feature", "label", "message"),
    [
        ({"_type": "ClassLabel", "names": ["a", "b"]}, (0, 1, 2, 0), "row 3: there is no label"),
        ({"_type": "ClassLabel", "names": ["a", "b"]}, (0, -1, 1, 0), "row 2: there is no label"),
        (
            {"_type": "ClassLabel", "names": ["a", "\ud800"]},
            (0, 1, 1, 0),
            "names of the classes of label are damaged",
        ),
        ({"_type": "ClassLabel", "names": "ab"}, (0, 1, 1, 0), "names of the classes of label are damaged"),
        ("{", (0, 1, 1, 0), "`huggingface` metadata is damaged"),
        ('{"info": []}', (0, 1, 1, 0), "`huggingface` metadata is damaged"),
    ],
)
def test_numbers_of_classes_without_a_name_and_damaged_names_are_refused(feature, label, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_data(declared(tmp_path / "x.parquet", feature, label))


DAMAGE = [lambda data: data[:-20], lambda data: data[:100] + bytes(200) + data[300:], lambda data: b"PAR1"]


@pytest.mark.parametrize("change", DAMAGE)
def test_a_damaged_file_is_refused_and_leaves_nothing(change, tmp_path, unpacked_into, capsys):
    path = tmp_path / "x.parquet"
    written(path, {"image": [bytes(range(256)) * 9 for _ in range(40)], "label": list("abab") * 10})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"x.parquet can't be read \(.*\): fetch or write it again"):
        find_data(path)
    assert unpacked_into() == []
    assert run(main, [str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2


FILES = {
    "a part is missing": (["train-00000-of-00002.parquet"], "train-00001-of-00002.parquet is missing, a part of 2"),
    "no split in a name": (
        ["train.parquet", "extra.parquet"],
        r"extra.parquet: the split is not .*\(1 such\)",
    ),
    "two splits in a name": (
        ["train.parquet", "train_test.parquet"],
        "train_test.parquet: the split is not in",
    ),
    "several data sets": (["a/train.parquet", "b/train.parquet"], "several data sets: give one of its folders, a, b"),
    "no train": (["val.parquet", "test.parquet"], "has splits to validate and to test on, and none to train on"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_that_does_not_say_what_is_needed_is_refused(kind, tmp_path):
    names, message = FILES[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, {"image": IMAGES, "label": list("abab")})
    with pytest.raises(ValueError, match=message):
        find_data(tmp_path)


KEYWORDS = [(split, word) for split, words in datasets.data_files.SPLIT_KEYWORDS.items() for word in words]


@pytest.mark.parametrize(("split", "word"), KEYWORDS)
@pytest.mark.parametrize("form", ["{}-00000-of-00001", "my_{}", "{}/0000", "data/{}.0"])
def test_splits_are_told_by_the_words_that_datasets_knows(split, word, form):
    assert tables.split_in(form.format(word)) == {"validation": "valid"}.get(str(split), str(split))


def test_a_saved_data_set_with_another_split_is_refused(dictionary, tmp_path):
    datasets.DatasetDict({"train": dictionary["train"], "extra": dictionary["train"]}).save_to_disk(tmp_path / "x")
    with pytest.raises(ValueError, match="x has the split 'extra'; train, validation and test are read"):
        find_data(tmp_path / "x")
    (tmp_path / "x/dataset_dict.json").write_text('{"splits": ["../../train"]}')
    with pytest.raises(ValueError, match=r"has the split '../../train'"):
        find_data(tmp_path / "x")


def test_a_damaged_saved_data_set_is_refused(dictionary, tmp_path):
    dictionary["train"].save_to_disk(tmp_path / "x")
    file = next((tmp_path / "x").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"x can't be read \("):
        find_data(tmp_path / "x")


def test_a_library_that_is_missing_is_named_with_its_line(dictionary, tmp_path, monkeypatch):
    dictionary["train"].to_parquet(tmp_path / "x.parquet")
    dictionary["train"].save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"saved needs datasets: pip install -c constraints.txt -e '.\[hf\]'"):
        find_data(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"x.parquet needs pyarrow: pip install -c constraints.txt -e '.\[parquet\]'"):
        find_data(tmp_path / "x.parquet")


def test_a_file_of_four_times_the_row_groups_takes_no_more_memory(tmp_path):
    "pyarrow counts its memory; that of a row group of 4 MB, with all it needs to read one, is let go for the next."
    path, pool, peaks = tmp_path / "x.parquet", pa.default_memory_pool(), []
    for groups in (3, 12):
        photos = pa.table({"image": [os.urandom(2**16) for _ in range(64 * groups)], "label": ["a"] * 64 * groups})
        parquet.write_table(photos, path, row_group_size=64)
        del photos
        before, sizes = pool.bytes_allocated(), []
        for batch in tables.parquet_file(path)["train"][0].open().batches(["image", "label"]):
            assert batch.num_rows <= rows.ROWS
            sizes.append(pool.bytes_allocated() - before)
        peaks.append(max(sizes))
    assert 0 < peaks[1] <= peaks[0] * 1.1


def test_names_of_photos_are_kept_once_and_else_numbered():
    names = PhotoNames()
    given = ["/home/me/a.jpg", "b/a.jpg", "A.JPG", "c.txt", None, ".x.jpg", "1.jpg", "x" * 300 + ".jpg", r"d\e.png"]
    content = [b"\xff\xd8"] * 3 + [b"\x89PNG", b"RIFF0000WEBP", b"GIF89a", b"\xff\xd8", b"BM", b""]
    found = [names.of("f/", name, photo) for name, photo in zip(given, content, strict=True)]
    assert found == ["a.jpg", "1.jpg", "2.JPG", "3.png", "4.webp", "5.jpg", "6.jpg", "7.jpg", "e.png"]
    assert names.of("g/", "a.jpg", b"") == "a.jpg"


def test_a_folder_is_named_by_its_class_where_that_is_a_name():
    folders = FolderNames()
    assert [folders.of(label) for label in ("cat", "class-1", "Cat", "a/b", "cat")] == [
        "cat",
        "class-1",
        "class-2",
        "class-3",
        "cat",
    ]
    assert folders.renamed
