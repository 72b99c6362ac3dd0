"""A zip is read as the folder that was packed; one that is damaged or hostile is refused and leaves nothing."""

import os
import shutil
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from toolkit.check import main
from toolkit.command import run
from toolkit.data.dataset import find_data
from toolkit.data.on_disk.photo_files import find_photos
from toolkit.data.sources import zip_archive
from toolkit.data.sources.source import Columns, open_source


def pack(path, folder, top=""):
    "A zip of the files in `folder`, below a folder `top`."
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{top}{file.relative_to(folder).as_posix()}")
    return path


def archive_of(path, *names):
    "A zip of files with these names, a byte each."
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return path


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in find_photos(root)}


@pytest.mark.parametrize("top", ["", "pets/"])
def test_a_zip_has_the_bytes_and_the_fingerprint_of_its_folder_also_with_one_folder_around(folder, tmp_path, top):
    found = find_data(pack(tmp_path / "pets.zip", folder, top))
    assert contents(found.path) == contents(folder)
    assert found.fingerprint == find_data(folder).fingerprint
    assert list(found.test) == list(find_data(folder).test)
    assert found.source == str(tmp_path / "pets.zip")


def test_a_zip_of_class_folders_is_split_as_its_folder(folder, tmp_path):
    found = find_data(pack(tmp_path / "pets.zip", folder / "train"), seed=3)
    assert found.fingerprint == find_data(folder / "train", seed=3).fingerprint


def test_a_zip_written_by_info_zip_is_read(folder, tmp_path):
    if shutil.which("zip") is None:
        pytest.skip("needs zip: apt-get install zip")
    subprocess.run(["zip", "-qr", tmp_path / "pets.zip", folder.name], cwd=folder.parent, check=True)
    assert find_data(tmp_path / "pets.zip").fingerprint == find_data(folder).fingerprint


def test_hidden_files_those_of_macos_and_what_is_no_photo_are_not_unpacked(folder, tmp_path):
    path = pack(tmp_path / "pets.zip", folder, "pets/")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/pets/train/cat/._cat0.jpg", "pets/.DS_Store", "pets/train/.x.jpg", "pets/readme.txt"):
            archive.writestr(name, "x")
    found = open_source(path).path
    assert contents(found) == contents(folder)
    assert {file.name for file in found.rglob("*") if file.is_file()} - {
        Path(name).name for name in contents(folder)
    } == {".unpacked.json"}


def test_an_empty_class_folder_is_an_error_as_on_disk(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "pets")
    (tmp_path / "pets/train/horse").mkdir()
    for data in (tmp_path / "pets", pack(tmp_path / "pets.zip", tmp_path / "pets")):
        with pytest.raises(ValueError, match="no photos in .*/train/horse: remove empty class folders"):
            find_data(data)


def test_one_class_folder_is_not_taken_for_a_folder_around(tmp_path):
    with pytest.raises(ValueError, match="has 1 photo|has one class, cat"):
        find_data(archive_of(tmp_path / "a.zip", "cat/1.jpg", "cat/2.jpg"))


def test_names_in_utf8_are_read_though_the_zip_does_not_say_so(tmp_path):
    path = archive_of(tmp_path / "a.zip", "café/1.jpg", "日本/1.jpg")
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of UTF-8, in both places of each entry
        start = -1
        while (start := data.find(magic, start + 1)) >= 0:
            data[start + at : start + at + 2] = struct.pack("<H", 0)
    path.write_bytes(data)
    assert zipfile.ZipFile(path).namelist()[0] != "café/1.jpg"
    assert sorted(contents(open_source(path).path)) == ["café/1.jpg", "日本/1.jpg"]


def test_folders_that_windows_separates_by_a_backslash_are_folders(tmp_path):
    assert sorted(contents(open_source(archive_of(tmp_path / "a.zip", r"a\1.jpg", r"b\1.jpg")).path)) == [
        "a/1.jpg",
        "b/1.jpg",
    ]


def link(path):
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("a/1.jpg")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")


def twice(path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive_of(path, "a/1.jpg", "a/1.jpg", "b/1.jpg")


def patched(path, magic, at, value):
    "Overwrite the field at `at` after the first `magic`."
    data = bytearray(archive_of(path, "a/1.jpg", "b/1.jpg").read_bytes())
    start = data.find(magic) + at
    data[start : start + len(value)] = value
    path.write_bytes(data)


def cut(path):
    path.write_bytes(archive_of(path, "a/1.jpg", "b/1.jpg").read_bytes()[:-30])


def wrong_sum(path):
    data = archive_of(path, "a/1.jpg", "b/1.jpg").read_bytes()
    path.write_bytes(data.replace(b"a/1.jpgx", b"a/1.jpgy", 1))


REFUSED = {
    "above": (lambda path: archive_of(path, "a/../../x.jpg"), "would write elsewhere, to 'a/../../x.jpg'"),
    "above by backslash": (lambda path: archive_of(path, r"a\..\..\x.jpg"), "would write elsewhere"),
    "absolute": (lambda path: archive_of(path, "/etc/x.jpg"), "would write elsewhere, to '/etc/x.jpg'"),
    "drive": (lambda path: archive_of(path, "C:/x.jpg"), "would write elsewhere, to 'C:/x.jpg'"),
    "deep": (lambda path: archive_of(path, "a/" * 60 + "x.jpg"), "too deep or long a name for a photo"),
    "long": (lambda path: archive_of(path, "a/" + "x" * 300 + ".jpg"), "too deep or long a name for a photo"),
    "link": (link, "holds 'a/1.jpg', a link or a device: pack the files"),
    "encrypted": (lambda path: patched(path, b"PK\x01\x02", 8, b"\1\0"), "is encrypted .*: unpack it"),
    "twice": (twice, "holds 'a/1.jpg' twice: pack it again"),
    "case of a file": (lambda path: archive_of(path, "a/A.jpg", "a/a.jpg"), "'a/A.jpg' and 'a/a.jpg', which are one"),
    "case of a class": (lambda path: archive_of(path, "A/1.jpg", "a/2.jpg"), "holds 'A' and 'a', which are one name"),
    "bomb": (
        lambda path: patched(path, b"PK\x01\x02", 24, struct.pack("<I", 1_100_000_000)),
        r"0\.0 MB would unpack into 1\.1 GB, as a decompression bomb does",
    ),
    "cut short": (cut, "is no zip, or damaged .*: fetch or pack it again"),
    "another content": (wrong_sum, r"is no zip, or damaged \(Bad CRC-32"),
    "method": (lambda path: patched(path, b"PK\x01\x02", 10, b"\x09\0"), "can't be unpacked here .*: unpack it"),
    "no zip": (lambda path: path.write_bytes(b"<html>"), "is no zip, or damaged"),
    "no photos": (lambda path: archive_of(path, "readme.txt"), "holds no photos"),
    "file in a file": (lambda path: archive_of(path, "a/1.jpg", "a/1.jpg/2.jpg"), "1.jpg"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_zip_that_can_not_be_unpacked_safely_is_refused_and_leaves_nothing(kind, tmp_path, unpacked_into, capsys):
    make, message = REFUSED[kind]
    path = tmp_path / "in/x.zip"
    path.parent.mkdir()
    make(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=message):
        find_data(path)
    assert unpacked_into() == []
    assert sorted(tmp_path.rglob("*")) == before
    assert run(main, [str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2


def test_a_name_in_a_zip_never_leads_out_of_its_folder_also_if_it_is_made_as_a_link_first(tmp_path):
    "zipfile itself writes a link as a file with its target in it: an entry below it can't follow it."
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("a")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, str(tmp_path))
        archive.writestr("a/x.jpg", "x")
    with pytest.raises(ValueError, match="a link or a device"):
        find_data(tmp_path / "a.zip")
    assert not (tmp_path / "x.jpg").exists()


def test_an_entry_never_writes_more_than_it_declares(tmp_path, unpacked_into):
    "The declared size is what the check against a bomb counts; a lie in it is a damaged zip."
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.jpg", bytes(10**6))
        archive.writestr("b/1.jpg", "x")
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is no zip, or damaged"):
        find_data(path)
    assert unpacked_into() == []


def test_a_photo_larger_than_any_that_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_archive, "MAX_BYTES", 0)
    with pytest.raises(ValueError, match="holds 'a/1.jpg' of 0.0 MB, which is no photo"):
        find_data(archive_of(tmp_path / "a.zip", "a/1.jpg", "b/1.jpg"))


def test_a_column_is_refused_for_what_has_none(folder, tmp_path):
    path = pack(tmp_path / "pets.zip", folder)
    with pytest.raises(ValueError, match="--label_column label: .*pets.zip is a zip; leave it out"):
        find_data(path, columns=Columns(label="label"))
    with pytest.raises(ValueError, match="--image_column x: .*pets holds no table; leave it out"):
        find_data(folder, columns=Columns(image="x"))


def test_the_paths_of_a_zip_keep_their_place_when_the_cache_is_a_link(folder, tmp_path, cache):
    os.makedirs(cache.parent)
    (tmp_path / "elsewhere").mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    found = find_data(pack(tmp_path / "pets.zip", folder))
    assert found.fingerprint == find_data(folder).fingerprint
