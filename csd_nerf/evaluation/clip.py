"""CLIP similarities of images and texts, with OpenCLIP's networks.

All measures are means of cosines c(a, b) = <a, b> / (|a| |b|) of CLIP features, in [-1, 1]; higher
is better. OpenCLIP is imported late.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.functional import normalize

from csd_nerf.json_files import read_json

DEFAULT_MODEL = "ViT-bigG-14"
"""The model with which the paper evaluates (Appendix B)."""
_TAGS = {DEFAULT_MODEL: "laion2b_s39b_b160k"}
"""Published weights of models for which the first that OpenCLIP lists are not the ones to use."""
_CONFIG = "open_clip_config.json"
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)


@dataclass(frozen=True)
class Clip:
    """A CLIP model with its tokenizer."""

    name: str
    model: Any
    """OpenCLIP's module."""
    tokenizer: Any
    device: torch.device

    @torch.no_grad()
    def image_features(
        self, image01: Float[Tensor, "n 3 h w"], max_batch: int = 16
    ) -> Float[Tensor, "n d"]:
        """Features of images, of unit length, on the CPU.

        Images are preprocessed as in CLIP's training: the shorter edge is resized (bicubic,
        antialiased) and the central square is cropped. So the ends of a wide picture are ignored.

        Args:
            image01: Images in [0, 1], of any size.
            max_batch: Largest number of images per call.
        """
        parts = (self.preprocess(part.to(self.device)) for part in image01.split(max_batch))
        return torch.cat([normalize(self.model.encode_image(part)).cpu() for part in parts])

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Float[Tensor, "k d"]:
        """Features of texts, of unit length, on the CPU."""
        tokens = self.tokenizer(texts).to(self.device)
        return normalize(self.model.encode_text(tokens)).cpu()

    def preprocess(self, image01: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        """Resize, crop and normalise, as the model's own transform of PIL images does."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2.functional import center_crop, resize

        visual = self.model.visual
        size = visual.image_size
        edge = size[0] if isinstance(size, tuple | list) else size
        squash = visual.preprocess_cfg.get("resize_mode", "shortest") == "squash"
        shape = [edge, edge] if squash else [edge]
        bicubic = InterpolationMode.BICUBIC
        resized = resize(image01, shape, interpolation=bicubic, antialias=True).clamp(0, 1)
        mean, std = (
            torch.tensor(values, device=image01.device)[:, None, None]
            for values in (visual.image_mean, visual.image_std)
        )
        return (center_crop(resized, [edge, edge]) - mean) / std


def load_clip(name: str = DEFAULT_MODEL, *, device: str | torch.device = "cpu") -> Clip:
    """Load a CLIP model whose weights are on disk already; it is not downloaded.

    Args:
        name: Name of a model in OpenCLIP, or a folder in the layout of OpenCLIP's repositories on
            the hub: open_clip_config.json and weights. For a name, the first weights that OpenCLIP
            lists are used, for the default laion2b_s39b_b160k (the paper doesn't name its weights).
        device: Device of the model.

    Raises:
        ValueError: If OpenCLIP doesn't know the name, or the folder's model isn't a plain CLIP.
        FileNotFoundError: If the weights are not there.
    """
    if Path(name).is_dir():
        model, tokenizer = _from_folder(Path(name))
    else:
        model, tokenizer = _from_name(name)
    model = model.to(device).eval().requires_grad_(False)
    return Clip(name, model, tokenizer, torch.device(device))


def _from_name(name: str) -> tuple[Any, Any]:
    import open_clip

    if not open_clip.list_pretrained_tags_by_model(name):
        raise ValueError(
            f"CLIP needs a folder or a model that OpenCLIP knows, such as {DEFAULT_MODEL} or "
            f"ViT-B-32, got {name!r}."
        )
    tag = _TAGS.get(name) or open_clip.list_pretrained_tags_by_model(name)[0]
    _require_weights(name, tag, open_clip.get_pretrained_cfg(name, tag))
    return open_clip.create_model(name, pretrained=tag), open_clip.get_tokenizer(name)


def _require_weights(name: str, tag: str, config: dict[str, Any]) -> None:
    """Check that the weights are there before building the model, which can take a minute."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if repository:
        found = any(
            isinstance(try_to_load_from_cache(repository, file_name), str)
            for file_name in ([file] if file else _WEIGHTS)
        )
        command = f"hf download {repository}"
    else:
        file = Path(config["url"]).name
        found = (Path.home() / ".cache" / "clip" / file).is_file()
        command = f"python -c \"import open_clip; open_clip.create_model('{name}', '{tag}')\""
    if not found:
        raise FileNotFoundError(
            f"CLIP {name} needs its weights {tag!r}, which aren't on this machine; fetch them with "
            f"`{command}`, or name a local folder."
        )


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    text_cfg: dict[str, Any]
    vision_cfg: dict[str, Any]
    custom_text: bool = False


class _ClipConfig(BaseModel):
    model_cfg: _Model
    preprocess_cfg: dict[str, Any] = {}


def _from_folder(folder: Path) -> tuple[Any, Any]:
    import open_clip

    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not (folder / _CONFIG).is_file():
        raise FileNotFoundError(
            f"A CLIP folder needs {_CONFIG} and {_WEIGHTS[0]} or {_WEIGHTS[-1]}, as OpenCLIP "
            f"publishes them, but {folder} doesn't hold both."
        )
    config = read_json(
        folder / _CONFIG,
        _ClipConfig,
        what="the config of an OpenCLIP model",
        remedy="fetch the folder again",
    ).model_dump(exclude_unset=True)
    settings = {key: value for key, value in config["model_cfg"].items() if key != "custom_text"}
    if "hf_tokenizer_name" in settings["text_cfg"] or "timm_model_name" in settings["vision_cfg"]:
        raise ValueError(
            f"A CLIP folder needs a plain CLIP, with OpenCLIP's own towers and tokenizer, but "
            f"{folder} names others; give the model by its OpenCLIP name instead."
        )
    # OpenCLIP and torch raise many kinds of errors at settings of another type, or other weights.
    try:
        custom = config["model_cfg"].get("custom_text", False)
        model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**settings)
        open_clip.load_checkpoint(model, str(weights))
        open_clip.factory.set_model_preprocess_cfg(
            model,
            open_clip.factory.merge_preprocess_dict(
                open_clip.factory.PreprocessCfg(), config.get("preprocess_cfg", {})
            ),
        )
        tokenizer = open_clip.SimpleTokenizer(
            context_length=settings["text_cfg"].get("context_length", 77)
        )
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise ValueError(
            f"A CLIP folder must be one that OpenCLIP can load, got {folder} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); fetch it again."
        ) from error
    return model, tokenizer


def directional_similarity(
    source: Float[Tensor, "n d"],
    edited: Float[Tensor, "n d"],
    source_text: Float[Tensor, "1 d"],
    edited_text: Float[Tensor, "1 d"],
) -> float:
    """CLIP directional similarity: mean c(edited_i - source_i, edited_text - source_text).

    It measures whether images changed in the direction of their captions (Gal et al. 2022,
    StyleGAN-NADA). An unchanged image counts as 0.

    Args:
        source: Features of the sources, of unit length.
        edited: Features of the edits in the same order, of unit length.
        source_text: Features of the source's caption.
        edited_text: Features of the edit's caption.
    """
    return float(torch.cosine_similarity(edited - source, edited_text - source_text).mean())


def image_consistency(edited: Float[Tensor, "n d"]) -> float:
    """Similarity of consecutive frames or views: mean c(edited_i, edited_(i+1)).

    The paper's CLIP image consistency (Section 4.2).

    Raises:
        ValueError: If there are fewer than two images.
    """
    if len(edited) < 2:
        raise ValueError(f"CLIP image consistency needs at least 2 images, got {len(edited)}.")
    return float(torch.cosine_similarity(edited[1:], edited[:-1]).mean())


def image_similarity(source: Float[Tensor, "n d"], edited: Float[Tensor, "n d"]) -> float:
    """Similarity of edits and sources: mean c(source_i, edited_i) (Section 4.1).

    It is 1 for an edit that changes nothing, so read it together with the directional similarity.
    """
    return float(torch.cosine_similarity(source, edited).mean())


def text_similarity(edited: Float[Tensor, "n d"], text: Float[Tensor, "1 d"]) -> float:
    """Similarity of images and a text: mean c(edited_i, text) (Hessel et al. 2021, unscaled)."""
    return float(torch.cosine_similarity(edited, text).mean())
