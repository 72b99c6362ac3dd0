"""The options of `export.serve`, each stated once: its type, default and help."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from export.runtime.providers import DEVICES
from export.session import TTA
from toolkit.data.on_disk.photo_files import MAX_PIXELS

TOKEN = "RAPID_FINETUNE_TOKEN"
"The environment variable that may hold the token."

SHORTEST = 16
"The fewest characters of a token."


@dataclass(frozen=True)
class ServeOptions:
    "The address of the service and what it takes. The comment after an option is its help."

    host: str = "127.0.0.1"  # address to listen on; one that other machines reach needs a token
    port: int = 8000  # port to listen on; 0 takes a free one, which is printed
    token_file: Path | None = None  # file with the token that clients must send (default: RAPID_FINETUNE_TOKEN, if set)
    name: str | None = None  # name of the model in answers and paths (default: its file's, without suffix)
    device: Annotated[str, {"choices": DEVICES}] = "auto"  # where the model runs; auto prints its choice
    bs: int | Literal["auto"] = "auto"  # most photos in a batch; auto chooses by model and free memory
    tta: Annotated[str, {"choices": TTA}] = "none"  # flip: mean of a photo and its mirror image, at twice the time
    threads: int = 1  # threads that compute a batch on a CPU; more answer a lone photo sooner, fewer photos a second
    queue: int = 256  # most photos that wait or are being answered; more are refused with 503
    max_photos: int = 64  # most photos in a request
    max_mb: int = 32  # most megabytes in a request
    max_pixels: int = 50_000_000  # most pixels in a photo

    def __post_init__(self) -> None:
        "Raises ValueError for a number out of its range."
        ranges = {"port": (0, 65_535), "threads": (1, 1024), "queue": (1, 100_000)}
        ranges |= {"max_photos": (1, self.queue), "max_mb": (1, 1000), "max_pixels": (1, MAX_PIXELS)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"--{name} {getattr(self, name)}: give {least:,} to {most:,}")


def checked_name(name: str | None, models: Sequence[Path]) -> str:
    "The model's name. Raises ValueError if a path of the service can't have it."
    name = name or (models[0].stem if len(models) == 1 else "ensemble")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"the model's name {name!r}: give a --name of letters, digits, dots, - and _")
    return name


def checked_token(file: Path | None) -> str | None:
    """The token of the file, else that of the environment; None if there is neither.

    Raises OSError if the file can't be read, ValueError for a token that a header can't hold or that is easy to guess.
    """
    source = str(file) if file else TOKEN
    token = _first_bytes(file).strip() if file else os.environ.get(TOKEN)
    if token is not None and not re.fullmatch(rf"[!-~]{{{SHORTEST},1000}}", token):
        raise ValueError(
            f"{source}: a token has {SHORTEST} to 1000 ASCII characters and no spaces; "
            "make one by `openssl rand -hex 32`"
        )
    return token


def _first_bytes(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(2000).decode("latin-1")
