"""A run whose terminal is closed: what it would have written there is dropped, and it stops at its next step."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TERMINAL = """
import os, pty, signal, sys, types
from toolkit.training.signals import stopping_at_a_step

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
terminal, end = pty.openpty()
os.dup2(end, 1), os.dup2(end, 2), os.close(end)
checkpoint = types.SimpleNamespace(stop=False)
with stopping_at_a_step(checkpoint):
    if sys.argv[1] == "closed":
        os.close(terminal)
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    print("an epoch's line", flush=True)
    print("a warning", file=sys.stderr, flush=True)
seen = b""
while sys.argv[1] == "open" and b"a warning" not in seen:  # a terminal gives what it has by then
    seen += os.read(terminal, 1000)
open(sys.argv[3], "w").write(f"{checkpoint.stop} {' '.join(seen.decode().split())}")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
@pytest.mark.parametrize("terminal", ["closed", "open"])
def test_the_step_goes_on_without_its_terminal(terminal, name, tmp_path):
    words = [sys.executable, "-c", TERMINAL, terminal, name, tmp_path / "said"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    seen = "stopping after this optimiser step; once more to stop at once an epoch's line a warning"
    assert (tmp_path / "said").read_text() == f"True {seen if terminal == 'open' else ''}"
