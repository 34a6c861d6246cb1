"""The Hugging Face hub and its local cache: which files a repository has, and their download.

huggingface_hub is imported late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 10.0


class HubError(OSError):
    """The hub does not give a repository; the message says why, in words that go into a line."""

    needs_licence = False
    """Whether the repository's licence has to be accepted first."""


def cached_file(repo: str, name: str) -> Path | None:
    """A file in the hub's cache; None if it is not there. Never touches the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, name)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def list_files(repo: str) -> list[str]:
    """The files of a repository, by one request with a short time limit.

    Raises:
        HubError: If the hub can't be reached, or does not give the repository to this user.
    """
    from huggingface_hub import HfApi

    try:
        info: Any = HfApi().model_info(repo, timeout=_TIMEOUT_SECONDS)
        if info.gated:
            # The list is given to everyone, the files only to those who accepted the licence.
            HfApi().auth_check(repo)
    # The hub client's transport, and so its errors, differ between releases; whichever it is,
    # the weights can't be had.
    except Exception as error:
        kind = type(error).__name__
        failure = HubError(
            f"it is no folder, it is not in the hub's cache, and the hub does not give it ({kind})"
        )
        failure.needs_licence = kind == "GatedRepoError"
        raise failure from None
    return [file.rfilename for file in info.siblings or []]


def download(repo: str, files: Sequence[str]) -> Path:
    """Download some files of a repository to the hub's cache; returns the repository's folder.

    Call `list_files` first: offline the download itself would retry for long.

    Raises:
        HubError: If it fails.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(files)))
    except OSError as error:
        raise HubError(f"its download failed ({type(error).__name__})") from None
