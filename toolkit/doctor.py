"""Find what is wrong with this installation, and the command that repairs it.

    python -m toolkit.doctor

Each check is a function in toolkit/installation that yields its findings and runs alone. The command is for broken
installations: it imports only the standard library before the check that is about a library, and an import that fails
is a finding like any other.
"""

import sys
from collections.abc import Callable, Iterator

from toolkit.command import run_script
from toolkit.installation import compute, packages, storage
from toolkit.installation.finding import INSTALL, Finding, named_reason

CHECKS = (
    packages.python,
    packages.versions,
    packages.imports,
    packages.opencv,
    packages.onnxruntimes,
    compute.torch_cuda,
    compute.onnxruntime_cuda,
    compute.processor,
    storage.disk,
    storage.hub,
)


def examine(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    "Return the findings of a check. An exception is a finding too."
    try:
        return list(check())
    except Exception as error:  # a broken library raises anything
        return [Finding("wrong", f"{check.__name__.replace('_', ' ')}: {named_reason(error)}", INSTALL)]


def show(findings: list[Finding]) -> None:
    "Print a line for each finding, and its fix below it."
    for state, text, fix in findings:
        print(f"{state:<6} {text}" + (f"\n       {fix}" if fix else ""), flush=True)


def exit_status(findings: list[Finding]) -> int:
    "Return 2 if anything is wrong, else 0."
    return 2 if any(finding.state == "wrong" for finding in findings) else 0


def doctor() -> list[Finding]:
    "Print the findings of every check as they come, and return them."
    found = []
    for check in CHECKS:
        found += (now := examine(check))
        show(now)
    wrong = sum(finding.state == "wrong" for finding in found)
    print(f"{wrong} wrong" if wrong else "all well")
    return found


if __name__ == "__main__" and (broken := examine(lambda: packages.importable("tyro"))):  # it reads the command line
    show(broken)
    sys.exit(exit_status([*broken, *doctor()]))


def main() -> list[Finding]:
    "Find what is wrong with this installation, and the command that repairs it."
    return doctor()


if __name__ == "__main__":
    run_script(main, status=exit_status)
