"""Upload folders to the Hugging Face Hub, each in one commit, by huggingface_hub."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolkit.errors import reason_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FIRST_COMMIT = "initial commit"
"The title of the commit that the hub makes with a repository; for a Space it holds a README.md and an example page."


@dataclass(frozen=True)
class Upload:
    """A folder and where it goes. ours: the names that may be there before, because an earlier upload left them;
    README.md must then hold the line `mark`.
    """

    folder: Path
    repository: str  # USER/NAME
    kind: Literal["model", "space"]
    mark: str
    ours: Sequence[str]
    private: bool = False  # of a repository that is made

    @property
    def address(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'spaces/' if self.kind == 'space' else ''}{self.repository}"


def check_name(text: str) -> None:
    "Raises ValueError unless the text is the name of a repository, USER/NAME."
    part = r"[A-Za-z0-9](?:[A-Za-z0-9_]|[.-](?![.-]))*"
    if not re.fullmatch(rf"{part}/{part}", text) or len(text) > 96 or text.endswith((".", "-", ".git")):
        raise ValueError(f"--push {text!r:.60}: a repository of the hub is USER/NAME, letters, digits, . - and _")


def listed(upload: Upload) -> str:
    "The files of a folder with their sizes, as text, below the address that they would go to."
    files = [file for file in sorted(upload.folder.rglob("*")) if file.is_file()]
    lines = [f"  {file.stat().st_size:>13,} bytes  {file.relative_to(upload.folder).as_posix()}" for file in files]
    return "\n".join([f"{upload.address} would get", *lines])


def send(uploads: Sequence[Upload]) -> None:
    """Upload each folder, and delete what an earlier upload left there. Repositories that are missing are made.

    All are looked at before the first is changed. Raises FileExistsError for files that we did not upload, ValueError
    if `private` is asked for and the repository is public, PermissionError if the hub refuses the token,
    ConnectionError if it can't be reached or refuses otherwise.
    """
    from huggingface_hub import HfApi

    api, missing = HfApi(), []
    for upload in uploads:
        with _errors(upload.repository):
            if api.repo_exists(upload.repository, repo_type=upload.kind):
                _check(api, upload)
            else:
                missing.append(upload)
    for upload in uploads:
        with _errors(upload.repository):
            if upload in missing:
                sdk = {"space_sdk": "static"} if upload.kind == "space" else {}
                private = True if upload.private else None  # an organisation may have its own default
                api.create_repo(upload.repository, repo_type=upload.kind, private=private, **sdk)
            api.upload_folder(
                repo_id=upload.repository,
                repo_type=upload.kind,
                folder_path=upload.folder,
                commit_message="Upload by rapid-finetune",
                delete_patterns=[pattern for name in upload.ours for pattern in (name, f"{name}/*")],
            )


def _check(api: "HfApi", upload: Upload) -> None:
    "Raises FileExistsError or ValueError if an upload to this repository, which exists, would lose or show anything."
    where = {"repo_id": upload.repository, "repo_type": upload.kind}
    if upload.private and not api.repo_info(**where).private:
        raise ValueError(f"--private: {upload.address} is public; make it private on its page first")
    names = [name for name in api.list_repo_files(**where) if not name.startswith(".")]
    if [commit.title.lower() for commit in api.list_repo_commits(**where)] == [FIRST_COMMIT]:
        return  # as the hub made it: an upload was interrupted
    readme = ""
    if "README.md" in names:
        readme = Path(api.hf_hub_download(filename="README.md", **where)).read_text(errors="replace")
    known = set(upload.ours) if upload.mark in readme else set()
    if others := [name for name in names if name.split("/")[0] not in known]:
        raise FileExistsError(f"{upload.address} holds {others[0]}, which export.hub did not upload: give another name")


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
    except Exception as error:
        if "http" not in type(error).__module__:  # of the network library: httpx, or its successor
            raise
        raise ConnectionError(f"no way to the hub for {repository}: {reason_of(error)}") from error
