"""Segmenters: models that find in an image what a word names.

CLIPSeg (Lueddecke and Ecker 2022) from transformers, whose weights are optional. They are found as
those of priors are: in the hub's cache, by download, or in a folder that transformers saved.
transformers is imported late.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel
from torch import Tensor
from torch.nn import functional

from csd_nerf.json_files import read_json
from csd_nerf.priors.flat_models import FlatModels, files_in
from csd_nerf.priors.weights import WeightsNotFoundError

HUB_SEGMENTERS = {"clipseg": "CIDAS/clipseg-rd64-refined"}
"""Short names of segmenters on the hub."""

_CONFIG = "config.json"
_NEEDED = (_CONFIG, "tokenizer_config.json")
_GROUPS = (
    # Newer releases of transformers write the second.
    (("preprocessor_config.json",), ("processor_config.json",)),
    (("vocab.json", "merges.txt"), ("tokenizer.json",)),
)
"""Files of the image processor, and of the tokenizer; of each, one group will do."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of the weights; the first that is there is taken."""


class SegmenterNotFoundError(WeightsNotFoundError):
    """A segmenter's weights are missing; the one-line message says what to do."""


def load_segmenter(
    name_or_folder: str | Path = "clipseg", *, device: torch.device | str = "cpu"
) -> Callable[[Float[Tensor, "3 h w"], str], Float[Tensor, "h w"]]:
    """Load a segmenter: a function of an image in [0, 1] and a word.

    It gives for each pixel the probability, in [0, 1], that the word names what is there: the
    sigmoid of the model's logits, interpolated to the image's size.

    Args:
        name_or_folder: `clipseg`, a hub id, or a folder in which transformers saved a
            `CLIPSegForImageSegmentation` and its processor.
        device: Where the model runs.

    Raises:
        SegmenterNotFoundError: If the weights are not there and can't be fetched.
        ValueError: If the model is of another class.
    """
    folder = find_segmenter(name_or_folder)
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        processor = CLIPSegProcessor.from_pretrained(folder, local_files_only=True)
        model = CLIPSegForImageSegmentation.from_pretrained(folder, local_files_only=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    # Without types, which transformers' wrapped methods don't have.
    network: Any = model
    network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def segment(image01: Float[Tensor, "3 h w"], word: str) -> Float[Tensor, "h w"]:
        picture = (255 * image01.cpu().clamp(0, 1)).round().byte().numpy()
        inputs = processor(text=[word], images=[picture], padding=True, return_tensors="pt")
        moved = {name: value.to(device) for name, value in inputs.items()}
        logits = network(**moved).logits
        share = logits.float().sigmoid().reshape(1, 1, *logits.shape[-2:])
        size = (image01.shape[1], image01.shape[2])
        return functional.interpolate(share, size, mode="bilinear")[0, 0].to(image01.device)

    return segment


def find_segmenter(name_or_folder: str | Path = "clipseg") -> Path:
    """The folder of a segmenter's weights; those that are not in the cache yet are downloaded.

    Raises:
        SegmenterNotFoundError: If the weights are not there and can't be fetched.
        ValueError: If the model is of another class.
    """
    repo = SEGMENTERS.repository(name_or_folder)
    if repo is not None:
        folder = SEGMENTERS.fetched(repo)
    else:
        folder = Path(name_or_folder).expanduser()
        if not folder.is_dir():
            raise _not_found(str(name_or_folder), f"the folder {folder} does not exist")
        if missing := _choose(files_in(folder))[1]:
            raise _not_found(str(name_or_folder), f"the folder {folder} lacks {missing}")
    _require_clipseg(folder, name_or_folder)
    return folder


def _choose(files: Collection[str]) -> tuple[list[str], str]:
    """The files to load, or else a phrase for what is missing."""
    missing = [name for name in _NEEDED if name not in files]
    for groups in _GROUPS:
        if not any(all(name in files for name in group) for group in groups):
            missing.append(" with ".join(groups[0]))
    weights = [name for name in _WEIGHTS if name in files][:1]
    if missing or not weights:
        return [], ", ".join(missing or [_WEIGHTS[0]])
    further = [name for groups in _GROUPS for group in groups for name in group]
    further = [name for name in (*further, "special_tokens_map.json") if name in files]
    return [*_NEEDED, *further, *weights], ""


class _Configuration(BaseModel):
    model_type: str = ""


def _require_clipseg(folder: Path, name: str | Path) -> None:
    what, remedy = "the configuration of a model", "save the model again"
    kind = read_json(folder / _CONFIG, _Configuration, what=what, remedy=remedy).model_type
    if kind != "clipseg":
        raise ValueError(
            f"A segmenter by words needs a model of the type clipseg, got {kind} from "
            f"{str(name)!r}; name another, or hand a function in from Python."
        )


def _not_found(name: str, what: str, repo: str | None = None) -> SegmenterNotFoundError:
    repo = repo or HUB_SEGMENTERS["clipseg"]
    return SegmenterNotFoundError(
        f"No weights for the segmenter {name!r}: {what}; fetch them with `csd-nerf weights "
        f"clipseg`, or name a folder that has all of {repo}, or give masks or a box instead of a "
        "word."
    )


SEGMENTERS = FlatModels(HUB_SEGMENTERS, _CONFIG, _choose, _not_found)
"""How segmenters are found; their errors are `SegmenterNotFoundError`."""
