"""Run a command that a test writes, in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = """
from pathlib import Path
from typing import Annotated
from toolkit.command import run_script
"""
END = """
if __name__ == "__main__":
    run_script(main)
"""


def start(
    script: str, folder: Path, *arguments: str, python=(), run=subprocess.run, **options
) -> subprocess.CompletedProcess:
    "Run the text `script` as a file, with `arguments`. run: forked.run if torch need not be imported anew."
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return run(
        [sys.executable, *python, str(file), *arguments], capture_output=True, text=True, env=environment, **options
    )


def body(statements: str) -> str:
    "Return the text of a command without options that runs `statements`."
    return HEAD + "\ndef main():\n" + textwrap.indent(textwrap.dedent(statements), "    ") + "\n" + END
