"""The families of models that can be loaded as a prior, and the files that each needs.

A folder or repository in diffusers' layout names its pipeline's class in `model_index.json`. That
class decides the family. To add a family, write a subclass of `DiffusersPrior` in a new file, and
add a line to `FAMILIES`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from csd_nerf.json_files import read_json
from csd_nerf.priors.base import Prior

Kind = Literal["edit", "text"]
"""`edit`: editing models, conditioned on an image and an instruction; `text`: text-to-image models,
conditioned on a description alone."""

Condition = Literal["raw", "scaled"]
"""Scale of the latent that conditions an editing model: the autoencoder's own, or that of the noisy
latents."""

INDEX = "model_index.json"
"""The file at a folder's top that names its pipeline's class."""


class UnknownFamilyError(ValueError):
    """A model of a class that no family here can load; the message lists the known ones."""


@dataclass(frozen=True)
class Component:
    """The files of one subfolder of a model."""

    config: str = "config.json"
    """Name of the configuration file."""
    weights: Mapping[str, str] | None = None
    """Name of the weight file by format (its suffix), without variant and suffix; None for a
    component without weights."""
    either: tuple[tuple[str, ...], ...] = ()
    """Alternative groups of further files; all files of at least one group are needed."""
    classes: tuple[str, ...] = ()
    """What the configuration may name: a class of diffusers, or a model type of transformers."""


_DIFFUSERS = {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"}
_TRANSFORMERS = {"safetensors": "model", "bin": "pytorch_model"}
UNET = Component(weights=_DIFFUSERS, classes=("UNet2DConditionModel",))
CONTROLNET = Component(weights=_DIFFUSERS, classes=("ControlNetModel",))
VAE = Component(weights=_DIFFUSERS, classes=("AutoencoderKL",))
CLIP = Component(weights=_TRANSFORMERS, classes=("clip_text_model", "clip"))
T5 = Component(weights=_TRANSFORMERS, classes=("t5",))
QWEN_VL = Component(weights=_TRANSFORMERS, classes=("qwen2_5_vl",))
QWEN3 = Component(weights=_TRANSFORMERS, classes=("qwen3",))
FLUX = Component(weights=_DIFFUSERS, classes=("FluxTransformer2DModel",))
FLUX2 = Component(weights=_DIFFUSERS, classes=("Flux2Transformer2DModel",))
QWEN_IMAGE = Component(weights=_DIFFUSERS, classes=("QwenImageTransformer2DModel",))
QWEN_IMAGE_VAE = Component(weights=_DIFFUSERS, classes=("AutoencoderKLQwenImage",))
FLUX2_VAE = Component(weights=_DIFFUSERS, classes=("AutoencoderKLFlux2",))
SCHEDULER = Component(config="scheduler_config.json")
BPE_TOKENIZER = Component(
    config="tokenizer_config.json", either=(("tokenizer.json",), ("vocab.json", "merges.txt"))
)
# Releases of transformers before 5 write the second, later ones the first.
PROCESSOR = Component(
    config="tokenizer_config.json",
    either=(("processor_config.json",), ("preprocessor_config.json",)),
)
T5_TOKENIZER = Component(
    config="tokenizer_config.json", either=(("tokenizer.json",), ("spiece.model",))
)


@dataclass(frozen=True)
class Usual:
    """The numbers with which a model's authors use it, for edits that name none."""

    text_scale: float
    """w_y of CSD Eq. 3: how strongly the instruction is followed."""
    image_scale: float
    """w_s of CSD Eq. 3: how closely the source is kept. With 1 the model is guided by the text
    alone, as flow models are: the estimate without the source image is not needed."""
    t_range: tuple[float, float]
    """Lowest and highest noise level, as fractions of the schedule."""


@dataclass(frozen=True)
class Family:
    """A family of models, described without importing its code."""

    loader: str
    """`module:class` of the prior; the class has a method like `StableDiffusion.from_folder`."""
    kind: Kind
    components: Mapping[str, Component]
    """Components by the name of their subfolder."""
    usual: Usual | None = None
    """None for a family that names no numbers of its own."""
    half: Literal["float16", "bfloat16"] = "float16"
    """The half precision in which its models run on a GPU. The residual of Stable Diffusion is off
    by 0.2 to 0.5 % in float16, and by 1.6 to 4.2 % in bfloat16, in which flow transformers are
    published."""
    references: int = 1
    """Most images that its models take beside each other; the first is the source."""
    sources: tuple[str, ...] = ()
    """Names of the latents of the source that are channels of the U-Net's input."""
    flow: bool = False
    """Whether its models are rectified flows, which predict velocities."""
    additions: tuple[str | None, ...] = (None, "text")
    """What else the U-Net may be conditioned on, as its `addition_embed_type` says."""
    controlled: str | None = None
    """As `loader`, for a prior with a ControlNet beside its U-Net; None if there is none."""

    def load(self, folder: Path, *, controlled: bool = False, **options: Any) -> Prior:
        """Load a complete folder; the options are those of `csd_nerf.priors.load`."""
        loader = self.controlled if controlled else self.loader
        assert loader is not None
        module, name = loader.split(":")
        return getattr(import_module(module), name).from_folder(folder, **options)


_PIX2PIX = Usual(7.5, 1.5, (0.02, 0.5))
"""The pipeline's scales, and the noise levels of the authors' release of CSD."""
_PIX2PIX_XL = Usual(3.0, 1.5, (0.02, 0.5))
"""The scales of the example in the card of diffusers/sdxl-instructpix2pix-768."""
_DDS = Usual(7.5, 1.0, (0.05, 0.95))
"""As DDS (Hertz et al. 2023) is published; these models take no source image."""
_IF = Usual(7.0, 1.0, (0.05, 0.95))
"""The pipeline's scale."""
_FLOW = (0.02, 0.98)
"""Flow models are sampled from pure noise to none."""
_KONTEXT_USUAL = Usual(1.0, 1.0, _FLOW)
"""Its guidance by the text is distilled."""
_KLEIN = Usual(4.0, 1.0, _FLOW)
"""The pipeline's scale."""

_QWEN_USUAL = Usual(4.0, 1.0, _FLOW)
"""The pipeline's scale."""

_LATENT = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": CLIP,
    "scheduler": SCHEDULER,
    "tokenizer": BPE_TOKENIZER,
}
_XL = {**_LATENT, "text_encoder_2": CLIP, "tokenizer_2": BPE_TOKENIZER}
_PIXELS = {
    "unet": UNET,
    "text_encoder": T5,
    "scheduler": SCHEDULER,
    "tokenizer": T5_TOKENIZER,
}

_KONTEXT = {
    "transformer": FLUX,
    "vae": VAE,
    "text_encoder": CLIP,
    "text_encoder_2": T5,
    "scheduler": SCHEDULER,
    "tokenizer": BPE_TOKENIZER,
    "tokenizer_2": T5_TOKENIZER,
}
_FLUX2 = {
    "transformer": FLUX2,
    "vae": FLUX2_VAE,
    "text_encoder": QWEN3,
    "scheduler": SCHEDULER,
    "tokenizer": BPE_TOKENIZER,
}
_QWEN_IMAGE = {
    "transformer": QWEN_IMAGE,
    "vae": QWEN_IMAGE_VAE,
    "text_encoder": QWEN_VL,
    "scheduler": SCHEDULER,
    "processor": PROCESSOR,
}

FAMILIES: dict[str, Family] = {
    "StableDiffusionInstructPix2PixPipeline": Family(
        "csd_nerf.priors.instruct_pix2pix:InstructPix2Pix",
        "edit",
        _LATENT,
        _PIX2PIX,
        sources=("condition",),
    ),
    "StableDiffusionXLInstructPix2PixPipeline": Family(
        "csd_nerf.priors.sdxl:InstructPix2PixXL",
        "edit",
        _XL,
        _PIX2PIX_XL,
        sources=("condition",),
        additions=("text_time",),
    ),
    "FluxKontextPipeline": Family(
        "csd_nerf.priors.flux_kontext:FluxKontext",
        "edit",
        _KONTEXT,
        _KONTEXT_USUAL,
        half="bfloat16",
        flow=True,
    ),
    "Flux2KleinPipeline": Family(
        "csd_nerf.priors.flux2:Flux2Klein",
        "edit",
        _FLUX2,
        _KLEIN,
        half="bfloat16",
        flow=True,
        references=2,
    ),
    "QwenImageEditPlusPipeline": Family(
        "csd_nerf.priors.qwen_image:QwenImageEdit",
        "edit",
        _QWEN_IMAGE,
        _QWEN_USUAL,
        half="bfloat16",
        flow=True,
        references=2,
    ),
    "StableDiffusionPipeline": Family(
        "csd_nerf.priors.stable_diffusion:StableDiffusion",
        "text",
        _LATENT,
        _DDS,
        controlled="csd_nerf.priors.controlnet:ControlledStableDiffusion",
    ),
    "IFPipeline": Family("csd_nerf.priors.deepfloyd_if:DeepFloydIF", "text", _PIXELS, _IF),
}
"""Families by the name of the pipeline's class in `model_index.json`."""


class _Index(BaseModel):
    name: str = Field(alias="_class_name")


def family_of(index: Path) -> Family:
    """The family that a `model_index.json` names.

    Raises:
        UnknownFamilyError: If there is no such family, or the file can't be read.
    """
    needed = f"one of {', '.join(FAMILIES)}"
    try:
        what = f"the index of a prior that is {needed}"
        name = read_json(index, _Index, what=what, remedy="name another model").name
    except ValueError as error:
        raise UnknownFamilyError(str(error)) from None
    if name not in FAMILIES:
        raise UnknownFamilyError(
            f"A prior needs to be {needed}, got {name} from {index}; name another model."
        )
    return FAMILIES[name]


def files_of(folder: Path) -> set[str]:
    """`model_index.json` and the files in subfolders, as paths relative to the folder."""
    paths = [*folder.glob("*/*"), folder / INDEX]
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def missing_files(
    family: Family, files: Collection[str], *, variant: str | None = None
) -> list[str]:
    """List the files that a folder or repository lacks to be a complete model of a family.

    Args:
        family: Family of the model.
        files: The files that are there, as relative paths.
        variant: Which weight files are wanted; None means those without a variant in their name.

    Returns:
        Relative paths (or a phrase for missing shards); empty if the model is complete.
    """
    missing = []
    for place, component in family.components.items():
        if f"{place}/{component.config}" not in files:
            missing.append(f"{place}/{component.config}")
        if component.weights is not None:
            found = _weights(files, place, component.weights, variant)
            if found is None:
                missing.append(f"{place}/{_weight_names(component.weights, variant)[0]}")
            elif not _is_whole(found):
                missing.append(f"weights that {found[0]} names")
        forms = [[f"{place}/{name}" for name in form] for form in component.either]
        if forms and not any(all(path in files for path in form) for form in forms):
            missing.append(forms[0][0])
    return missing


class _ShardIndex(BaseModel):
    """What says which shard holds a parameter."""

    weight_map: dict[str, str]


def missing_shards(family: Family, folder: Path, *, variant: str | None = None) -> list[str]:
    """List the weight files that the indices of a folder name and that are not there."""
    files, missing = files_of(folder), []
    for place, component in family.components.items():
        found = _weights(files, place, component.weights or {}, variant)
        if not found or not found[0].endswith(".json"):
            continue
        try:
            path = folder / found[0]
            index = read_json(path, _ShardIndex, what="an index of shards", remedy="fetch it again")
        except ValueError:
            missing.append(f"an index that can be read in {found[0]}")
            continue
        named = sorted({*index.weight_map.values()})
        missing += [path for name in named if (path := f"{place}/{name}") not in files]
    return missing


def describe_missing(family: Family, files: Collection[str], *, variant: str | None) -> str:
    """Describe the missing files and the variants that are there; empty if nothing is missing."""
    missing = missing_files(family, files, variant=variant)
    parts = [path.split(".") for path in files if path.startswith(("unet/", "transformer/"))]
    variants = {part[1] for part in parts if part[2:] == ["safetensors"]} - {variant}
    hint = f" (it has the variant {', '.join(sorted(variants))})" if variants else ""
    return ", ".join(missing) + hint if missing else ""


def needed_files(family: Family, files: Collection[str], *, variant: str | None) -> list[str]:
    """The files of a complete repository that are needed to load one variant."""
    needed = {INDEX}
    for place, component in family.components.items():
        needed.add(f"{place}/{component.config}")
        if component.weights is not None:
            needed.update(_weights(files, place, component.weights, variant) or [])
        else:
            needed.update(path for path in files if path.startswith(f"{place}/"))
    return sorted(needed)


def _weight_names(stems: Mapping[str, str], variant: str | None) -> list[str]:
    """File names under which diffusers and transformers save weights, whole or in shards."""
    suffix = f".{variant}" if variant else ""
    whole = [f"{stem}{suffix}.{form}" for form, stem in stems.items()]
    sharded = [f"{stem}.{form}.index{suffix}.json" for form, stem in stems.items()]
    return whole + sharded


def _weights(
    files: Collection[str], place: str, stems: Mapping[str, str], variant: str | None
) -> list[str] | None:
    """A component's weight files as the loader would choose them: one file, or index and shards."""
    suffix = f".{variant}" if variant else ""
    for form, stem in stems.items():
        whole = f"{place}/{stem}{suffix}.{form}"
        index = f"{place}/{stem}.{form}.index{suffix}.json"
        if whole in files:
            return [whole]
        if index in files:
            # Older releases of diffusers put the variant last.
            for name in (rf"{stem}{suffix}-\d+-of-\d+", rf"{stem}-\d+-of-\d+{suffix}"):
                pattern = re.compile(rf"{place}/{name}\.{form}")
                if shards := sorted(filter(pattern.fullmatch, files)):
                    return [index, *shards]
            return [index]
    return None


def _is_whole(weights: list[str]) -> bool:
    """Whether all shards of an index are there; their names hold their total number."""
    index, *shards = weights
    if not index.endswith(".json"):
        return True
    counts = {int(count) for shard in shards for count in re.findall(r"-of-(\d+)", shard)}
    return counts == {len(shards)}
