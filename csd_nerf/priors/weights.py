"""Where a prior's weights are, and how a run learns at its start that they can't be had.

A name is one of `HUB_MODELS`, one of `BUNDLED_MODELS`, a Hugging Face hub id, or a local folder
in the layout of diffusers' StableDiffusionInstructPix2PixPipeline. Everything comes from that one
repository or folder; the safety checker is neither needed nor fetched.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import NoReturn

HUB_MODELS = {"instruct-pix2pix": "timbrooks/instruct-pix2pix"}
"""Short names of models on the hub."""

BUNDLED_MODELS = {"tiny": "assets/tiny"}
"""Models that are installed with the package, by their folder inside it."""

_CONFIGS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)
_WEIGHTS = {
    "unet": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "vae": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "text_encoder": {"safetensors": "model", "bin": "pytorch_model"},
}
_TOKENIZER_FORMS = (("tokenizer/tokenizer.json",), ("tokenizer/vocab.json", "tokenizer/merges.txt"))
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_TIMEOUT_SECONDS = 10.0


class WeightsNotFoundError(OSError):
    """A prior's weights can't be had; the message is one line that says how to get them."""


def check(name_or_path: str | Path, *, variant: str | None = None) -> None:
    """Make sure that `fetch` can succeed, without downloading or loading weights.

    A folder, a bundled model and a model in the hub's cache are searched for the files of each
    component; for anything else the hub is asked once for its list, with a short time limit.

    Args:
        name_or_path: A name, hub id or folder, as `csd_nerf.priors.load` takes it.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
    """
    repo = _hub_id(name_or_path)
    if repo is None:
        _require_complete(_local_folder(name_or_path), name_or_path, variant)
    elif _cached_folder(repo, variant) is None:
        _ask_hub(repo, variant)


def fetch(name_or_path: str | Path, *, variant: str | None = None) -> Path:
    """Return the folder that holds the weights, downloading them to the hub's cache if needed.

    Args:
        name_or_path: A name, hub id or folder, as `csd_nerf.priors.load` takes it.
        variant: Which weight files: `fp16` stands for `*.fp16.safetensors`.

    Raises:
        WeightsNotFoundError: If the weights are not there and can't be fetched.
    """
    repo = _hub_id(name_or_path)
    if repo is None:
        folder = _local_folder(name_or_path)
        _require_complete(folder, name_or_path, variant)
        return folder
    return _cached_folder(repo, variant) or _download(repo, variant)


def missing_files(files: Collection[str], *, variant: str | None = None) -> list[str]:
    """Name what is lacking of the components that an editing prior needs.

    Args:
        files: What a folder or repository has, as paths relative to it.
        variant: Which weight files are wanted; None means those without a variant's name.

    Returns:
        Relative paths; empty if nothing is lacking.
    """
    missing = [path for path in _CONFIGS if path not in files]
    for component, stems in _WEIGHTS.items():
        paths = [f"{component}/{name}" for name in _weight_names(stems, variant)]
        if not any(path in files for path in paths):
            missing.append(paths[0])
    if not any(all(path in files for path in form) for form in _TOKENIZER_FORMS):
        missing.append(_TOKENIZER_FORMS[0][0])
    return missing


def _listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}


def _weight_names(stems: dict[str, str], variant: str | None) -> list[str]:
    """File names under which diffusers and transformers save weights, whole or in shards."""
    suffix = f".{variant}" if variant else ""
    whole = [f"{stem}{suffix}.{kind}" for kind, stem in stems.items()]
    sharded = [f"{stem}.{kind}.index{suffix}.json" for kind, stem in stems.items()]
    return whole + sharded


def _hub_id(name_or_path: str | Path) -> str | None:
    """Return the hub repository that a name stands for; None for bundled and local folders."""
    name = str(name_or_path)
    if name in HUB_MODELS:
        return HUB_MODELS[name]
    is_folder = isinstance(name_or_path, Path) or Path(name).is_dir()
    return name if not is_folder and _HUB_ID.fullmatch(name) else None


def _local_folder(name_or_path: str | Path) -> Path:
    if str(name_or_path) in BUNDLED_MODELS:
        return Path(str(resources.files("csd_nerf"))) / BUNDLED_MODELS[str(name_or_path)]
    return Path(name_or_path).expanduser()


def _require_complete(folder: Path, name_or_path: str | Path, variant: str | None) -> None:
    if not folder.is_dir():
        what = f"the folder {folder} does not exist"
    elif lack := _lack(_listing(folder), variant):
        what = f"the folder {folder} lacks {lack}"
    else:
        return
    if str(name_or_path) in BUNDLED_MODELS:
        raise WeightsNotFoundError(
            f"The bundled prior {str(name_or_path)!r} is not installed: {what}; "
            "install csd_nerf again, or name another prior with --pipeline.prior (--prior)."
        )
    _raise_not_found(str(name_or_path), what, HUB_MODELS["instruct-pix2pix"])


def _lack(files: Collection[str], variant: str | None) -> str:
    """Say in words which files are missing, and which variants there are; empty if none is."""
    missing = missing_files(files, variant=variant)
    unet_files = [path.split(".") for path in files if path.startswith("unet/")]
    variants = {parts[1] for parts in unet_files if parts[2:] == ["safetensors"]} - {variant}
    hint = f" (it has the variant {', '.join(sorted(variants))})" if variants else ""
    return ", ".join(missing) + hint if missing else ""


def _cached_folder(repo: str, variant: str | None) -> Path | None:
    """Return the snapshot in the hub's cache if it is complete; never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "unet/config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent.parent
    return None if _lack(_listing(folder), variant) else folder


def _ask_hub(repo: str, variant: str | None) -> None:
    """Ask the hub for the repository's list of files, once and briefly."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, timeout=_HUB_TIMEOUT_SECONDS)
    # The hub client's transport, and so its errors, differ between releases; whichever it is,
    # the weights can't be had.
    except Exception as error:
        reason = f"the hub does not give it ({type(error).__name__})"
        _raise_not_found(repo, f"it is no folder, it is not in the hub's cache, and {reason}", repo)
    if lack := _lack([file.rfilename for file in info.siblings or []], variant):
        _raise_not_found(repo, f"the hub's repository lacks {lack}", HUB_MODELS["instruct-pix2pix"])


def _download(repo: str, variant: str | None) -> Path:
    # Asking first ends an offline run at once: the download itself would retry for long.
    _ask_hub(repo, variant)
    from diffusers import StableDiffusionInstructPix2PixPipeline

    try:
        folder = StableDiffusionInstructPix2PixPipeline.download(
            repo, variant=variant, safety_checker=None, feature_extractor=None
        )
    except OSError as error:
        _raise_not_found(repo, f"its download failed ({type(error).__name__})", repo)
    return Path(folder)


def _raise_not_found(name: str, what: str, repo: str) -> NoReturn:
    raise WeightsNotFoundError(
        f"No weights for the prior {name!r}: {what}; fetch them with "
        f'`hf download {repo} --include "*/*"`, or name a folder that has all of them '
        "with --pipeline.prior DIR (--prior DIR)."
    ) from None
