"""Processes that read photos: the same rows as with threads, whatever happens to the processes, and none left over."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
from predicting import ROOT, label, rows, save
from slow_photos import files, slow_photos, wait_for_rows

from export.predictions.local import predict_here
from export.predictions.options import PredictOptions
from export.reading import readers
from export.reading.prepare import prepared
from export.reading.readers import Readers, worthwhile
from export.runtime import providers
from export.session import Classifier

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes read photos on Linux only")

no_gpu = pytest.mark.skipif(providers.gpus() == 0, reason="needs an NVIDIA GPU")

OPTIONS = {"device": "cpu", "bs": 16, "workers": 3, "probabilities": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_onnx.write(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture
def photos(tmp_path):
    "60 photos, of which 7 and 31 can't be read."
    paths = [save(tmp_path / "photos" / f"{seed}.png", seed) for seed in range(60)]
    for broken in (7, 31):
        paths[broken].write_bytes(b"no photo")
    return paths


def predicted(model, images, out, processes=True, **options):
    return predict_here([model], images, PredictOptions(**({"out": out} | OPTIONS | options)), processes)


def running(parent: int | None = None) -> list[int]:
    "The readers that process `parent` (this one) has started and that have not ended; all of the machine's for 0."
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            reads = b"export.reading.reader" in (folder / "cmdline").read_bytes()
            if reads and state[0] != "Z" and parent in (0, int(state[1])):
                found.append(int(folder.name))
    return found


def mine() -> list[int]:
    return running(os.getpid())


def gone(pids: list[int], seconds: float = 5.0) -> bool:
    "True if the processes end within `seconds`."
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if pid in running(0)]:
        if time.monotonic() > deadline:
            return not alive
        time.sleep(0.02)
    return True


def small_readers(count: int = 2, bs: int = 8, preprocess: dict = tiny_onnx.PREPROCESS) -> Readers:
    reading = Readers(count)
    reading.open(2, (bs, 28, 28, 3), preprocess)
    return reading


def streamed(classifier: Classifier, photos: list, workers: int) -> Iterator:
    "The answers of `stream`, with as many processes that read."
    with contextlib.closing(Readers(workers)) as reading:
        with contextlib.closing(classifier.stream(photos, workers, readers=reading)) as answers:
            yield from answers


# The same as with threads


def test_files_and_journal_are_those_of_threads_to_the_byte(model, tmp_path, monkeypatch):
    images, journals = slow_photos(tmp_path / "photos", 500), {}
    (images / "77.jpg").unlink()
    os.symlink("nowhere", images / "77.jpg")
    given = {path.stem: path for path in images.iterdir()}
    for processes in (False, True):
        out = tmp_path / str(processes) / "p.csv"
        unread = predicted(model, given, out, processes)
        assert sorted(name for name, _, _ in unread) == ["400", "5", "77"]
        with monkeypatch.context() as patch:
            patch.setattr("export.predictions.formats.write_errors", None)  # which comes last
            with pytest.raises(TypeError):
                predicted(model, given, out.with_name("half.csv"), processes)
        journals[processes] = out.with_name("half.csv.partial").read_bytes()
    assert files(tmp_path / "False") == files(tmp_path / "True")
    assert journals[False] == journals[True]
    assert journals[True].count(b"\n") == 1 + 2 * 500
    assert mine() == []


def test_odd_files_have_the_same_error_messages(model, odd, tmp_path):
    unread = {processes: predicted(model, odd, tmp_path / f"{processes}.csv", processes) for processes in (False, True)}
    assert unread[True] == unread[False] != []
    assert (tmp_path / "True.csv").read_bytes() == (tmp_path / "False.csv").read_bytes()


@pytest.mark.parametrize(("bs", "workers"), [(1, 4), (7, 1), (16, 3), (256, 2), (4, 0)])
def test_no_photo_is_lost_doubled_or_out_of_order_whatever_the_batch_and_the_workers(
    model, photos, tmp_path, bs, workers
):
    unread = predicted(model, photos[0].parent, tmp_path / "p.csv", bs=bs, workers=workers, probabilities=False)
    assert rows(tmp_path / "p.csv")[1:] == [[str(n), "" if n in (7, 31) else label(n)] for n in range(60)]
    assert [name for name, _, _ in unread] == ["7", "31"]
    assert mine() == []


def test_the_processes_start_before_the_session_is_made_and_end_if_it_can_not_be(model, photos, tmp_path, monkeypatch):
    seen = []

    def opened(*_):
        seen.extend(mine())
        raise ValueError("no session")

    monkeypatch.setattr("export.session.opened", opened)
    with pytest.raises(ValueError, match="no session"):
        predicted(model, photos[0].parent, tmp_path / "p.csv", workers=3)
    assert len(seen) == 3
    assert mine() == []


def test_a_resumed_run_starts_processes_only_for_the_photos_that_are_left(model, photos, tmp_path, monkeypatch):
    asked, folder = [], photos[0].parent
    monkeypatch.setattr("export.predictions.local.worthwhile", lambda device, workers, count: bool(asked.append(count)))
    predicted(model, folder, tmp_path / "p.csv", processes=None)
    predicted(model, folder, tmp_path / "p.csv", processes=None, resume=True)  # it is finished
    with monkeypatch.context() as patch:
        patch.setattr("export.predictions.formats.write_errors", None)
        with pytest.raises(TypeError):
            predicted(model, folder, tmp_path / "half.csv", processes=None)
    predicted(model, folder, tmp_path / "half.csv", processes=None, resume=True)
    assert asked == [60, 60, 0]


def test_the_pixels_of_a_piece_are_written_at_its_indices_alone(photos):
    with contextlib.closing(small_readers()) as reading:
        first, second = reading.images
        outcomes = reading.fill(second, 3, photos[5:8])
        assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, False, True]
        assert str(outcomes[2]).startswith(f"{photos[7]}: not a photo in a format that is read")
        for place, path in ((3, photos[5]), (4, photos[6])):
            np.testing.assert_array_equal(second[place], prepared(path, tiny_onnx.PREPROCESS))
        assert not second[[0, 1, 2, 5, 6, 7]].any()
        assert not first.any()


def test_the_thread_that_waited_longest_gets_the_next_process(photos):
    "Else a thread that is done takes the process again and again, and the oldest batch waits for the others' pieces."
    order = []
    with contextlib.closing(small_readers(1, bs=1000)) as reading:
        reading.fill(reading.images[0], 0, photos[:1])  # it has started

        def ask(*names: str) -> None:
            for name in names:
                reading.fill(reading.images[0], 0, photos[:1] * 1000)
                order.append(name)

        threads = [threading.Thread(target=ask, args=names) for names in (("a", "d"), ("b",), ("c",))]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
    assert order == ["a", "b", "c", "d"]


def test_profile_counts_the_work_of_processes(model, photos, tmp_path, capsys):
    predicted(model, photos[0].parent, tmp_path / "p.csv", profile=True)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines[:4]] == ["read", "decode", "crop", "copy"]
    assert all(line.endswith("   in 3 processes") for line in lines[:4])
    assert lines[4].startswith("model ")
    assert lines[4].endswith("   in 3 threads")
    assert sum(float(line.split()[1]) for line in lines[:4]) > 0


# Faults


KILLS = 20


def kill_readers(stop: threading.Event, killed: list[int], chance: random.Random) -> None:
    while len(killed) < KILLS and not stop.wait(chance.uniform(0.2, 0.6)):
        if found := mine():
            killed.append(chance.choice(found))
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)


@pytest.mark.long
def test_whichever_readers_are_killed_the_files_are_those_of_an_unbroken_run(model, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "TRIES", KILLS + 1)  # chance may hit one photo, or one start, again and again
    monkeypatch.setattr(readers, "STARTS", KILLS + 1)
    images, stop, killed = slow_photos(tmp_path / "photos", 2000), threading.Event(), []
    predicted(model, images, tmp_path / "whole" / "p.csv", False)
    killer = threading.Thread(target=kill_readers, args=(stop, killed, random.Random(0)))
    killer.start()
    try:
        predicted(model, images, tmp_path / "killed" / "p.csv")
    finally:
        stop.set()
        killer.join()
    assert len(killed) > 2
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert mine() == []


DECODER = """
import os, signal, sys
sys.path.remove({folder!r})
del sys.modules["cv2"]
import cv2, numpy

def imdecode(content, flags, decode=cv2.imdecode):
    if (number := int(numpy.sum(content[-5:] == 250))) > 3:  # the last bytes say which signal
        os.kill(os.getpid(), int(content[-6]))
    return decode(content, flags)

cv2.imdecode = imdecode
sys.modules["cv2"] = cv2
"""


@pytest.fixture
def deadly_decoder(tmp_path, monkeypatch):
    "An OpenCV, in the readers alone, that a JPEG which ends in a signal's number and five bytes of 250 kills."
    (tmp_path / "deadly").mkdir()
    (tmp_path / "deadly" / "cv2.py").write_text(DECODER.format(folder=str(tmp_path / "deadly")))
    monkeypatch.syspath_prepend(tmp_path / "deadly")


def jpegs(folder: Path, count: int, deadly: dict[int, int]) -> list[Path]:
    import cv2

    folder.mkdir()
    for number in range(count):
        content = cv2.imencode(".jpg", tiny_onnx.photo(number)[:, :, ::-1])[1].tobytes()
        ending = bytes([deadly[number]]) + b"\xfa" * 5 if number in deadly else b""
        (folder / f"{number}.jpg").write_bytes(content + ending)
    return [folder / f"{number}.jpg" for number in range(count)]


def test_a_photo_that_kills_its_readers_is_named_with_the_signal_and_the_others_are_read(
    model, tmp_path, deadly_decoder, capsys
):
    deadly = {3: signal.SIGSEGV, 20: signal.SIGKILL, 21: signal.SIGABRT}
    paths = jpegs(tmp_path / "photos", 40, deadly)
    expected = Classifier(model, "cpu")(paths)[0]  # no decoder is deadly here
    unread = predicted(model, tmp_path / "photos", tmp_path / "p.csv", probabilities=False, bs=8)
    reason = "it killed the process that read it: "
    assert unread == [
        ("3", paths[3], f"{reason}SIGSEGV"),
        ("20", paths[20], f"{reason}SIGKILL, out of memory?"),
        ("21", paths[21], f"{reason}SIGABRT"),
    ]
    assert rows(tmp_path / "p.csv")[1:] == [[str(n), "" if n in deadly else expected[n]] for n in range(40)]
    assert f"{paths[3]}: {reason}SIGSEGV\n" in capsys.readouterr().err
    assert mine() == []


def test_a_photo_that_killed_its_readers_is_black(tmp_path, deadly_decoder):
    paths = jpegs(tmp_path / "photos", 3, {1: signal.SIGSEGV})
    with contextlib.closing(small_readers()) as reading:
        reading.images[0][:] = 255
        assert [outcome is None for outcome in reading.fill(reading.images[0], 0, paths)] == [True, False, True]
        assert [place.any() for place in reading.images[0][:3]] == [True, False, True]


@pytest.mark.parametrize(
    ("executable", "reason"), [("/nowhere/python", "No such file or directory"), ("/bin/false", "exit status 1")]
)
def test_it_is_an_error_if_no_process_can_be_started(model, photos, tmp_path, monkeypatch, executable, reason):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(OSError, match=rf"no process can be started to read photos in \({reason}\)"):
        predicted(model, photos[0].parent, tmp_path / "p.csv")
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
    assert mine() == []


def test_a_bug_of_ours_in_a_reader_is_raised_with_its_traceback(photos):
    with contextlib.closing(small_readers(1, preprocess={"crop": 28})) as reading:
        with pytest.raises(KeyError, match="resize") as fault:
            reading.fill(reading.images[0], 0, photos[:2])
        assert "smallest_side" in fault.value.__notes__[0]
    assert mine() == []


# The end


@pytest.mark.parametrize("stopped", [False, True])
def test_closed_early_it_ends_at_once_and_leaves_no_reader(model, tmp_path, stopped):
    "A reader that was stopped (SIGSTOP) answers nothing, and keeps nobody waiting."
    paths = sorted(slow_photos(tmp_path / "photos", 1500).iterdir())
    answers = streamed(Classifier(model, "cpu", bs=256), paths, workers=2)
    next(answers)  # three batches are being read meanwhile
    assert (pids := mine())
    for pid in pids if stopped else ():
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)  # each gets a piece to read
    begun = time.monotonic()
    answers.close()
    assert time.monotonic() - begun < 2
    assert mine() == []
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_reader_that_is_stopped_for_a_while_costs_that_while_alone(model, photos, tmp_path):
    answers = streamed(Classifier(model, "cpu", bs=4), photos, workers=2)
    first = next(answers)
    for pid in (pids := mine()):
        os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGCONT) for pid in pids]).start()
    labels = [answer if isinstance(answer, Exception) else answer[0] for answer in [first, *answers]]
    assert [each for each in labels if isinstance(each, str)] == [label(n) for n in range(60) if n not in (7, 31)]


def test_an_exception_of_the_model_ends_the_readers(model, photos, monkeypatch):
    classifier = Classifier(model, "cpu", bs=4)
    monkeypatch.setattr(classifier, "card", classifier.card.__class__(["one"], classifier.card.preprocess))
    with pytest.raises(ValueError, match="probabilities of shape"):
        list(streamed(classifier, photos, workers=2))
    assert mine() == []


COMMAND = """
import sys
from pathlib import Path
from export.predictions.local import predict_here
from export.predictions.options import PredictOptions
from toolkit.command import run

def predict(
    resume: bool = False,  # continue
):
    "Label photos."
    options = PredictOptions(out={out!r}, resume=resume, **{options!r})
    predict_here([Path({model!r})], {images!r}, options, processes=True)

sys.exit(run(predict, sys.argv[1:]))
"""


def started(model, images, out, *arguments) -> subprocess.Popen:
    "predict_here as a command, with processes."
    script = out.parent.with_suffix(".py")
    script.write_text(COMMAND.format(model=str(model), images=str(images), out=str(out), options=OPTIONS))
    command = [sys.executable, script, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, process_group=0)


def reading(process: subprocess.Popen, out: Path) -> list[int]:
    "Its readers, once they have read photos."
    wait_for_rows(out.with_name(f"{out.name}.partial"), process)
    assert (found := running(process.pid))
    return found


def test_killed_it_leaves_no_reader_and_resumed_it_gives_the_files_of_an_unbroken_run(model, tmp_path):
    images, out = slow_photos(tmp_path / "photos", 1500), tmp_path / "killed" / "p.csv"
    predicted(model, images, tmp_path / "whole" / "p.csv", False)
    process = started(model, images, out)
    pids = reading(process, out)
    process.kill()
    process.communicate()
    assert gone(pids)
    assert out.with_name("p.csv.partial").exists()
    process = started(model, images, out, "--resume")
    process.communicate()
    assert files(out.parent) == files(tmp_path / "whole")


@pytest.mark.parametrize("group", [False, True])
def test_interrupted_it_ends_in_seconds_and_leaves_no_reader(model, tmp_path, group):
    "As a shell does it, the process alone, or as a terminal does: its whole group."
    images, out = slow_photos(tmp_path / "photos", 1500), tmp_path / "out" / "p.csv"
    process = started(model, images, out)
    pids = reading(process, out)
    os.kill(pids[0], signal.SIGINT)  # a reader alone does not mind
    time.sleep(0.1)
    assert process.poll() is None
    assert pids[0] in running(process.pid)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    asked = time.monotonic()
    stderr = process.communicate(timeout=30)[1]
    assert time.monotonic() - asked < 5
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith(f"interrupted; finished rows are in {out}.partial: the same command")
    assert "Traceback" not in stderr
    assert gone(pids, 0)


def test_memory_is_that_of_the_buffers_however_many_photos(model, tmp_path):
    first, peaks = save(tmp_path / "photos" / "0.png", 0), {}
    for count in (500, 5000):
        with contextlib.closing(small_readers(1)) as reading:
            for _ in range(count // 8):
                reading.fill(reading.images[0], 0, [first] * 8)
            (pid,) = mine()
            status = Path(f"/proc/{pid}/status").read_text()
        peaks[count] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    assert peaks[5000] - peaks[500] < 8, peaks


def test_many_runs_leave_no_file_descriptor_and_no_mapping(photos):
    def held():
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("memfd:photos")

    with contextlib.closing(small_readers()) as reading:
        reading.fill(reading.images[0], 0, photos[:2])
    del reading
    before = held()
    for _ in range(5):
        with contextlib.closing(small_readers()) as reading:
            reading.fill(reading.images[0], 0, photos[:2])
        del reading
    assert held() == before


def test_a_reader_imports_neither_onnxruntime_nor_torch_nor_matplotlib():
    heavy = {"onnxruntime", "torch", "onnx", "fastcore"}
    code = f"import sys, export.reading.reader; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The choice


@pytest.mark.parametrize(
    ("device", "workers", "count", "expected"),
    [
        ("cuda", 16, 20_000, True),
        ("tensorrt", 8, 20_000, True),
        ("cuda", 2, 20_000, False),  # threads seldom wait for each other
        ("cuda", 0, 20_000, False),
        ("cuda", 16, 20, False),  # done before a process has started
        ("cpu", 16, 20_000, False),
    ],
)
def test_processes_read_if_threads_would_wait(device, workers, count, expected):
    assert worthwhile(device, workers, count) == expected


def test_on_other_systems_threads_read(monkeypatch):
    monkeypatch.setattr(readers.sys, "platform", "darwin")
    assert not worthwhile("cuda", 16, 20_000)


@pytest.mark.gpu
@no_gpu
def test_memory_that_exists_is_pinned_once_and_given_back_with_its_array():
    from export.runtime.cuda import pin

    for _ in range(3):
        reading = small_readers(bs=64)
        for images in reading.images:
            pin(images)
        with pytest.raises(OSError, match="cuMemHostRegister failed with error 712"):  # ..._ALREADY_REGISTERED
            pin(reading.images[0])
        reading.close()
        del images, reading


def test_without_shared_memory_the_error_says_what_helps(monkeypatch):
    def refused(name):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(readers.os, "memfd_create", refused)
    with pytest.raises(
        OSError, match=r"no process can be started .*\(Function not implemented\): --workers 3 reads in threads"
    ):
        small_readers(bs=8)
