"""Make the report page of a run again, from the files in its folder.

    python -m toolkit.report RUN

Writes report.html (one self-contained file that loads nothing), curves.png and confusion.png for slides, and
per_class.csv and confusion.csv for programs. A run may still be training, and its photos may have moved: the page shows
what exists.
"""

from pathlib import Path

from toolkit.command import run_script
from toolkit.data.on_disk.folds import holds_folds
from toolkit.run import load


def main(
    run: Path,  # run folder, or the folder of several folds
):
    "Make the report page of a run again."
    from toolkit.pages.folds_page import write_folds_report  # Matplotlib: --help and wrong options need none of it
    from toolkit.pages.run_page import write_report

    print(write_folds_report(run) if holds_folds(run) else write_report(load(run)))


if __name__ == "__main__":
    run_script(main)
