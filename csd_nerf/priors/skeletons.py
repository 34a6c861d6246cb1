"""Priors of the real classes and sizes on torch's meta device: with shapes, without weights.

What they compute can be counted (`csd_nerf.priors.costs`), so that the cost is that of the code
which runs, conversions of precision and copies included.

This module imports diffusers and transformers; import it late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import diffusers
import torch
import transformers
from torch import nn
from transformers import AutoConfig, BatchEncoding, CLIPTokenizer, T5Tokenizer

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors.families import Family

_META = torch.device("meta")
_TEXT_MODELS = {
    "clip_text_model": "CLIPTextModel",
    "clip": "CLIPTextModel",
    "t5": "T5EncoderModel",
    "qwen3": "Qwen3Model",
    "qwen2_5_vl": "Qwen2_5_VLModel",
}
"""The class of a text encoder by its model type, where its configuration names none of CLIP's."""
_WORDS, _PICTURE_TOKENS = 64, 196
"""Tokens of an instruction with what stands around it, and of a picture of 392 x 392 pixels."""
_WITH_PROJECTION = "CLIPTextModelWithProjection"


def skeleton_part(config: Mapping[str, Any], *, dtype: torch.dtype) -> nn.Module:
    """A model of diffusers or transformers on the meta device.

    Args:
        config: Its configuration, as its `config.json` has it.
        dtype: Its precision. Layers that transformers keeps in float32 beside float16 stay so.

    Raises:
        ValueError: If the class is unknown, or the configuration isn't one of it.
    """
    name, fields = config.get("_class_name"), dict(config)
    try:
        with _META:
            if name is not None:
                model = getattr(diffusers, name).from_config(fields)
            else:
                kind = fields.pop("model_type")
                named = _WITH_PROJECTION in (fields.get("architectures") or ())
                name = _WITH_PROJECTION if named else _TEXT_MODELS[kind]
                known: Any = AutoConfig.for_model(kind, **fields)
                # The configuration of a whole CLIP holds that of its text model.
                model = getattr(transformers, name)(known.text_config if kind == "clip" else known)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"A part of a prior needs a configuration of a class that is installed, got {name} "
            f"({type(error).__name__}: {' '.join(str(error).split())}); name another model."
        ) from None
    # Not the model's own `to`, which warns of the layers that are kept.
    nn.Module.to(model, dtype)
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if dtype == torch.float16 and kept:
        for path, module in model.named_modules():
            if kept & {*path.split(".")}:
                nn.Module.to(module, torch.float32)
    return model.eval().requires_grad_(False)


def skeleton_parts(
    configs: Mapping[str, Mapping[str, Any]], family: Family, *, dtype: torch.dtype
) -> dict[str, nn.Module]:
    """The parts of a prior on the meta device, by the names of their subfolders, as loaded.

    Args:
        configs: The configuration of each part.
        family: The prior's family.
        dtype: The prior's precision; that of its autoencoder may be another.

    Raises:
        ValueError: If a configuration is not one of its class.
    """
    own = getattr(_class_of(family), "vae_dtype", None)
    return {
        place: skeleton_part(
            config, dtype=own(dtype) if place == "vae" and own is not None else dtype
        )
        for place, config in configs.items()
    }


def skeleton(parts: Mapping[str, nn.Module], family: Family, *, name: str) -> Any:
    """A `DiffusersPrior` of parts on the meta device; it may drop layers that it doesn't need.

    Args:
        parts: The parts by the names of their subfolders.
        family: Its family.
        name: Its name, for messages.

    Raises:
        ValueError: If the parts don't fit together.
    """
    inputs: dict[str, Any] = {
        place: _AnyText() for place in family.components if place.startswith("tokenizer")
    }
    if "processor" in family.components:
        inputs["processor"] = _AnyText()
    if "transformer" in parts:
        inputs["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler()
    else:
        inputs["schedule"] = DiscreteSchedule.scaled_linear()
    prior = _class_of(family)(name=name, **parts, **inputs)
    if "processor" in inputs:
        prior.replace_texts(_AnySeenText(parts["text_encoder"]))
    return prior


def _class_of(family: Family) -> Any:
    module, name = family.loader.split(":")
    return getattr(import_module(module), name)


class _AnyText(CLIPTokenizer, T5Tokenizer):
    """Stands for a tokenizer: every text fills all its places, and nothing is cut off.

    Its bases are the classes that the families ask for; nothing of them is used.
    """

    def __init__(self) -> None:
        pass

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, texts: Sequence[str], *, max_length: int | None = None, **_: Any
    ) -> BatchEncoding:
        if max_length is None:
            return BatchEncoding({"input_ids": [[] for _ in texts]})
        ids = torch.zeros(len(texts), max_length, dtype=torch.long, device=_META)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def __repr__(self) -> str:
        return "any text"

    def num_special_tokens_to_add(self, pair: bool = False) -> int:  # noqa: ARG002
        return 0

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, turns: Sequence[Mapping[str, str]], **_: Any
    ) -> str:
        return turns[0]["content"]


class _AnySeenText:
    """Stands for a text encoder that sees pictures; how it looks at them isn't counted.

    Its own needs to know what is in the pictures and in the texts.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(
        self, prompts: Sequence[str], pictures01: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, None]:
        count = max(len(prompts), *(len(images01) for images01 in pictures01), 1)
        tokens = _WORDS + _PICTURE_TOKENS * len(pictures01)
        width = self._model.config.text_config.hidden_size
        shown = torch.empty(count, tokens, width, dtype=self._model.dtype, device=_META)
        states = self._model.language_model(inputs_embeds=shown, use_cache=False)
        return states.last_hidden_state.float(), None
