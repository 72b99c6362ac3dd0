"""A short run by its real command, to its last file: seconds of the imports, of the first optimiser step, of all of it.

    python tests/bench/short.py hw1 DATA --arch mobilenetv2_100 --weights FILE --bs 64 --epochs 5
    python tests/bench/short.py rapid DATA --arch mobilenetv2_100 --weights FILE

The clock starts before Python does. Bars, on an H100: the first step within 15 s of the imports' end, all within 60 s.
A new process does what `python -m recipes.hw1` does, with torch's hook on optimiser steps to tell the first one.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEP, ALL = 15, 60
FILES = ("report.html", "model.onnx", "predictions.csv")
CHILD = """
import importlib, sys, time
begun, name, *words = float(sys.argv[1]), *sys.argv[2:]
recipe = importlib.import_module(f"recipes.{name}")
from torch.optim.optimizer import register_optimizer_step_post_hook
from toolkit.command import run
print(f"TIMED imports {time.time() - begun:.1f}", flush=True)
def first_step(optimiser, *_):
    if type(optimiser).__name__ != "LBFGS":  # the probe's
        print(f"TIMED first {time.time() - begun:.1f}", flush=True)
        hook.remove()
hook = register_optimizer_step_post_hook(first_step)
status = run(recipe.main, words, recipe.exit_status)
print(f"TIMED all {time.time() - begun:.1f}", flush=True)
sys.exit(status)
"""


def main(recipe, data, *options):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        words = [sys.executable, "-c", CHILD, time.time(), recipe, "--data", data, "--out", out, *options]
        done = subprocess.run(list(map(str, words)), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        seconds = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("TIMED"))
        print("".join(line + "\n" for line in done.stdout.splitlines() if not line.startswith("TIMED")), end="")
        missing = [name for name in FILES if not (out / name).is_file()]
    if done.returncode or missing:
        sys.exit(f"{recipe}: exit status {done.returncode}, without {', '.join(missing) or 'none'} of its files")
    imports, first, whole = (float(seconds[name]) for name in ("imports", "first", "all"))
    print(f"{recipe}: imports {imports:.1f} s, first step {first - imports:.1f} s later (at most {FIRST_STEP})", end="")
    print(f", all files after {whole:.1f} s (at most {ALL})")


if __name__ == "__main__":
    if "--help" in sys.argv or len(sys.argv) < 3:
        sys.exit(print(__doc__))
    main(*sys.argv[1:])
