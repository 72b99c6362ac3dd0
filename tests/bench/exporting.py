"""The exported graph: is it faster simplified, and how much faster in 8 bits? Ratios above 1: the second one wins.

    python tests/bench/exporting.py simplified [--archs resnet18 test_vit ...]   # needs onnxsim
    python tests/bench/exporting.py int8 --archs resnet152
    python tests/bench/exporting.py folding --rounds 3     # the export itself, its batch norms folded first or not

Sessions of one thread run in turn on the same images; a figure is the median, over rounds, of the ratio of the
processor's seconds. Weights are random.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from export.convert import graph  # noqa: E402
from export.convert.fold_batch_norm import folded  # noqa: E402
from export.convert.graph import export_graph, write_metadata  # noqa: E402
from export.convert.mixed_precision import lower  # noqa: E402
from toolkit.data.preprocess import for_size  # noqa: E402
from toolkit.models.timm_model import create_model  # noqa: E402

SIZES = {"resnet152": 224, "swin_tiny_patch4_window7_224": 224, "vit_small_patch16_224": 224, "convnext_tiny": 224}


def exported(folder: Path, arch: str, size: int) -> Path:
    torch.manual_seed(0)
    path = folder / f"{arch}.onnx"
    export_graph(create_model(arch, 100, "none", image_size=size).eval(), for_size(size), path)
    write_metadata(path, {"classes": [str(index) for index in range(100)], "preprocess": for_size(size)})
    return path


def simplified(path: Path) -> dict[str, Path]:
    "The file after onnxsim, and after onnxruntime's own optimisations that hold on any machine."
    import onnxsim

    by_onnxsim, by_onnxruntime = path.with_suffix(".sim.onnx"), path.with_suffix(".basic.onnx")
    model, same = onnxsim.simplify(onnx.load(path))
    assert same
    onnx.save(model, by_onnxsim)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(by_onnxruntime)
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {"onnxsim": by_onnxsim, "onnxruntime's basic": by_onnxruntime}


def in_8_bits(path: Path) -> dict[str, Path]:
    out, size = path.with_suffix(".int8.onnx"), SIZES.get(path.stem, 128)
    out.write_bytes(path.read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
    lower(out, "int8", "cpu", images, lambda candidate, kept: [])
    return {"8 bits": out}


def compare_folding(arch: str, size: int, rounds: int) -> None:
    "The processor's seconds of an export, without folding and with it, in turn."
    model, spent = create_model(arch, 100, "none", image_size=size).eval(), {"without": [], "with": []}
    for _ in range(rounds + 1):  # the first round imports, and is left out
        for name, fold in (("without", lambda model, size: model), ("with", folded)):
            graph.folded = fold
            begun = time.process_time()
            with tempfile.TemporaryDirectory() as scratch:
                export_graph(model, for_size(size), Path(scratch) / "model.onnx")
            spent[name].append(time.process_time() - begun)
    pairs = list(zip(spent["without"], spent["with"], strict=True))[1:]
    ratio = statistics.median(plain / other for plain, other in pairs)
    print(
        f"{arch:32}ratio {ratio:.2f}   {min(spent['without'][1:]):.1f} s without, {min(spent['with'][1:]):.1f} s with"
    )


def session(path: Path) -> tuple[onnxruntime.InferenceSession, float]:
    "And the processor's seconds it took to load."
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    begun = time.process_time()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), time.process_time() - begun


def compare(path: Path, others: dict[str, Path], rounds: int, batch: int) -> None:
    sessions = {name: session(file) for name, file in ({"exported": path} | others).items()}
    size = SIZES.get(path.stem, 128)
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    spent = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, (one, _) in sessions.items():
            begun = time.process_time()
            one.run(["logits"], {"image": images})
            spent[name].append((time.process_time() - begun) / batch)
    for name, (_, loading) in sessions.items():
        pairs = list(zip(spent["exported"], spent[name], strict=True))[1:]
        ratio = statistics.median(plain / other for plain, other in pairs)
        fastest = min(spent[name]) * 1e3
        print(f"{path.stem:32}{name:22}ratio {ratio:.3f}   {fastest:8.2f} ms an image, loaded in {loading:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["simplified", "int8", "folding"], default="int8")
    parser.add_argument("--archs", nargs="+", default=["resnet18", "mobilenetv2_100", "test_convnext", "test_vit"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    make = {"simplified": simplified, "int8": in_8_bits}.get(given.what)
    for arch in given.archs:
        if make is None:
            compare_folding(arch, SIZES.get(arch, 128), given.rounds)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            file = exported(Path(scratch), arch, SIZES.get(arch, 128))
            compare(file, make(file), given.rounds, given.batch)
