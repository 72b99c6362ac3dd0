"""Data sets of the Hugging Face hub, by huggingface_hub. Files are fetched; code in a data set is never run.

hf://USER/NAME    hf://USER/NAME@REVISION    hf://USER/NAME@refs/convert/parquet/default
"""

import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from toolkit import ranks
from toolkit.errors import reason_of
from toolkit.options import data_text

NAME = re.compile(
    r"hf://(?:datasets/)?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/\w+|[^/@]+))?(?:/(?P<folder>.+))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}")


class Address(NamedTuple):
    "A data set on the hub."

    repository: str  # USER/NAME
    revision: str | None  # a branch, tag or commit; None for main
    folder: str | None  # of one data set of several


def address(data: str | Path) -> Address:
    "The parts of hf://USER/NAME. Raises ValueError if it is not of that form."
    found = NAME.fullmatch(data_text(data))
    if not found or ".." in (found["folder"] or "").split("/"):
        raise ValueError(
            f"--data {data_text(data)}: a data set of the hub is hf://USER/NAME, or hf://USER/NAME@REVISION"
        )
    return Address(**found.groupdict())


@ranks.first_here()
def snapshot(data: str | Path, download: bool = True) -> tuple[Path, str]:
    """Return the folder of a data set's files in the hub's cache, and its address with the commit.

    A commit that is in the cache needs no network. Without a network, or with `download` off, the last version in the
    cache is used, and a line on stderr says so.
    Raises ConnectionError if it is neither there nor in reach, ValueError if the hub has no such data set.
    """
    wanted = address(data)
    given = data_text(data)
    folder = _cached(wanted) if not download or COMMIT.fullmatch(wanted.revision or "") else None
    if folder is None and download:
        folder = _fetched(wanted, given)
    if folder is None:
        raise ConnectionError(
            f"{given} is not in this machine's hub cache: `python -m toolkit.check {given}` fetches it"
        )
    inside = f"/{wanted.folder}" if wanted.folder else ""
    if not (folder / (wanted.folder or "")).is_dir():
        raise ValueError(f"--data {given}: the data set has no folder {wanted.folder}")
    return folder / (wanted.folder or ""), f"hf://{wanted.repository}@{folder.name}{inside}"


def hub_fault() -> str | None:
    "The reason why the hub is out of reach, or None; it is found at once, where huggingface_hub retries for a minute."
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        return None  # an error status is an answer too
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None


def _fetched(wanted: Address, given: str) -> Path:
    "The folder of the newest files: from the hub, or without a way to it from the cache."
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    if fault := hub_fault():
        if (folder := _cached(wanted)) is None:
            raise ConnectionError(
                f"no way to {constants.ENDPOINT} for the data set {given} ({fault}): give photos on this machine, or "
                f"bring it into this machine's hub cache ({constants.HF_HUB_CACHE})"
            )
        print(f"note: {given} is taken from the hub cache, commit {folder.name[:12]}; {fault}", file=sys.stderr)
        return folder
    try:
        return _snapshot(wanted, local_files_only=False)
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"--data {given}: the hub has no such data set, or not for you: see its page, and `hf auth login`"
        ) from error
    except Exception as error:  # of the hub, of names and of several network libraries
        if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError | LocalEntryNotFoundError):
            raise  # a full disk
        raise ValueError(f"--data {given}: {reason_of(error)}") from error


def _cached(wanted: Address) -> Path | None:
    "The folder of the files in the hub's cache; None if not all are there."
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _snapshot(wanted, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None


class Silent(tqdm):
    "A bar that is not shown, where stderr is no terminal."

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options | {"disable": True})


def _snapshot(wanted: Address, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = f"{wanted.folder}/*" if wanted.folder else None
    return Path(
        snapshot_download(
            wanted.repository,
            repo_type="dataset",
            revision=wanted.revision,
            allow_patterns=patterns,
            local_files_only=local_files_only,
            tqdm_class=None if sys.stderr and sys.stderr.isatty() else Silent,
        )
    )
