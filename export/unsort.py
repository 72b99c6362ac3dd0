"""Undo `export.predict --sort DIR`: remove the links or copies that it made, by the list that it left.

python -m export.unsort DIR
"""

from pathlib import Path

from export.predictions.sort import undo
from toolkit.command import run_script
from toolkit.errors import first_few


def unsort(
    folder: Path,  # the folder of --sort
) -> list[str]:
    """Remove the links or copies of a --sort, and the folders that are empty then.

    Photos that were linked or copied stay where they are. Returns the places of files that are no longer what was put
    there; these stay too. Raises FileNotFoundError or ValueError if the folder is none of --sort.
    """
    removed, left = undo(Path(folder))
    print(f"removed {removed} links or copies from {folder}")
    if left:
        print(f"left, because they are not what was put there: {first_few(left)}")
    return left


def exit_status(left: list[str]) -> int:
    "2 if files were left, else 0."
    return 2 if left else 0


if __name__ == "__main__":
    run_script(unsort, status=exit_status)
