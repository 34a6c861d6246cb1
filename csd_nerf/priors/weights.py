"""Where a prior's weights are, and how a run learns at its start that they can't be had.

A name is one of the short names below, a Hugging Face hub id, or a local folder in the layout of
the pipelines that `csd_nerf.priors.components` names. Everything comes from that one repository
or folder; the safety checker is neither needed nor fetched.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import NoReturn

from csd_nerf.priors.components import Kind, lack, listing, missing_files, needed_files

__all__ = [
    "BUNDLED_MODELS",
    "BUNDLED_TEXT_MODELS",
    "HUB_MODELS",
    "HUB_TEXT_MODELS",
    "Kind",
    "WeightsNotFoundError",
    "check",
    "fetch",
    "missing_files",
]

HUB_MODELS = {"instruct-pix2pix": "timbrooks/instruct-pix2pix"}
"""Short names of editing models on the hub."""

BUNDLED_MODELS = {"tiny": "assets/tiny"}
"""Editing models that are installed with the package, by their folder inside it."""

HUB_TEXT_MODELS = {
    "deepfloyd-if": "DeepFloyd/IF-I-XL-v1.0",
    "stable-diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Short names of text-to-image models on the hub."""

BUNDLED_TEXT_MODELS = {"tiny-text": "assets/tiny_text"}
"""Text-to-image models that are installed with the package, by their folder inside it."""

_HUB: dict[Kind, dict[str, str]] = {"edit": HUB_MODELS, "text": HUB_TEXT_MODELS}
_BUNDLED: dict[Kind, dict[str, str]] = {"edit": BUNDLED_MODELS, "text": BUNDLED_TEXT_MODELS}
_WORDS: dict[Kind, str] = {"edit": "an editing prior", "text": "a text-to-image prior"}
_SUGGESTED: dict[Kind, str] = {
    "edit": HUB_MODELS["instruct-pix2pix"],
    "text": HUB_TEXT_MODELS["stable-diffusion"],
}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_TIMEOUT_SECONDS = 10.0


class WeightsNotFoundError(OSError):
    """A prior's weights can't be had; the message is one line that says how to get them."""


def check(name_or_path: str | Path, *, variant: str | None = None, kind: Kind = "edit") -> None:
    """Make sure that `fetch` can succeed, without downloading or loading weights.

    A folder, a bundled model and a model in the hub's cache are searched for the files of each
    component; for anything else the hub is asked once for its list, with a short time limit, and
    whether it gives a model with a licence to this user.

    Args:
        name_or_path: A name, hub id or folder, as `csd_nerf.priors.load` (for `edit`) and
            `load_text_to_image` (for `text`) take it.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.
        kind: Of the prior.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
    """
    repo = _hub_id(name_or_path, kind)
    if repo is None:
        _require_complete(_local_folder(name_or_path, kind), name_or_path, variant, kind)
    elif _cached_folder(repo, variant, kind) is None:
        _ask_hub(repo, variant, kind)


def fetch(name_or_path: str | Path, *, variant: str | None = None, kind: Kind = "edit") -> Path:
    """Return the folder that holds the weights, downloading them to the hub's cache if needed.

    Args:
        name_or_path: A name, hub id or folder, as for `check`.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.
        kind: Of the prior.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
    """
    repo = _hub_id(name_or_path, kind)
    if repo is None:
        folder = _local_folder(name_or_path, kind)
        _require_complete(folder, name_or_path, variant, kind)
        return folder
    return _cached_folder(repo, variant, kind) or _download(repo, variant, kind)


def _hub_id(name_or_path: str | Path, kind: Kind) -> str | None:
    """Return the hub repository that a name stands for; None for bundled and local folders."""
    name = str(name_or_path)
    if name in _HUB[kind]:
        return _HUB[kind][name]
    is_folder = isinstance(name_or_path, Path) or Path(name).is_dir()
    if not is_folder:
        _require_kind(name, kind)
    return name if not is_folder and _HUB_ID.fullmatch(name) else None


def _require_kind(name: str, kind: Kind) -> None:
    other: Kind = "text" if kind == "edit" else "edit"
    if name in _HUB[other] or name in _BUNDLED[other]:
        known = ", ".join([*_HUB[kind], *_BUNDLED[kind]])
        raise WeightsNotFoundError(
            f"This needs {_WORDS[kind]}, {name!r} is {_WORDS[other]}: name one of {known}, "
            "a hub id or a folder with --pipeline.prior (--prior)."
        )


def _local_folder(name_or_path: str | Path, kind: Kind) -> Path:
    if str(name_or_path) in _BUNDLED[kind]:
        return Path(str(resources.files("csd_nerf"))) / _BUNDLED[kind][str(name_or_path)]
    return Path(name_or_path).expanduser()


def _require_complete(
    folder: Path, name_or_path: str | Path, variant: str | None, kind: Kind
) -> None:
    if not folder.is_dir():
        what = f"the folder {folder} does not exist"
    elif missing := lack(listing(folder), variant=variant, kind=kind):
        what = f"the folder {folder} lacks {missing}"
    else:
        return
    if str(name_or_path) in _BUNDLED[kind]:
        raise WeightsNotFoundError(
            f"The bundled prior {str(name_or_path)!r} is not installed: {what}; "
            "install csd_nerf again, or name another prior with --pipeline.prior (--prior)."
        )
    _raise_not_found(str(name_or_path), what, _SUGGESTED[kind], kind)


def _cached_folder(repo: str, variant: str | None, kind: Kind) -> Path | None:
    """Return the snapshot in the hub's cache if it is complete; never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "unet/config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent.parent
    return None if lack(listing(folder), variant=variant, kind=kind) else folder


def _ask_hub(repo: str, variant: str | None, kind: Kind) -> list[str]:
    """Ask the hub for the repository's list of files, once and briefly."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, timeout=_HUB_TIMEOUT_SECONDS)
        if info.gated:
            # The list is given to everyone, the files only to those who accepted the licence.
            HfApi().auth_check(repo)
    # The hub client's transport, and so its errors, differ between releases; whichever it is,
    # the weights can't be had.
    except Exception as error:
        reason = f"the hub does not give it ({type(error).__name__})"
        what = f"it is no folder, it is not in the hub's cache, and {reason}"
        _raise_not_found(repo, what, repo, kind, error)
    files = [file.rfilename for file in info.siblings or []]
    if missing := lack(files, variant=variant, kind=kind):
        _raise_not_found(repo, f"the hub's repository lacks {missing}", _SUGGESTED[kind], kind)
    return files


def _download(repo: str, variant: str | None, kind: Kind) -> Path:
    # Asking first ends an offline run at once: the download itself would retry for long.
    files = _ask_hub(repo, variant, kind)
    try:
        if kind == "edit":
            return _download_pipeline(repo, variant)
        from huggingface_hub import snapshot_download

        needed = needed_files(files, variant=variant, kind=kind)
        return Path(snapshot_download(repo, allow_patterns=needed))
    except OSError as error:
        _raise_not_found(repo, f"its download failed ({type(error).__name__})", repo, kind, error)


def _download_pipeline(repo: str, variant: str | None) -> Path:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    folder = StableDiffusionInstructPix2PixPipeline.download(
        repo, variant=variant, safety_checker=None, feature_extractor=None
    )
    return Path(folder)


def _raise_not_found(
    name: str, what: str, repo: str, kind: Kind, error: Exception | None = None
) -> NoReturn:
    # Repositories of text-to-image models hold every weight twice, as old files and as new.
    fetch_it = f'hf download {repo} --include "*/*"' + ' --exclude "*.bin"' * (kind == "text")
    licence = ""
    if type(error).__name__ == "GatedRepoError":
        licence = f"accept its licence at https://huggingface.co/{repo}, run `hf auth login`, "
    raise WeightsNotFoundError(
        f"No weights for the prior {name!r}: {what}; {licence}fetch them with "
        f"`{fetch_it}`, or name a folder that has all of them "
        "with --pipeline.prior DIR (--prior DIR)."
    ) from None
