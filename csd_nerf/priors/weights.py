"""Where a prior's weights are, and how a run learns at its start that they can't be had.

A name is one of `HUB_MODELS`, one of `BUNDLED_MODELS`, a Hugging Face hub id, or a local folder
in the layout of diffusers' StableDiffusionInstructPix2PixPipeline. Everything comes from that one
repository or folder; the safety checker is neither needed nor fetched.
"""

from __future__ import annotations

import re
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
_TOKENIZER_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_HUB_TIMEOUT_SECONDS = 10.0


class WeightsNotFoundError(OSError):
    """A prior's weights can't be had; the message is one line that says how to get them."""


def check(name_or_path: str | Path, *, variant: str | None = None) -> None:
    """Make sure that `fetch` can succeed, without downloading or loading weights.

    A folder, a bundled model and a model in the hub's cache are searched for the files of each
    component; for anything else the hub is asked once, with a short time limit.

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
        _ask_hub(repo)


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


def missing_files(folder: Path, *, variant: str | None = None) -> list[str]:
    """Name what a folder lacks of the components that an editing prior needs.

    Args:
        folder: A folder in the pipeline's layout.
        variant: Which weight files are wanted; None means those without a variant's name.

    Returns:
        Paths relative to the folder; empty if it is complete.
    """
    missing = [path for path in _CONFIGS if not (folder / path).is_file()]
    for component, stems in _WEIGHTS.items():
        names = _weight_names(stems, variant)
        if not any((folder / component / name).is_file() for name in names):
            missing.append(f"{component}/{names[0]}")
    forms = ([folder / "tokenizer" / name for name in form] for form in _TOKENIZER_FORMS)
    if not any(all(path.is_file() for path in form) for form in forms):
        missing.append(f"tokenizer/{_TOKENIZER_FORMS[0][0]}")
    return missing


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
    elif missing := missing_files(folder, variant=variant):
        what = f"the folder {folder} lacks {', '.join(missing)}{_variant_hint(folder, variant)}"
    else:
        return
    if str(name_or_path) in BUNDLED_MODELS:
        raise WeightsNotFoundError(
            f"The bundled prior {str(name_or_path)!r} is not installed: {what}; "
            "install csd_nerf again, or name another prior with --pipeline.prior (--prior)."
        )
    _raise_not_found(str(name_or_path), what, HUB_MODELS["instruct-pix2pix"])


def _variant_hint(folder: Path, variant: str | None) -> str:
    """Name the variants that a folder does have, where the one asked for is missing."""
    files = [path.name.split(".") for path in (folder / "unet").glob("*.*.safetensors")]
    found = {parts[1] for parts in files if len(parts) == 3} - {variant}
    return f" (it has the variant {', '.join(sorted(found))})" if found else ""


def _cached_folder(repo: str, variant: str | None) -> Path | None:
    """Return the snapshot in the hub's cache if it is complete; never touches the network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "unet/config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent.parent
    return None if missing_files(folder, variant=variant) else folder


def _ask_hub(repo: str) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repo, timeout=_HUB_TIMEOUT_SECONDS)
    # The hub client's transport, and so its errors, differ between releases; whichever it is,
    # the weights can't be had.
    except Exception as error:
        what = f"it is not in the cache and the hub does not give it ({type(error).__name__})"
        _raise_not_found(repo, what, repo)


def _download(repo: str, variant: str | None) -> Path:
    # Asking first ends an offline run at once: the download itself would retry for long.
    _ask_hub(repo)
    from diffusers import StableDiffusionInstructPix2PixPipeline

    try:
        folder = Path(
            StableDiffusionInstructPix2PixPipeline.download(
                repo, variant=variant, safety_checker=None, feature_extractor=None
            )
        )
    except OSError as error:
        _raise_not_found(repo, f"its download failed ({type(error).__name__})", repo)
    if missing := missing_files(folder, variant=variant):
        _raise_not_found(repo, f"the hub's repository lacks {', '.join(missing)}", repo)
    return folder


def _raise_not_found(name: str, what: str, repo: str) -> NoReturn:
    raise WeightsNotFoundError(
        f"No weights for the prior {name!r}: {what}; fetch them with "
        f'`hf download {repo} --include "*/*"`, or name a folder that has all of them '
        "with --pipeline.prior DIR (--prior DIR)."
    ) from None
