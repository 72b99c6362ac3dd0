"""Checks of the Python version and of the packages that are installed, by their metadata and by importing them."""

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata

from toolkit.installation.finding import INSTALL, REINSTALL, Finding, named_reason

DISTRIBUTION = "rapid-finetune"
PYTHON = (3, 11)
MODULES = {  # by distribution: the module to import, if it has another name or its top is empty
    "albumentations": "toolkit.data.augment",  # which keeps it from asking the network for updates
    "fastai": "fastai.vision.core",
    "fastcore": "fastcore.foundation",
    "onnxruntime-gpu": "onnxruntime",
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL.Image",
    "scikit-learn": "sklearn",
}


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    "Check that Python is new enough."
    found = f"Python {'.'.join(map(str, version))}, {sys.executable}"
    if tuple(version) >= PYTHON:
        yield Finding("ok", found)
    else:
        needed = ".".join(map(str, PYTHON))
        yield Finding("wrong", f"{found}: {needed} or later is needed", f"python{needed} -m venv .venv")


def requirements() -> list:
    "Return a packaging.Requirement for each dependency on this system. Raises PackageNotFoundError."
    lines = metadata.requires(DISTRIBUTION) or []
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in lines]
    return [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


def versions() -> Iterator[Finding]:
    "Check that each dependency is installed, in a version that fits."
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
    "Check one packaging.Requirement; no finding if it is met."
    found = installed(wanted.name)
    fix = REINSTALL.get(MODULES.get(wanted.name), f"pip install '{wanted.name}{wanted.specifier}' -c constraints.txt")
    if found is None:
        yield Finding("wrong", f"{wanted.name} is not installed", fix)
    elif not wanted.specifier.contains(found, prereleases=True):
        yield Finding("wrong", f"{wanted.name} {found}: {wanted.specifier} is needed", fix)


def imports() -> Iterator[Finding]:
    "Check that each installed dependency can be imported; torchvision fails beside a torch that it was not built for."
    try:
        names = [each.name for each in requirements()]
    except (ImportError, metadata.PackageNotFoundError):
        return  # `versions` reports it
    modules = dict.fromkeys(MODULES.get(name, name.replace("-", "_")) for name in names if installed(name))
    found = [finding for module in modules for finding in importable(module)]
    yield from found or [Finding("ok", f"{', '.join(module.partition('.')[0] for module in modules)} can be imported")]


def importable(module: str) -> Iterator[Finding]:
    "Check that a module can be imported; no finding if it can."
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library raises anything
        reason, fix = named_reason(error), REINSTALL.get(module, f"pip install --force-reinstall {module}")
        if "torchvision::" in reason:
            reason, fix = f"{reason}: torchvision was built for another torch", REINSTALL["torchvision"]
        elif module in MODULES.values() and module not in REINSTALL:
            fix = INSTALL
        yield Finding("wrong", f"import {module} fails: {reason}", fix)


def opencv() -> Iterator[Finding]:
    "Check that opencv-python and albumentations' headless one are one version: both write the same files."
    names = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
    found = {name: installed(name) for name in names if installed(name)}
    text = " and ".join(f"{name} {version}" for name, version in found.items())
    if len(set(found.values())) > 1:
        newest = max(found.values(), key=lambda version: [int(part) for part in version.split(".") if part.isdigit()])
        fix = "pip install --force-reinstall --no-deps " + " ".join(f"{name}=={newest}" for name in found)
        yield Finding("wrong", f"{text} share the folder cv2 and must be one version", fix)
    elif found:
        yield Finding("ok", text)


def onnxruntimes() -> Iterator[Finding]:
    "Check that not both onnxruntime and onnxruntime-gpu are installed: they write the same files, the last one wins."
    found = {name: installed(name) for name in ("onnxruntime", "onnxruntime-gpu") if installed(name)}
    text = " and ".join(f"{name} {version}" for name, version in found.items())
    if len(found) > 1:
        yield Finding("wrong", f"{text} share the folder onnxruntime: keep one", REINSTALL["onnxruntime"])
    elif found:
        yield Finding("ok", text)


def installed(name: str) -> str | None:
    "Return the version of a distribution, or None if it is not installed."
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def own_version() -> str:
    "Return our own version; `not installed` in a checkout on PYTHONPATH."
    return installed(DISTRIBUTION) or "not installed"
