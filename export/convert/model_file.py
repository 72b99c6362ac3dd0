"""Write a model file under a lock, and never over a file that no export wrote."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from export.predictions.journal import clear_half_written, held
from toolkit.files import replacing, target_of


def checked_out(out: Path) -> Path:
    "The file to write. Raises OSError if it exists and is no .onnx file: a run's weights, a photo or a device."
    if (target := target_of(out)).exists() and target.suffix.lower() != ".onnx":
        raise FileExistsError(f"--out {out} is a file that no export wrote, and it would be lost: give FILE.onnx")
    return out


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    "Lock `out`, remove what a killed export to it left half written, and yield the file of `replacing`."
    with held(out):
        clear_half_written([out])
        with replacing(out) as beside:
            yield beside
