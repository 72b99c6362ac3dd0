"""What is wrong with this installation, and the line that mends it.

    python -m toolkit.doctor

Each check is a function that gives its findings and runs alone. It is for broken installations: nothing but the
standard library is imported before the check that is about it, and an import that fails is a finding like another.
"""

import contextlib
import ctypes
import importlib
import io
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from toolkit.command import run_script
from toolkit.machine import gpus, missing_cudnn

DISTRIBUTION = "rapid-finetune"
INSTALL = "pip install -e . -c constraints.txt"
PYTHON = (3, 11)
ARCH = "resnet152.tv2_in1k"  # what recipes.hw1 takes its ImageNet weights for
ROOM = 10**9  # bytes free that a run should find: last.pt of resnet152 is 0.7 GB
MODULES = {  # where the name to import is not the distribution's, or its top is empty
    "albumentations": "toolkit.data.augment",  # which keeps it from asking the network for updates
    "fastai": "fastai.vision.core",
    "fastcore": "fastcore.foundation",
    "onnxruntime-gpu": "onnxruntime",
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL.Image",
    "scikit-learn": "sklearn",
}
REINSTALL = {  # where an import fails: the usual reason, and what mends it
    "cv2": "pip install --force-reinstall --no-deps opencv-python-headless -c constraints.txt",
    "onnxruntime": "pip uninstall -y onnxruntime onnxruntime-gpu && " + INSTALL,
    "torchvision": "pip install --force-reinstall torch torchvision -c constraints.txt",
}


class Finding(NamedTuple):
    "state: `ok`, `wrong` (work stops there) or `note` (it goes on, with less); mend: the line to type, if any."

    state: str
    text: str
    mend: str = ""


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    said = f"Python {'.'.join(map(str, version))}, {sys.executable}"
    if tuple(version) >= PYTHON:
        yield Finding("ok", said)
    else:
        needed = ".".join(map(str, PYTHON))
        yield Finding("wrong", f"{said}: {needed} or later is needed", f"python{needed} -m venv .venv")


def requirements() -> list:
    "The packaging.Requirement of everything that is needed on this system. Raises PackageNotFoundError."
    lines = metadata.requires(DISTRIBUTION) or []
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in lines]
    return [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


def versions() -> Iterator[Finding]:
    "Whether each dependency is installed, in a version that we take."
    try:
        wanted = requirements()
    except metadata.PackageNotFoundError:
        yield Finding("wrong", f"{DISTRIBUTION} is not installed in this Python: its dependencies are unknown", INSTALL)
        return
    except ImportError as error:
        yield Finding("wrong", f"the versions can't be compared: {error}", INSTALL)
        return
    found = [finding for each in wanted for finding in version(each)]
    yield from found or [Finding("ok", f"{len(wanted)} dependencies, all installed in a version that fits")]


def version(wanted) -> Iterator[Finding]:
    "What is wrong with one packaging.Requirement, if anything is."
    installed = _installed(wanted.name)
    mend = REINSTALL.get(MODULES.get(wanted.name), f"pip install '{wanted.name}{wanted.specifier}' -c constraints.txt")
    if installed is None:
        yield Finding("wrong", f"{wanted.name} is not installed", mend)
    elif not wanted.specifier.contains(installed, prereleases=True):
        yield Finding("wrong", f"{wanted.name} {installed}: {wanted.specifier} is needed", mend)


def imports() -> Iterator[Finding]:
    "Whether each dependency that is installed can be imported; torchvision beside another torch can't."
    try:
        names = [each.name for each in requirements()]
    except (ImportError, metadata.PackageNotFoundError):
        return  # `versions` has said it
    modules = dict.fromkeys(MODULES.get(name, name.replace("-", "_")) for name in names if _installed(name))
    found = [finding for module in modules for finding in importable(module)]
    yield from found or [Finding("ok", f"{', '.join(module.partition('.')[0] for module in modules)} can be imported")]


def importable(module: str) -> Iterator[Finding]:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library raises anything
        reason, mend = _first_line(error), REINSTALL.get(module, f"pip install --force-reinstall {module}")
        if "torchvision::" in reason:
            reason, mend = f"{reason}: torchvision was built for another torch", REINSTALL["torchvision"]
        elif module in MODULES.values() and module not in REINSTALL:
            mend = INSTALL
        yield Finding("wrong", f"import {module} fails: {reason}", mend)


def opencv() -> Iterator[Finding]:
    "opencv-python and the headless one that albumentations brings write the same files: one version, or a mixture."
    names = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    found = {name: _installed(name) for name in names if _installed(name)}
    said = " and ".join(f"{name} {version}" for name, version in found.items())
    if len(set(found.values())) > 1:
        newest = max(found.values(), key=lambda version: [int(part) for part in version.split(".") if part.isdigit()])
        mend = "pip install --force-reinstall --no-deps " + " ".join(f"{name}=={newest}" for name in found)
        yield Finding("wrong", f"{said} share the folder cv2 and must be one version", mend)
    elif found:
        yield Finding("ok", said)


def onnxruntimes() -> Iterator[Finding]:
    "onnxruntime and onnxruntime-gpu write the same files; whichever came last has won."
    found = {name: _installed(name) for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)}
    said = " and ".join(f"{name} {version}" for name, version in found.items())
    if len(found) > 1:
        yield Finding("wrong", f"{said} share the folder onnxruntime: keep one", REINSTALL["onnxruntime"])
    elif found:
        yield Finding("ok", said)


def torch_cuda() -> Iterator[Finding]:
    "What torch computes on."
    import torch

    build = f"torch {torch.__version__}"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
        yield Finding("ok", f"{build}: CUDA {torch.version.cuda} on {names}")
    elif not gpus():
        yield Finding("note", f"{build}: on the CPU; {_no_gpu()}")
    elif torch.version.cuda is None:
        yield Finding("wrong", f"{build} is built without CUDA, and there is a GPU", REINSTALL["torchvision"])
    else:
        reason = _cuda_trouble(torch)
        yield Finding("wrong", f"{build} (CUDA {torch.version.cuda}) can't use the GPU: {reason}", "nvidia-smi")


def _cuda_trouble(torch) -> str:
    try:
        torch.cuda.init()
    except Exception as error:  # of many types
        return _first_line(error)
    return "it gives no reason"


def onnxruntime_cuda() -> Iterator[Finding]:
    "What onnxruntime really runs a model on: a session tells, the list of available providers does not."
    import onnxruntime

    build = f"onnxruntime {onnxruntime.__version__}"
    onnxruntime.set_default_logger_severity(4)
    if not gpus():
        yield Finding("note", f"{build}: {_provider('CPUExecutionProvider')}; {_no_gpu()}")
        return
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        yield Finding("wrong", f"{build} is built without CUDA, and there is a GPU", REINSTALL["onnxruntime"])
        return
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it can't find; the loader below says it once
        onnxruntime.preload_dlls()
    loaded, mend = _provider("CUDAExecutionProvider"), "pip install 'onnxruntime-gpu[cuda,cudnn]' -U"
    if loaded != "CUDAExecutionProvider":
        reason = _missing_library(Path(onnxruntime.__file__).parent / "capi") or "it gives no reason"
        yield Finding("wrong", f"{build} falls back to {loaded}: {reason}", mend)
    elif missing := missing_cudnn():
        yield Finding("wrong", f"{build} computes convolutions slowly or not at all: {missing} can't be loaded", mend)
    else:
        yield Finding("ok", f"{build}: {loaded}")


def _provider(wanted: str) -> str:
    "The provider that a model of one node ends up on."
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "doctor", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers = list(dict.fromkeys([wanted, "CPUExecutionProvider"]))
    with contextlib.redirect_stdout(io.StringIO()):  # its fallback is printed
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers).get_providers()[0]


def _missing_library(folder: Path) -> str | None:
    "Why the system's loader can't load onnxruntime's CUDA part; Linux tells."
    if sys.platform != "linux":
        return None
    try:
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
    except OSError as error:
        return str(error)
    return None


def _no_gpu() -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "no NVIDIA GPU, or no driver for it" + ("" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})")


def processor() -> Iterator[Finding]:
    from toolkit.learner.device import cpu_has_bf16

    if cpu_has_bf16():
        yield Finding("ok", f"{platform.machine()} CPU with bf16: --precision auto trains in it")
    else:
        yield Finding("note", f"{platform.machine()} CPU without bf16: --precision auto trains in fp32 on it")


def disk(folder: Path = Path()) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.1f} GB free in {folder.resolve()}"
    yield Finding("ok", said) if free >= ROOM else Finding("note", f"{said}: a run may need 1 GB")


def hub() -> Iterator[Finding]:
    "Whether the default network's ImageNet weights are on this machine, or will be fetched."
    from huggingface_hub import constants, try_to_load_from_cache

    cache = constants.HF_HUB_CACHE
    if isinstance(try_to_load_from_cache(f"timm/{ARCH}", "model.safetensors"), str):
        yield Finding("ok", f"ImageNet weights of {ARCH} are in {cache}")
    else:
        said = f"ImageNet weights of {ARCH} are not in {cache}: the first run fetches them, or now"
        yield Finding("note", said, f"hf download timm/{ARCH} model.safetensors")


CHECKS = (python, versions, imports, opencv, onnxruntimes, torch_cuda, onnxruntime_cuda, processor, disk, hub)


def examine(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    "The findings of a check; what it raises is one."
    try:
        return list(check())
    except Exception as error:  # of whatever is broken
        return [Finding("wrong", f"{check.__name__.replace('_', ' ')}: {_first_line(error)}", INSTALL)]


def _installed(name: str) -> str | None:
    "The version of a distribution, or None."
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def show(findings: list[Finding]) -> None:
    for state, text, mend in findings:
        print(f"{state:<6} {text}" + (f"\n       {mend}" if mend else ""), flush=True)


def exit_status(findings: list[Finding]) -> int:
    return 2 if any(finding.state == "wrong" for finding in findings) else 0


def doctor() -> list[Finding]:
    "Print the findings of every check as they come; all of them."
    found = []
    for check in CHECKS:
        found += (now := examine(check))
        show(now)
    wrong = sum(finding.state == "wrong" for finding in found)
    print(f"{wrong} wrong" if wrong else "all well")
    return found


if __name__ == "__main__" and (broken := examine(lambda: importable("tyro"))):  # it reads the command line
    show(broken)
    sys.exit(exit_status([*broken, *doctor()]))


def main() -> list[Finding]:
    "Say what is wrong with this installation, and the line that mends it."
    return doctor()


if __name__ == "__main__":
    run_script(main, status=exit_status)
