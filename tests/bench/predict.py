"""`export.predict` over the loop people write, from files to CSV. Ratios above 1: ours wins.

    python tests/bench/predict.py small --precision int8    # resnet18 at 128 pixels, and what the cores allow
    python tests/bench/predict.py big                       # 12-megapixel JPEGs, resnet18 at 224
    python tests/bench/predict.py resnet152                 # at 224 pixels
    python tests/bench/predict.py start                     # seconds from the start of the process to the first row
    python tests/bench/predict.py memory --counts 5000 100000    # peak memory: a model of a few nodes, and resnet152
    python tests/bench/predict.py scaling                   # photos -> pixels alone: threads against processes
    python tests/bench/predict.py lock                      # for how much of a photo Python's lock is held
    python tests/bench/predict.py gpu --precision fp16      # on a GPU, if there is one: ours, the loop, the bounds
    python tests/bench/predict.py alone --precision fp16    # the model alone on a GPU, by onnxruntime's options

The loop: a Dataset of PIL and torchvision's Resize, CenterCrop and Normalize, a DataLoader with 2 workers (8 on a GPU),
eager fp32 under inference_mode (fp16 autocast on a GPU), a CSV at the end; its model is built before the clock starts.
--readers forces what reads the photos of `small`, `big`, `resnet152` and `gpu`: threads or processes.
The two sides run in turn, round by round; the figure is the median of the rounds' ratios. --photos: a folder of JPEGs
that the photos are made of, by resizing; without it noise.
"""

import argparse
import contextlib
import csv
import functools
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]
import alone  # noqa: E402
import reading  # noqa: E402
import tiny_onnx  # noqa: E402

from export.predictions.local import predict_here  # noqa: E402
from export.predictions.options import PredictOptions  # noqa: E402
from export.reading.prepare import prepared  # noqa: E402
from export.session import Classifier  # noqa: E402
from toolkit.machine import cores, gpus  # noqa: E402

PHOTOS = ROOT.parent / "shared" / "data" / "grocery20"
CLASSES = 100


# What is run


def model_file(folder: Path, arch: str, size: int, precision: str) -> Path:
    "A model.onnx with random weights, of fp32, fp16 or int8."
    path = folder / f"{arch}.onnx"
    path.write_bytes(model_bytes(arch, size, precision))
    return path


def resnet152_bytes(options: argparse.Namespace) -> bytes:
    "The file that --model names, which is made if it is not there: to make it takes as long as to measure it."
    if options.model and options.model.exists():
        return options.model.read_bytes()
    data = model_bytes("resnet152", 224, options.precision)
    if options.model:
        options.model.write_bytes(data)
    return data


@functools.cache
def model_bytes(arch: str, size: int, precision: str) -> bytes:
    from export.convert.graph import export_graph, write_metadata
    from export.convert.mixed_precision import lower
    from toolkit.data.preprocess import for_size

    with tempfile.TemporaryDirectory() as folder:
        path, preprocess = Path(folder, f"{arch}.onnx"), for_size(size)
        export_graph(torch_model(arch, size), preprocess, path)
        classes = [str(index) for index in range(CLASSES)]
        write_metadata(path, {"classes": classes, "preprocess": preprocess, "precision": precision})
        if precision != "fp32":
            images = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
            lower(path, precision, "cpu", images, lambda candidate, kept: [])
        return path.read_bytes()


def torch_model(arch: str, size: int):
    import torch

    from toolkit.models.timm_model import create_model

    torch.manual_seed(0)
    return create_model(arch, CLASSES, "none", image_size=size).eval()


def jpegs(folder: Path, source: Path, count: int, width: int, height: int) -> Path:
    "`count` JPEGs of that size; of 64 photos, or fewer, the rest hard links."
    folder.mkdir(parents=True)
    found = sorted(source.rglob("*.jpg"))[:: max(1, len(list(source.rglob("*.jpg"))) // 64)] if source.is_dir() else []
    different = min(count, 64 if width < 1000 else 8)
    for number in range(count):
        path = folder / f"{number}.jpg"
        if number >= different:
            os.link(folder / f"{number % different}.jpg", path)
            continue
        photo = Image.open(found[number % len(found)]).convert("RGB") if found else noise(number)
        photo.resize((width, height), Image.Resampling.LANCZOS).save(path, quality=90)
    return folder


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8))


def the_loop(model, folder: Path, out: Path, size: int, device: str = "cpu", workers: int = 2, bs: int = 32) -> None:
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms as T

    class Photos(Dataset):
        paths = sorted(folder.iterdir())
        transform = T.Compose(
            [T.Resize(round(size * 256 / 224)), T.CenterCrop(size), T.ToTensor(), T.Normalize([0.485] * 3, [0.229] * 3)]
        )

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            return self.transform(Image.open(self.paths[index]).convert("RGB"))

    labels = []
    with torch.inference_mode(), torch.autocast("cuda", enabled=device == "cuda"):
        for batch in DataLoader(Photos(), bs, num_workers=workers, pin_memory=device == "cuda"):
            labels += model(batch.to(device)).argmax(1).tolist()
    with out.open("w", newline="") as file:
        csv.writer(file).writerows(zip((path.stem for path in Photos.paths), labels, strict=True))


READERS = {"auto": None, "threads": False, "processes": True}


def predict(model: Path, photos: Path, out: Path, device: str, **options) -> None:
    predict_here([model], photos, PredictOptions(out, device, **options), READERS[arguments.readers])


def quiet_predict(*given, **options) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict(*given, **options)


def seconds(function: Callable, *given, **options) -> float:
    begun = time.perf_counter()
    function(*given, **options)
    return time.perf_counter() - begun


def in_turn(ours: Callable, theirs: Callable, rounds: int, images: int) -> float:
    "Ours over theirs, images/s; and our fastest round's images/s, which is told."
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    fastest = [images / min(side) for side in zip(*pairs, strict=True)]
    ratio = statistics.median(their / our for our, their in pairs)
    print(
        f"ours {fastest[0]:.1f} images/s, the loop {fastest[1]:.1f}; ratio {ratio:.2f} (median of {rounds})", flush=True
    )
    return fastest[0]


# The figures


def over_the_loop(arch: str, size: int, photos: Path, model: Path, rounds: int, out: Path) -> float:
    network, count = torch_model(arch, size), len(list(photos.iterdir()))
    return in_turn(
        lambda: quiet_predict(model, photos, out, "cpu"), lambda: the_loop(network, photos, out, size), rounds, count
    )


def allowed(model: Path, photos: Path) -> float:
    "Images/s that the cores allow: their number over the processor's seconds an image, decode + crop and model, alone."
    classifier = Classifier(model, "cpu", threads=1)
    paths, preprocess, bs = sorted(photos.iterdir())[:64], classifier.card.preprocess, classifier.bs
    images = np.stack([prepared(path, preprocess) for path in paths[:bs]])
    reading = min(processor_seconds(lambda: [prepared(path, preprocess) for path in paths]) for _ in range(5)) / 64
    model_ = min(processor_seconds(lambda: classifier.scores(images)) for _ in range(20)) / bs
    print(f"alone: decode + crop {reading * 1e3:.2f} ms, model {model_ * 1e3:.2f} ms of the processor an image")
    return cores() / (reading + model_)


def processor_seconds(function: Callable) -> float:
    begun = time.process_time()
    function()
    return time.process_time() - begun


def small(folder: Path, options: argparse.Namespace) -> None:
    photos = jpegs(folder / "photos", options.photos, 1000, 500, 375)
    model, out = model_file(folder, "resnet18", 128, options.precision), folder / "p.csv"
    limit = allowed(model, photos)
    rate = over_the_loop("resnet18", 128, photos, model, options.rounds, out)
    spent = processor_seconds(lambda: quiet_predict(model, photos, out, "cpu")) / 1000
    print(f"{rate / limit:.2f} of the {limit:.0f} images/s that {cores()} cores allow; ", end="")
    print(f"{cores() / spent / limit:.2f} by the processor's seconds, whoever else had it meanwhile")


def big(folder: Path, options: argparse.Namespace) -> None:
    photos = jpegs(folder / "photos", options.photos, 48, 4000, 3000)
    model = model_file(folder, "resnet18", 224, options.precision)
    over_the_loop("resnet18", 224, photos, model, options.rounds, folder / "p.csv")


def resnet152(folder: Path, options: argparse.Namespace) -> None:
    photos = jpegs(folder / "photos", options.photos, 64, 500, 375)
    model = model_file(folder, "resnet152", 224, options.precision)
    over_the_loop("resnet152", 224, photos, model, options.rounds, folder / "p.csv")


def start(folder: Path, options: argparse.Namespace) -> None:
    photos = jpegs(folder / "photos", options.photos, 200, 500, 375)
    model = model_file(folder, "resnet152", 224, options.precision)
    times = [first_row(model, photos, folder / f"{number}.csv") for number in range(options.rounds + 1)]
    print(f"first row after {min(times):.2f} s, median {statistics.median(times):.2f}")


def first_row(model: Path, photos: Path, out: Path) -> float:
    "Seconds from the start of the process to the first row in its journal."
    partial, begun = out.with_name(f"{out.name}.partial"), time.perf_counter()
    process = subprocess.Popen(command(model, photos, out), cwd=ROOT, stderr=subprocess.DEVNULL)
    head = 1 + len(list(photos.iterdir()))
    while not partial.exists() or partial.read_bytes().count(b"\n") <= head:
        time.sleep(0.01)
    passed = time.perf_counter() - begun
    process.kill()
    process.wait()
    return passed


def memory(folder: Path, options: argparse.Namespace) -> None:
    few_nodes = tiny_onnx.write(folder / "tiny.onnx")
    for count in options.counts:
        peak(few_nodes, jpegs(folder / f"tiny{count}", options.photos, count, 32, 32))
    photos = jpegs(folder / "large", options.photos, options.counts[0], 500, 375)
    peak(model_file(folder, "resnet152", 224, options.precision), photos)


def peak(model: Path, photos: Path) -> None:
    "Peak memory of the process, as the system tells it while it runs, and images/s."
    begun, count, megabytes = time.perf_counter(), len(list(photos.iterdir())), 0.0
    process = subprocess.Popen(
        command(model, photos, model.with_name("p.csv")) + ["--probabilities"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    status = Path(f"/proc/{process.pid}/status")  # what wait4 tells counts this process too, from which it was forked
    while process.poll() is None:
        if found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text()):
            megabytes = int(found[1]) * 1024 / 1e6
        time.sleep(0.02)
    assert process.returncode == 0
    passed = time.perf_counter() - begun
    over = megabytes - model.stat().st_size / 1e6
    print(f"{model.stem}, {count} photos: peak {megabytes:.0f} MB, {over:.0f} over the model's; ", end="")
    print(f"{passed:.1f} s, {count / passed:.0f} images/s", flush=True)


def command(model: Path, photos: Path, out: Path) -> list:
    return [sys.executable, "-m", "export.predict", model, photos, "--out", out, "--device", "cpu"]


def gpu(folder: Path, options: argparse.Namespace) -> None:
    "Files to CSV, sessions and all, and how near that is to what the cores and the model alone allow."
    if gpus() == 0:
        print("gpu: skipped, no NVIDIA GPU here")
        return
    count, few = 20_000, 4_000
    photos = jpegs(folder / "photos", options.photos, count, 500, 375)
    some, out = {str(n): photos / f"{n}.jpg" for n in range(few)}, folder / "p.csv"
    model, network = folder / "resnet152.onnx", torch_model("resnet152", 224).cuda()
    model.write_bytes(resnet152_bytes(options))
    with gpu_busy() as busy:
        predict(model, photos, out, "cuda", profile=True)
    print(f"GPU busy {statistics.mean(busy):.0f} % of this run, {statistics.median(busy):.0f} % at the median moment")
    ours, loops = [], []
    for _ in range(min(options.rounds, 2)):
        whole, short = (seconds(quiet_predict, model, each, out, "cuda") for each in (photos, some))
        ours.append((count / whole, (count - few) / (whole - short)))
        loops.append(count / seconds(the_loop, network, photos, out, 224, "cuda", workers=8, bs=256))
        print(f"ours {ours[-1][0]:.0f} images/s, once it runs {ours[-1][1]:.0f}; the loop, 8 workers, {loops[-1]:.0f}")
    paths, model_rate = sorted(photos.iterdir()), the_models_own(model)
    by_one, at_once = cores() / one_core(paths[:300]), reading.together(paths[:4000], cores())
    print(f"images/s of the model alone {model_rate:.0f}; of {cores()} x one core that decodes and crops {by_one:.0f};")
    print(f"of as many processes at a time, without the model, {at_once:.0f}")
    for name, number in (("with its start", 0), ("once it runs", 1)):
        ratio = statistics.median(our[number] / loop for our, loop in zip(ours, loops, strict=True))
        own = statistics.median(our[number] for our in ours)
        print(f"ours {name}: {ratio:.2f} x the loop (bar 3)", end="")
        print(f"; {own / min(model_rate, by_one):.2f} of the smaller of model and cores (bar 0.8)", end="")
        print(f"; {own / min(model_rate, at_once):.2f} of that of model and processes at a time")


@contextlib.contextmanager
def gpu_busy() -> Iterator[list[int]]:
    "Per cent of each fifth of a second, once the block has ended."
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    busy, process = [], subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield busy
    finally:
        process.terminate()
        busy += [int(line) for line in process.communicate()[0].split() if line.isdecimal()] or [0]


def the_models_own(model: Path) -> float:
    "Images/s of the model alone, from pinned memory on, the better of one thread and two."
    figures = alone.of_onnxruntime(model.read_bytes(), None)
    return max(figures.one, figures.two)


def one_core(paths: list[Path]) -> float:
    "Seconds in which one core decodes and crops a photo, alone."
    return min(seconds(lambda: [prepared(path, reading.PREPROCESS) for path in paths]) for _ in range(3)) / len(paths)


def variants(folder: Path, options: argparse.Namespace) -> None:
    if gpus() == 0:
        print("alone: skipped, no NVIDIA GPU here")
        return
    alone.table(resnet152_bytes(options), torch_model("resnet152", 224))


def scaling(folder: Path, options: argparse.Namespace) -> None:
    reading.scaling(sorted(jpegs(folder / "photos", options.photos, 3000, 500, 375).iterdir()))


def lock(folder: Path, options: argparse.Namespace) -> None:
    reading.lock(sorted(jpegs(folder / "photos", options.photos, 300, 500, 375).iterdir()))


FIGURES = {"small": small, "big": big, "resnet152": resnet152, "start": start, "memory": memory, "scaling": scaling}
FIGURES |= {"lock": lock, "gpu": gpu, "alone": variants}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(FIGURES)}; all unless given")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], default="fp32")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--model", type=Path, help="resnet152 of `gpu` and `alone`, kept between calls")
    parser.add_argument("--readers", choices=READERS, default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 100_000])
    arguments = parser.parse_args()
    for name in arguments.what or FIGURES:
        print(f"\n{name}, {arguments.precision}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            FIGURES[name](Path(scratch), arguments)
