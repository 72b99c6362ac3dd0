"""The report page of a run, made from the files in its folder and nothing else.

    python -m toolkit.report RUN

Writes report.html (one self-contained file, no network), its twins for slides curves.png and confusion.png, and
for programs per_class.csv and confusion.csv. A run that is still training, or whose photos have moved, gets a page of
what there is.
"""

from pathlib import Path

from toolkit.command import run_script
from toolkit.run import load


def main(
    run: Path,  # the run folder
):
    "Make the report page of a run again."
    from toolkit.pages.run_page import write_report  # Matplotlib: --help and wrong options need none of it

    print(write_report(load(run)))


if __name__ == "__main__":
    run_script(main)
