"""The Hugging Face hub and its local cache: which files a repository has, and their download.

huggingface_hub is imported late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 10.0
_NO_NETWORK = (
    *("ConnectError", "ConnectTimeout", "ConnectionError", "ReadTimeout"),
    *("OfflineModeIsEnabled", "ProxyError", "SSLError", "Timeout"),
)
"""Names of the errors of the hub's clients that say nothing of the repository."""


class HubError(OSError):
    """Files can't be had from the hub; the message is a clause for the caller's sentence."""

    needs_licence = False
    """Whether the user must accept the repository's licence first."""


def cached_file(repo: str, name: str) -> Path | None:
    """Path of a file in the hub's cache, or None if it is not there; doesn't use the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, name)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def list_files(repo: str) -> dict[str, int]:
    """The files of a repository with their sizes in bytes; 0 where the hub names none.

    The request has a time limit of ten seconds.

    Raises:
        HubError: If the hub can't be reached, or refuses the repository to this user.
    """
    from huggingface_hub import HfApi

    try:
        info: Any = HfApi().model_info(repo, timeout=_TIMEOUT_SECONDS, files_metadata=True)
        if info.gated:
            # Everyone may list the files, but only those who accepted the licence may download
            # them.
            HfApi().auth_check(repo)
    # The types of the client's errors differ between its releases; each means that the weights
    # can't be had.
    except Exception as error:
        kind = type(error).__name__
        hub = f"does not give it ({kind})"
        if kind in _NO_NETWORK:
            hub = f"can't be reached ({kind}; check the network and its proxy)"
        failure = HubError(f"it is no folder, it is not in the hub's cache, and the hub {hub}")
        failure.needs_licence = kind == "GatedRepoError"
        raise failure from None
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def download(repo: str, files: Sequence[str], *, folder: Path | None = None) -> Path:
    """Download files of a repository to a folder; returns it.

    Call `list_files` first: without a network this function would retry for a long time.

    Args:
        repo: The repository.
        files: Names of its files.
        folder: Where to write them; None means the hub's cache.

    Raises:
        HubError: If the download fails.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(files), local_dir=folder))
    except OSError as error:
        raise HubError(f"its download failed ({type(error).__name__})") from None
