"""The console script: `rapid-finetune hw1 ARGS` runs `python -m recipes.hw1 ARGS`.

It imports the chosen command's module only, and by its name: whatever runs as a module runs the same from here.
"""

import difflib
import importlib.metadata
import runpy
import sys

from toolkit.commandline.names import COMMANDS, CONSOLE
from toolkit.commandline.startup import while_starting


def main() -> int:
    "Run the command that sys.argv names; return 2 for an unknown one. A command ends the process by itself."
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"{CONSOLE} {importlib.metadata.version(CONSOLE)}")
        return 0
    if name not in COMMANDS:
        modules = {module.rpartition(".")[2]: each for each, (module, _) in COMMANDS.items()}
        nearest = [modules.get(name)] if name in modules else difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        print(f"error: unknown command {name}" + (f", the nearest is {nearest[0]}" if nearest else ""), file=sys.stderr)
        print(f"usage: {CONSOLE} COMMAND ...; --help lists the commands", file=sys.stderr)
        return 2
    while_starting()
    sys.argv = ["-m", *arguments]  # as Python has it while it looks for the module of `python -m`
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [f"usage: {CONSOLE} COMMAND ...", "", *lines, "", f"{CONSOLE} COMMAND --help lists its arguments."]
    )
