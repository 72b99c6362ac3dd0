"""The data set check: decoding in processes, findings, the command, and the part of it that recipes run."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from toolkit.check import check, main
from toolkit.data.checks.decode import decode, decode_all
from toolkit.data.checks.findings import printable
from toolkit.data.dataset import find_data
from toolkit.data.on_disk.photo_files import find_photos
from toolkit.data.photo import read_photo
from toolkit.data.readable import readable

ROOT = Path(__file__).resolve().parents[2]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="file names and pipes as Linux has them")


def encoded(seed, suffix=".jpg", height=40, width=48):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def sound(tmp_path):
    "Two classes with ten training and two validation photos each, and two test photos. All differ."
    for number, label in enumerate("ab"):
        for index in range(10):
            put(tmp_path / f"train/{label}/{index}.jpg", encoded(100 * number + index))
        for index in range(2):
            put(tmp_path / f"val/{label}/v{index}.jpg", encoded(100 * number + 50 + index))
    for index in range(2):
        put(tmp_path / f"test/t{index}.jpg", encoded(500 + index))
    return tmp_path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    "A fresh cache folder of the user."
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def run(*arguments, **options):
    command = [sys.executable, "-m", "toolkit.check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **{"cwd": ROOT, "timeout": 60, **options})


def kinds(report):
    return {finding.kind: finding for finding in report.findings}


def test_a_class_of_one_photo_is_wrong_and_the_rest_is_still_checked(tmp_path):
    for index in range(4):
        put(tmp_path / f"many/{index}.jpg", encoded(index))
    put(tmp_path / "many/broken.jpg", b"no photo")
    put(tmp_path / "one/0.jpg", encoded(9))
    report = check(tmp_path)
    assert not report.sound
    assert kinds(report)["lone"].text.startswith("class one has 1 photo: ")
    assert kinds(report)["unreadable"].items[0]["file"] == "many/broken.jpg"
    assert report.data.counts["one"] == 1
    with pytest.raises(ValueError, match="class one has 1 photo"):
        find_data(tmp_path)


# Decoding


def result_of_read_photo(path):
    try:
        height, width, _ = read_photo(path).shape
    except (ValueError, OSError) as error:
        return " ".join(str(error).removeprefix(f"{path}: ").split())[:300], 0, 0
    return "", width, height


def test_decoding_in_processes_gives_the_result_of_read_photo_for_every_odd_file(odd):
    paths = find_photos(odd)
    answers = dict(decode_all(paths, 2))
    assert len(answers) == len(paths) > 200
    assert {path: answers[path][:3] for path in paths} == {path: result_of_read_photo(path) for path in paths}
    assert 20 < sum(bool(answer.reason) for answer in answers.values()) < 40


def test_decoding_in_processes_gives_the_result_of_read_photo_for_damaged_jpegs(tmp_path):
    draw, paths = np.random.default_rng(0), []
    for number in range(150):
        content = bytearray(encoded(number % 7))
        if number % 3 == 0:
            content = content[: draw.integers(len(content))]
        for index in draw.integers(0, len(content), number % 5) if content else ():
            content[index] = draw.integers(256)
        paths.append(put(tmp_path / f"{number}.jpg", bytes(content)))
    answers = dict(decode_all(paths, 2))
    assert {path: answers[path][:3] for path in paths} == {path: result_of_read_photo(path) for path in paths}
    assert 30 < sum(bool(answer.reason) for answer in answers.values()) < 120


@ON_LINUX
def test_a_pipe_a_folder_a_loop_and_a_missing_file_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    paths = [tmp_path / name for name in ("pipe.jpg", "folder.jpg", "loop.jpg", "nothing.jpg")]
    answers = dict(decode_all(paths, 1))
    assert all(answers[path].reason and answers[path].digest is None for path in paths)
    assert answers[paths[1]].reason == "not a file, where one photo is needed"


def test_the_same_bytes_have_the_same_digest_and_others_another(tmp_path):
    one, same, other = (put(tmp_path / f"{n}.jpg", encoded(seed)) for n, seed in enumerate((1, 1, 2)))
    assert decode(one).digest == decode(same).digest != decode(other).digest


def test_fewer_than_one_worker_is_refused(sound):
    with pytest.raises(ValueError, match="--workers 0: one process at least"):
        check(sound, workers=0)


@pytest.fixture
def dangerous_house(tmp_path_factory):
    """A folder to run the command in, with a decoder that dies or sleeps if a file says so.

    No file is known that does this to the real decoder.
    """
    house, real = tmp_path_factory.mktemp("house"), ROOT / "toolkit"
    for package, folder in (("toolkit", real), ("toolkit/data", real / "data")):
        put(house / package / "__init__.py", f"__path__.append({str(folder)!r})".encode())
    reader = f"""
import os, time
exec(compile(open({str(real / "data/photo.py")!r}).read(), {str(real / "data/photo.py")!r}, "exec"))
whole = read_photo
def read_photo(source, *rest):
    if isinstance(source, bytes) and source.startswith(b"KILL"):
        os.kill(os.getpid(), int(source[4:]))
    if isinstance(source, bytes) and source.startswith(b"SLEEP"):
        open(source[5:], "w").write(str(os.getpid()))
        time.sleep(60)
    return whole(source, *rest)
"""
    put(house / "toolkit/data/photo.py", reader.encode())
    return house


@ON_LINUX
def test_a_file_that_kills_its_decoder_is_named_and_the_others_are_decoded(sound, dangerous_house):
    put(sound / "train/a/3.jpg", b"KILL%d" % signal.SIGSEGV)
    put(sound / "train/b/4.jpg", b"KILL%d" % signal.SIGKILL)
    done = run(sound, "--json", cwd=dangerous_house)
    assert done.returncode == 2, done.stderr
    (finding,) = json.loads(done.stdout)["findings"]
    assert {item["file"]: item["reason"] for item in finding["items"]} == {
        "train/a/3.jpg": "it killed the process that read it: SIGSEGV",
        "train/b/4.jpg": "it killed the process that read it: SIGKILL, out of memory?",
    }


@ON_LINUX
def test_ctrl_c_ends_the_check_and_its_processes(sound, dangerous_house):
    asleep = dangerous_house / "asleep"
    put(sound / "train/b/9.jpg", b"SLEEP%s" % bytes(asleep))
    command = [sys.executable, "-m", "toolkit.check", str(sound)]
    with subprocess.Popen(
        command, cwd=dangerous_house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as checking:
        wait_for(lambda: asleep.exists() and asleep.read_text())
        os.kill(int(asleep.read_text()), signal.SIGINT)  # that process alone does not mind
        with pytest.raises(subprocess.TimeoutExpired):
            checking.wait(0.3)
        os.killpg(checking.pid, signal.SIGINT)  # as a terminal does it: all of them
        out, err = checking.communicate(timeout=20)
    assert (checking.returncode, out, err) == (130, b"", b"interrupted\n")
    reader = Path("/proc") / asleep.read_text() / "stat"
    wait_for(lambda: not reader.exists() or reader.read_text().split()[2] == "Z")


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@ON_LINUX
def test_a_process_that_cannot_be_started_is_an_error_and_no_hang(sound):
    code = f"import sys; sys.executable = '/bin/true'; from toolkit.check import check; check({str(sound)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "OSError: no process can be started to read photos in (exit status 0)" in done.stderr


# Findings


def test_a_sound_data_set_has_no_findings(sound):
    assert check(sound).findings == []


def test_the_grocery_photos_are_sound(grocery):
    done = run(grocery)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 classes, 930 photos to train on, 104 to validate, 500 to predict" in done.stdout
    assert "all well" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("file", "kind", "state"), [
    ("train/a/1.jpg", "unreadable", "wrong"),
    ("val/b/v1.jpg", "unreadable", "wrong"),
    ("test/t1.jpg", "unreadable_test", "warning"),
])  # fmt: skip
def test_an_unreadable_photo_is_wrong_in_training_and_validation_and_a_warning_in_test(sound, file, kind, state):
    (sound / file).write_bytes(encoded(9)[:500])
    (finding,) = check(sound).findings
    assert (finding.kind, finding.state, len(finding.items)) == (kind, state, 1)
    assert finding.items[0]["file"] == file
    assert "truncated" in finding.items[0]["reason"].lower()


@pytest.mark.parametrize(("one", "other", "found"), [
    ("train/a/1.jpg", "val/a/v1.jpg", {"leak": "wrong"}),
    ("train/a/1.jpg", "test/t1.jpg", {"leak": "wrong"}),
    ("val/a/v1.jpg", "test/t0.jpg", {"leak": "wrong"}),
    ("train/a/1.jpg", "train/b/1.jpg", {"conflict": "wrong"}),
    ("train/a/1.jpg", "val/b/v1.jpg", {"leak": "wrong", "conflict": "wrong"}),
    ("train/a/1.jpg", "train/a/2.jpg", {"copies": "note"}),
    ("test/t0.jpg", "test/t1.jpg", {"copies": "note"}),
])  # fmt: skip
def test_the_same_content_twice_is_wrong_across_splits_or_classes_and_else_a_note(sound, one, other, found):
    (sound / other).write_bytes((sound / one).read_bytes())
    report = check(sound)
    assert {finding.kind: finding.state for finding in report.findings} == found
    for finding in report.findings:
        assert {item["file"] for item in finding.items[0]} == {one, other}
    assert report.sound == ("note" in found.values())


def test_empty_files_are_unreadable_and_no_copies_of_each_other(sound):
    for file in ("train/a/1.jpg", "val/b/v1.jpg"):
        (sound / file).write_bytes(b"")
    assert kinds(check(sound)).keys() == {"unreadable"}


def test_near_empty_classes_are_warnings(sound):
    put(sound / "train/c/1.jpg", encoded(900))
    report = check(sound)
    assert report.sound
    item = {"class": "c", "train": 1, "valid": 0}
    assert [(f.kind, f.state, f.items) for f in report.findings] == [
        ("few_train", "warning", [item]),
        ("no_valid", "warning", [item]),
    ]


@pytest.mark.parametrize(
    ("height", "width", "kind"), [(31, 60, "tiny"), (40, 161, "narrow"), (161, 40, "narrow"), (400, 400, "huge")]
)
def test_extreme_sizes_are_warnings(sound, height, width, kind):
    put(sound / "train/a/x.jpg", encoded(1000, height=height, width=width))
    (finding,) = check(sound).findings
    assert (finding.kind, finding.state) == (kind, "warning")
    assert finding.items == [{"file": "train/a/x.jpg", "width": width, "height": height}]


@ON_LINUX
def test_names_that_differ_only_in_case_or_in_the_spelling_of_accents_are_warnings(sound):
    for index in range(10):
        put(sound / f"train/B/{index}.jpg", encoded(700 + index))
    put(sound / "val/B/1.jpg", encoded(720))
    for number, name in enumerate(("x.jpg", "X.JPG", "é.jpg", "e\u0301.jpg")):
        put(sound / f"train/a/{name}", encoded(800 + number))
    found = kinds(check(sound))
    assert found["class_names"].items == [["B", "b"]]
    assert sorted(map(sorted, found["file_names"].items)) == [
        ["train/a/X.JPG", "train/a/x.jpg"],
        ["train/a/e\u0301.jpg", "train/a/é.jpg"],
    ]
    assert {finding.state for finding in found.values()} == {"warning"}


def test_files_among_the_photos_that_are_not_read_are_a_warning_with_their_kinds(sound, capsys):
    for name in ("train/a/IMG_1.HEIC", "train/a/IMG_2.heic", "train/a/raw", "val/b/notes.txt", "test/a.heic"):
        put(sound / name, b"x")
    for hidden in ("train/a/Thumbs.db", "train/a/.DS_Store", "labels.csv", "train/readme.txt"):
        put(sound / hidden, b"x")
    (sound / "train/a/gone.jpg").symlink_to(sound / "nowhere.jpg")
    (finding,) = check(sound).findings
    assert (finding.state, finding.kind) == ("warning", "other_files")
    assert finding.text == ("6 files among the photos not read (.heic: 3, broken link: 1, no suffix: 1, .txt: 1)")
    assert [item["file"] for item in finding.items] == finding.lines
    assert sorted(finding.lines) == sorted(
        ["test/a.heic", "train/a/IMG_1.HEIC", "train/a/IMG_2.heic", "train/a/gone.jpg", "train/a/raw"]
        + ["val/b/notes.txt"]
    )
    capsys.readouterr()
    data = find_data(sound)
    assert readable(data).train == data.train
    assert f"warning: {finding.text}: `python -m toolkit.check" in capsys.readouterr().err


def test_in_class_folders_without_a_split_they_are_one_too(tmp_path):
    for name in ("cat", "dog"):
        for number in range(10):
            put(tmp_path / f"data/{name}/{number}.png", encoded(10 * (name == "cat") + number, ".png"))
    put(tmp_path / "data/cat/1.heic", b"x")
    put(tmp_path / "data/LICENSE", b"x")
    warnings = [finding.lines for finding in check(tmp_path / "data").findings if finding.kind == "other_files"]
    assert warnings == [["cat/1.heic"]]


def test_a_csv_is_checked_as_a_folder_is(sound):
    (sound / "val/b/v0.jpg").write_bytes((sound / "train/a/1.jpg").read_bytes())
    rows = [
        (p, p.parts[1], p.parts[0]) for p in (q.relative_to(sound) for q in find_photos(sound)) if p.parts[0] != "test"
    ]
    with (sound / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    assert kinds(check(sound / "list.csv")).keys() == {"leak", "conflict"}


# The command


def test_the_table_is_aligned_and_shortens_long_lists(sound):
    for index in range(57):
        put(sound / f"test/bad{index}.jpg", b"")
    done = run(sound)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[2:6] == ["class  train  valid", "a         10      2", "b         10      2", "all       20      4"]
    assert lines[7] == "warning  57 photos to predict can't be read"
    assert [line.strip() for line in lines[9:]][-2:] == ["... and 37 more", "1 warning"]
    assert "\r" not in done.stdout + done.stderr


def test_json_is_one_object_with_every_file_and_nothing_else(sound):
    for index in range(57):
        put(sound / f"train/a/bad{index}.jpg", b"")
    done = run(sound, "--json", "--workers", 1)
    assert (done.returncode, done.stderr) == (2, "")
    report = json.loads(done.stdout)
    assert report["sound"] is False
    assert report["photos"] == {"train": 77, "valid": 4, "test": 2}
    assert report["classes"] == {"a": {"train": 67, "valid": 2}, "b": {"train": 10, "valid": 2}}
    assert [item["file"] for item in report["findings"][0]["items"]] == [
        f"train/a/bad{index}.jpg" for index in range(57)
    ]


def test_a_folder_that_find_data_refuses_ends_the_check_with_its_message(tmp_path):
    done = run(tmp_path / "none", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "none does not exist" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_decoders_written_in_c_say_nothing_on_stderr(odd, sound):
    with (sound / "list.csv").open("w", newline="") as file:
        rows = [(path.resolve(), "ab"[number % 2]) for number, path in enumerate(find_photos(odd))]
        csv.writer(file).writerows([("path", "label"), *rows])
    done = run(sound / "list.csv", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    assert {"unreadable", "leak", "tiny", "narrow"} < {
        finding["kind"] for finding in json.loads(done.stdout)["findings"]
    }


@ON_LINUX
def test_hostile_names_stay_on_their_line_and_are_whole_in_json(sound):
    names = ["new\nline", "quo\"te'", "日本 ünï", "-rf", "=cmd()", "<script>", "\x1b[31mred"]
    for index, name in enumerate(names):
        for number in range(2):
            put(sound / f"train/{name}/{number}.jpg", encoded(2000 + 2 * index + number))
        put(sound / f"train/{name}/{name}.jpg", b"")
    not_utf8 = f"train/a/{os.fsdecode(bytes([255, 254]))}.jpg"
    put(sound / not_utf8, b"")
    put(sound / "train/a/odd.\x1b[31mkind", b"")
    done = run(sound, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2, done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert r"train/new\nline/new\nline.jpg: not a photo" in done.stdout
    report = json.loads(run(sound, "--json").stdout)
    assert {*names, "a", "b"} == set(report["classes"])
    broken = {f"train/{name}/{name}.jpg" for name in names} | {not_utf8}
    assert {item["file"] for item in report["findings"][0]["items"]} == broken


@ON_LINUX
def test_a_class_whose_name_is_not_utf8_is_refused_before_anything_is_trained(sound):
    put(sound / f"train/{os.fsdecode(bytes([255]))}/0.jpg", encoded(1))
    done = run(sound)
    assert done.returncode == 2
    assert done.stderr.endswith("can't be trained on: a name of its classes is not Unicode text\n")


def test_a_wide_letter_takes_two_columns(sound, capsys):
    for split in ("train", "val"):
        (sound / split / "b").rename(sound / split / "日本")
    main(sound)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:5] == ["a         10      2", "日本      10      2"]


def test_printable_keeps_letters_and_escapes_the_rest():
    assert printable("日本 é") == "日本 é"
    assert printable("a\nb\x1b\udcff") == r"a\nb\x1b\udcff"


# The part that recipes run


def test_readable_returns_a_sound_data_set_unchanged_and_prints_nothing(sound, capfd):
    data = find_data(sound)
    assert readable(data) == data
    assert capfd.readouterr() == ("", "")


def broken(sound):
    for file in ("train/a/1.jpg", "train/b/2.jpg", "val/a/v1.jpg", "train/a/5.jpg", "test/t0.jpg"):
        (sound / file).write_bytes(b"no photo")
    return find_data(sound)


def test_unreadable_photos_are_refused_in_two_lines_that_name_three(sound):
    with pytest.raises(ValueError, match="can't be read") as caught:
        readable(broken(sound))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"4 photos in {sound} can't be read: train/a/1.jpg: not a photo")
    assert first.endswith(" and 1 more")
    assert second == f"`python -m toolkit.check {sound}` lists them all; --skip_unreadable leaves them out"


def test_unreadable_photos_are_left_out_on_demand_with_the_reason(sound, capsys):
    data = broken(sound)
    left = readable(data, skip_unreadable=True)
    assert {data.relative(path) for path in left.left_out} == {f"train/{n}.jpg" for n in ("a/1", "a/5", "b/2")} | {
        "val/a/v1.jpg"
    }
    assert all(reason.startswith("not a photo") for reason in left.left_out.values())
    assert (len(left.train), len(left.valid), len(left.test)) == (17, 3, 2)
    assert (
        capsys.readouterr().out
        == "left out 4 photos that can't be read: train/a/1.jpg, train/a/5.jpg, train/b/2.jpg and 1 more\n"
    )
    for path in left.left_out:
        path.unlink()
    assert left.fingerprint == find_data(sound).fingerprint != data.fingerprint


def test_a_class_without_readable_photos_is_an_error(sound):
    put(sound / "train/c/1.jpg", b"")
    with pytest.raises(ValueError, match="no photo of class c is left to train on"):
        readable(find_data(sound), skip_unreadable=True)


def test_a_leak_and_a_label_conflict_are_one_line_on_stderr(sound, capsys):
    (sound / "val/b/v0.jpg").write_bytes((sound / "train/a/1.jpg").read_bytes())
    for _ in ("read", "remembered"):
        readable(find_data(sound))
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == (
            "warning: 1 photo with copies in another split, 1 photo with copies under another class: "
            f"`python -m toolkit.check {sound}` lists them\n"
        )


def outcome_file(cache):
    (file,) = (cache / "rapid-finetune" / "checked").iterdir()
    return file


def test_photos_that_were_read_are_not_read_again(sound, cache):
    readable(find_data(sound))
    file = outcome_file(cache)
    file.write_text('{"unreadable": {}, "warnings": ["as the file says"], "squareness": 0.5}')
    before = file.stat().st_mtime_ns
    assert readable(find_data(sound)).squareness == 0.5
    assert file.stat().st_mtime_ns == before


def test_a_changed_file_is_checked_again_even_if_its_size_and_mtime_are_the_same(sound):
    readable(find_data(sound))
    path = sound / "train/a/1.jpg"
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ValueError, match="1 photo in .* can't be read: train/a/1.jpg"):
        readable(find_data(sound))


def test_photos_that_could_not_be_read_are_tried_again(sound, cache):
    data = broken(sound)
    readable(data, skip_unreadable=True)
    file = outcome_file(cache)
    outcome = json.loads(file.read_text())
    outcome["unreadable"]["train/a/7.jpg"] = "the disk was away"
    file.write_text(json.dumps(outcome))
    assert len(readable(data, skip_unreadable=True).left_out) == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"unreadable": 3, "warnings": []}'])
def test_a_damaged_cache_file_is_written_anew(sound, cache, content):
    readable(find_data(sound))
    file = outcome_file(cache)
    file.write_bytes(content)
    readable(find_data(sound))
    assert json.loads(file.read_text()) == {"unreadable": {}, "warnings": [], "squareness": pytest.approx(40 / 48)}


def test_a_cache_folder_that_cannot_be_written_is_a_note(sound, cache, capsys):
    (cache / "rapid-finetune").write_text("a file where the folder should be")
    assert readable(find_data(sound)).train
    printed = capsys.readouterr().err
    assert printed.startswith("note: the photos will be checked again next time, ")
    assert len(printed.splitlines()) == 1


@ON_LINUX
def test_names_that_are_not_unicode_are_left_out_and_remembered(sound, cache):
    put(sound / "train/a" / os.fsdecode(b"\xff.jpg"), b"")
    for _ in ("read", "remembered"):
        left = readable(find_data(sound), skip_unreadable=True)
        assert [path.name for path in left.left_out] == ["\udcff.jpg"]
    assert outcome_file(cache)


def test_check_needs_no_torch():
    code = "import sys, toolkit.check; print(sorted({'torch', 'fastai', 'timm', 'albumentations'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# With --features


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    "Photos of blobs in two classes, a re-encoded copy of one in val, and random weights of a small network in a file."
    import timm
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("faulty")
    for number, label in enumerate("ab"):
        for index in range(12):
            draw = np.random.default_rng(100 * number + index)
            small = draw.integers(0, 255, (5, 6, 3), np.uint8)
            photo = cv2.resize(small, (96, 80), interpolation=cv2.INTER_CUBIC)
            file = root / "data" / ("train" if index < 10 else "val") / label / f"{index}.jpg"
            put(file, cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    copy = cv2.imencode(".jpg", cv2.imread(str(root / "data/train/a/3.jpg")), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    put(root / "data/val/a/copy.jpg", copy.tobytes())
    put(root / "data/test/t.jpg", encoded(7))
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), root / "weights.safetensors")
    return root


def network(root):
    return ["--features", "--arch=test_resnet", f"--weights={root / 'weights.safetensors'}", "--image_size=64"]


def test_with_features_a_copy_in_another_split_is_named_listed_and_shown(faulty, tmp_path, capsys):
    from toolkit.command import run as run_here

    table, page = tmp_path / "doubts.csv", tmp_path / "page.html"
    arguments = [str(faulty / "data"), *network(faulty), "--device=cpu", f"--csv={table}", f"--page={page}", "--json"]
    assert run_here(main, arguments, lambda report: 0 if report.sound else 2) == 0
    out, errors = capsys.readouterr()
    findings = {finding["kind"]: finding for finding in json.loads(out)["findings"]}
    assert findings["near_leak"]["state"] == "warning"
    (item,) = findings["near_leak"]["items"]
    assert (item["file"], item["other"]) == ("train/a/3.jpg", "val/a/copy.jpg")
    rows = list(csv.DictReader(table.open()))
    assert [row["file"] for row in rows if row["finding"] == "leak"] == ["train/a/3.jpg"]
    assert f"{table}: delete those of photos to keep, then train with --without {table}" in errors
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") >= 2
    assert "val/a/copy.jpg" in text
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")


def test_without_features_the_check_imports_no_torch(sound):
    code = (
        "import sys; from pathlib import Path; from toolkit.check import main; "
        f"main(Path({str(sound)!r})); print(sorted({{'torch', 'sklearn', 'fastai'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"csv": "x.csv"}, "--csv holds what features show: give --features too"),
        ({"page": "x.html"}, "--page holds what features show: give --features too"),
        ({"features": True, "weights": "none"}, "--weights none: random weights tell nothing; give imagenet"),
        ({"features": True, "weights": "no/such.pth"}, "--weights no/such.pth: no such file; it takes imagenet"),
        ({"features": True, "image_size": 0}, "--image_size 0"),
        ({"features": True, "csv": Path()}, r"\. is a folder: give the name of a file"),
        ({"features": True, "page": Path()}, r"\. is a folder: give the name of a file"),
    ],
)
def test_options_of_features_that_make_no_sense_are_refused_before_a_photo_is_read(tmp_path, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError, IsADirectoryError), match=message):
        main(tmp_path / "missing", **arguments)
