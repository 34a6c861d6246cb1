"""Which files of a pipeline's folder or repository a prior needs, told by their names alone.

`edit` models have the layout of diffusers' StableDiffusionInstructPix2PixPipeline. `text` models
have that of its StableDiffusionPipeline, or without a vae/ that of its IFPipeline.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

Kind = Literal["edit", "text"]
"""Editing priors take an image and an instruction, text-to-image priors a description."""

_WEIGHTS = {
    "unet": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "vae": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "text_encoder": {"safetensors": "model", "bin": "pytorch_model"},
}
_OTHER_CONFIGS = ("scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")
_CLIP_TOKENIZERS = (
    ("tokenizer/tokenizer.json",),
    ("tokenizer/vocab.json", "tokenizer/merges.txt"),
)
_T5_TOKENIZERS = (("tokenizer/tokenizer.json",), ("tokenizer/spiece.model",))


def listing(folder: Path) -> set[str]:
    """The files of a folder's components, as paths relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}


def missing_files(
    files: Collection[str], *, variant: str | None = None, kind: Kind = "edit"
) -> list[str]:
    """Name what is lacking of the components that a prior needs.

    Args:
        files: What a folder or repository has, as paths relative to it.
        variant: Which weight files are wanted; None means those without a variant's name.
        kind: Of the prior.

    Returns:
        Relative paths; empty if nothing is lacking.
    """
    components = _components(files, kind)
    missing = [path for path in _configs(components) if path not in files]
    for component in components:
        found = _first_weights(files, component, variant)
        if found is None:
            missing.append(f"{component}/{_weight_names(_WEIGHTS[component], variant)[0]}")
        elif kind == "text" and not _is_whole(found):
            missing.append(f"weights that {found[0]} names")
    forms = _CLIP_TOKENIZERS if "vae" in components else _T5_TOKENIZERS
    if not any(all(path in files for path in form) for form in forms):
        missing.append(forms[0][0])
    return missing


def lack(files: Collection[str], *, variant: str | None, kind: Kind = "edit") -> str:
    """Say in words which files are missing, and which variants there are; empty if none is."""
    missing = missing_files(files, variant=variant, kind=kind)
    unet_files = [path.split(".") for path in files if path.startswith("unet/")]
    variants = {parts[1] for parts in unet_files if parts[2:] == ["safetensors"]} - {variant}
    hint = f" (it has the variant {', '.join(sorted(variants))})" if variants else ""
    return ", ".join(missing) + hint if missing else ""


def needed_files(files: Collection[str], *, variant: str | None, kind: Kind) -> list[str]:
    """The part of a complete repository that loading one variant reads."""
    components = _components(files, kind)
    needed = {*_configs(components), *(path for path in files if path.startswith("tokenizer/"))}
    for component in components:
        needed.update(_first_weights(files, component, variant) or [])
    return sorted(needed)


def _components(files: Collection[str], kind: Kind) -> list[str]:
    """Those with weights; a text-to-image model without a vae/ diffuses pixels."""
    latent = kind == "edit" or any(path.startswith("vae/") for path in files)
    return [name for name in _WEIGHTS if latent or name != "vae"]


def _configs(components: list[str]) -> list[str]:
    return [f"{component}/config.json" for component in components] + list(_OTHER_CONFIGS)


def _weight_names(stems: dict[str, str], variant: str | None) -> list[str]:
    """File names under which diffusers and transformers save weights, whole or in shards."""
    suffix = f".{variant}" if variant else ""
    whole = [f"{stem}{suffix}.{kind}" for kind, stem in stems.items()]
    sharded = [f"{stem}.{kind}.index{suffix}.json" for kind, stem in stems.items()]
    return whole + sharded


def _first_weights(files: Collection[str], component: str, variant: str | None) -> list[str] | None:
    """A component's weights in the form that loading prefers: one file, or index and shards."""
    suffix = f".{variant}" if variant else ""
    for form, stem in _WEIGHTS[component].items():
        whole = f"{component}/{stem}{suffix}.{form}"
        index = f"{component}/{stem}.{form}.index{suffix}.json"
        if whole in files:
            return [whole]
        if index in files:
            # Older releases of diffusers put the variant last.
            for name in (rf"{stem}{suffix}-\d+-of-\d+", rf"{stem}-\d+-of-\d+{suffix}"):
                pattern = re.compile(rf"{component}/{name}\.{form}")
                if shards := sorted(filter(pattern.fullmatch, files)):
                    return [index, *shards]
            return [index]
    return None


def _is_whole(weights: list[str]) -> bool:
    """Whether an index's shards are all there, by the number that their names tell."""
    index, *shards = weights
    if not index.endswith(".json"):
        return True
    counts = {int(count) for shard in shards for count in re.findall(r"-of-(\d+)", shard)}
    return counts == {len(shards)}
