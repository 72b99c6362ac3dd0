"""How much of a disk photos may fill."""

import shutil
from pathlib import Path

from toolkit.files import size_text

KEPT_FREE = 0.05  # of a disk


def check_disk_space(folder: Path, needed: int, option: str) -> None:
    "Raise OSError, naming the option, if `needed` bytes in `folder` would leave less than KEPT_FREE of its disk free."
    disk = shutil.disk_usage(folder)
    kept = int(disk.total * KEPT_FREE)
    if needed > disk.free - kept:
        raise OSError(
            f"{option} {folder}: the photos take {size_text(needed)}, {size_text(disk.free)} are free there and "
            f"{size_text(kept)} (5 % of the disk) stay so; give a folder on a larger disk, or leave {option} out"
        )
