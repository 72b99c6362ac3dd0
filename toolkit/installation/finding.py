"""The findings of a check, and the commands that repair an installation. Standard library only."""

from typing import NamedTuple

INSTALL = "pip install -e . -c constraints.txt"
REINSTALL = {  # by the import that fails: the command that usually repairs it
    "cv2": "pip install --force-reinstall --no-deps opencv-python-headless -c constraints.txt",
    "onnxruntime": "pip uninstall -y onnxruntime onnxruntime-gpu && " + INSTALL,
    "torchvision": "pip install --force-reinstall torch torchvision -c constraints.txt",
}


class Finding(NamedTuple):
    "state: `ok`, `wrong` (a command will fail) or `note` (it works, with less). fix: the command to type, if any."

    state: str
    text: str
    fix: str = ""


def named_reason(error: Exception) -> str:
    "Return the type of an error and the first line of its text, at most 200 characters of it."
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
