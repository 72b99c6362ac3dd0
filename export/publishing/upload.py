"""Upload a folder to the Hugging Face Hub, in one commit, by huggingface_hub."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from toolkit.errors import reason_of

Kind = Literal["model", "space"]


def check_name(text: str) -> None:
    "Raises ValueError unless the text is the name of a repository, USER/NAME."
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]{0,95}", text):
        raise ValueError(f"--push {text!r:.60}: a repository of the hub is USER/NAME, letters, digits, . - and _")


def listed(folder: Path, repository: str, kind: Kind) -> str:
    "The files of a folder with their sizes, as text, below the address that they would go to."
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    lines = [f"  {file.stat().st_size:>13,} bytes  {file.relative_to(folder).as_posix()}" for file in files]
    return "\n".join([f"{address(repository, kind)} would get", *lines])


def address(repository: str, kind: Kind) -> str:
    "The address of a repository."
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'spaces/' if kind == 'space' else ''}{repository}"


def upload(folder: Path, repository: str, kind: Kind, mark: str, ours: Iterable[str], private: bool) -> str:
    """Upload a folder, and delete what an earlier upload left there; return the repository's address.

    The repository is made if it is missing. ours: the names that may be in it, and README.md must hold the line `mark`.
    Raises FileExistsError if it has files that we did not upload, PermissionError if the hub refuses the token,
    ConnectionError if it can't be reached or refuses otherwise.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _errors(repository):
        if api.repo_exists(repository, repo_type=kind):
            _check_ours(api, repository, kind, mark, set(ours))
        else:
            sdk = {"space_sdk": "static"} if kind == "space" else {}
            api.create_repo(repository, repo_type=kind, private=private, **sdk)
        api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            commit_message="Upload by rapid-finetune",
            delete_patterns="*",
        )
    return address(repository, kind)


def _check_ours(api, repository: str, kind: Kind, mark: str, ours: set[str]) -> None:
    names = [name for name in api.list_repo_files(repository, repo_type=kind) if not name.startswith(".")]
    readme = ""
    if "README.md" in names:
        readme = Path(api.hf_hub_download(repository, "README.md", repo_type=kind)).read_text(errors="replace")
    known = ours if mark in readme else set()
    if others := [name for name in names if name.split("/")[0] not in known]:
        raise FileExistsError(f"{repository} holds {others[0]}, which export.hub did not upload: give another name")


@contextmanager
def _errors(repository: str) -> Iterator[None]:
    "Turn huggingface_hub's errors into ours."
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    login = "`hf auth login`, or HF_TOKEN, with a token that may write there"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError(f"the hub wants a token for {repository}: {login}") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise PermissionError(f"the hub refuses {repository} ({reason_of(error)}): {login}") from error
        raise ConnectionError(f"the hub did not take {repository}: {reason_of(error)}") from error
    except Exception as error:  # of several network libraries
        if isinstance(error, OSError):
            raise
        raise ConnectionError(f"no way to the hub for {repository}: {reason_of(error)}") from error
