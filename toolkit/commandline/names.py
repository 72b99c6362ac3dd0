"""How a command was started: `python -m recipes.hw1`, `rapid-finetune hw1` or `python mine.py`."""

import sys
from pathlib import Path

CONSOLE = "rapid-finetune"
COMMANDS = {  # of the console script: the module that `python -m` runs, and a line of help
    "hw1": ("recipes.hw1", "fine-tune an ImageNet ResNet-152 with one of three losses"),
    "rapid": ("recipes.rapid", "fine-tune on your photos in the time that you have"),
    "digits": ("recipes.digits", "train on 1797 handwritten digits: try the installation"),
    "loss_study": ("recipes.loss_study", "compare losses, or any option, over several seeds"),
    "check": ("toolkit.check", "check a data set before training on it"),
    "doctor": ("toolkit.doctor", "check this installation"),
    "report": ("toolkit.report", "make the report page of a run again"),
    "export": ("export.to_onnx", "write a run as one verified model.onnx"),
    "average": ("export.average", "average model files in one model.onnx"),
    "verify": ("export.verify", "compare a model.onnx with the run it was exported from"),
    "predict": ("export.predict", "label photos with a model.onnx"),
    "unsort": ("export.unsort", "undo the links or copies of predict --sort"),
    "explain": ("export.explain", "show by heatmaps what a run looks at in photos"),
    "serve": ("export.serve", "answer over HTTP with a model.onnx"),
    "web": ("export.web", "write a page that tries a model.onnx in the browser"),
    "hub": ("export.hub", "write a run as a folder for timm and the Hugging Face Hub"),
}


def started_module() -> str | None:
    "Return the module that `python -m` or the console script is looking for; None once it runs, and in other programs."
    if sys.argv[:1] != ["-m"]:
        return None
    if command := _console_command():
        return COMMANDS[command][0]
    return sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else None


def typed_name() -> str:
    "Return what the user typed to start this process, without its arguments."
    if command := _console_command():
        return f"{CONSOLE} {command}"
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = started_module() or (spec.name.removesuffix(".__main__") if spec else None)
    return f"python -m {module}" if module else f"python {Path(sys.argv[0]).name}"


def _console_command() -> str | None:
    script, command = (*sys.orig_argv[1:3], "", "")[:2]
    return command if Path(script).stem == CONSOLE and command in COMMANDS else None
