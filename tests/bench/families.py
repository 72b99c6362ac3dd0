"""Which of timm's families train a step, and are exported with torch's logits?

    python tests/bench/families.py                # all of them: three quarters of an hour of a core
    python tests/bench/families.py resnet hiera   # these modules of timm.models

Of each family one small network with random weights is tried, on squares of the first of SIZES pixels that it takes.
Its file's logits, of a batch of three photos and of one, are compared with torch's. The figure is the largest
difference over the largest logit. Exit status 1 if a family fails or differs by more than MOST.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from export.convert.graph import export_graph  # noqa: E402
from export.parity.reference import torch_outputs  # noqa: E402
from toolkit.data.preprocess import for_size  # noqa: E402
from toolkit.errors import first_line  # noqa: E402
from toolkit.models.timm_model import create_model  # noqa: E402

SIZES = (64, 96, 128, 224, 240, 256)  # pixels
TRIED = 60  # names of a family, of which the smallest network is taken
WEIGHTS = 90e6  # at most
MOST = 1e-4
CLASSES = 3


def smallest(names: list[str]) -> str:
    "The network with the fewest weights. Raises ValueError if it has more than WEIGHTS."
    counts = {}
    for name in names[:TRIED]:
        with torch.device("meta"):  # without memory for the weights
            counts[name] = sum(weight.numel() for weight in timm.create_model(name, num_classes=CLASSES).parameters())
    least = min(counts, key=counts.get)
    if counts[least] > WEIGHTS:
        raise ValueError(f"{least}, its smallest network, has {counts[least] / 1e6:.0f} million weights")
    return least


def created(name: str) -> tuple[torch.nn.Module, int]:
    "The network, and the pixels that it takes."
    for size in SIZES:
        try:
            return create_model(name, CLASSES, "none", image_size=size), size
        except ValueError as error:
            fault = error
    raise fault


def difference(name: str) -> tuple[float, int]:
    "The largest difference of the file's logits from torch's over the largest logit, and the pixels."
    torch.manual_seed(0)
    model, size = created(name)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = torch.nn.functional.cross_entropy(model.train()(torch.randn(4, 3, size, size)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimiser.step()
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise ValueError("a weight is not finite after the first step")
    photos = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    expected = torch_outputs(model.eval(), photos, for_size(size))[0]
    with tempfile.TemporaryDirectory() as scratch:
        export_graph(model, for_size(size), Path(scratch) / "model.onnx")
        session = onnxruntime.InferenceSession(Path(scratch) / "model.onnx", providers=["CPUExecutionProvider"])
    found = [session.run(["logits"], {"image": photos[:count]})[0] for count in (3, 1)]
    apart = max(np.abs(part - expected[: len(part)]).max() for part in found)
    return float(apart / np.abs(expected).max()), size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*")
    given = parser.parse_args()
    families = defaultdict(list)
    for name in timm.list_models():
        families[timm.models.model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    if unknown := set(given.families) - families.keys():
        parser.error(f"timm has no {', '.join(sorted(unknown))}: it has {', '.join(sorted(families))}")
    good = True
    for family in given.families or sorted(families):
        begun = time.perf_counter()
        try:
            name = smallest(families[family])
        except ValueError as error:
            print(f"{family:26}left out: {error}", flush=True)
            continue
        try:
            apart, size = difference(name)
        except Exception as error:
            good, said = False, f"FAILED: {type(error).__name__}: {first_line(error):.200}"
        else:
            good, said = good and apart <= MOST, f"{size:4} pixels, differs by {apart:.1e}"
        print(f"{family:26}{name:32}{said}, {time.perf_counter() - begun:.0f} s", flush=True)
    sys.exit(0 if good else 1)
