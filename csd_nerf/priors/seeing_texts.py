"""Encodes prompts by a model of vision and language, which may be shown a picture beside each.

The words around a prompt and the size at which a picture is shown are those of diffusers'
QwenImageEditPlusPipeline. Unlike its release 0.42 with transformers 5, pictures keep their
positions in rows and columns (github.com/huggingface/diffusers/issues/14194).

This module imports diffusers and transformers; import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import (
    CONDITION_IMAGE_SIZE,
    calculate_dimensions,
)
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLModel, Qwen2VLProcessor

from csd_nerf.priors.pixels import pixels_of
from csd_nerf.priors.texts import FreedEncoder, check_prompts

PICTURES_PER_CALL = 4
"""Pictures that are encoded together; each is some 200 tokens."""
_SHOWN = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
"""What stands for a picture, by its number, before the prompt."""


class SeeingTextEncoder(FreedEncoder):
    """A text encoder that sees pictures, with its processor; it can be dropped from memory."""

    def __init__(
        self,
        name: str,
        model: Qwen2_5_VLModel,
        processor: Qwen2VLProcessor,
        *,
        device: torch.device | None = None,
    ) -> None:
        """Take a model that is loaded already; `name` is the prior's, for messages."""
        super().__init__(name, model, device=device)
        self._processor: Any = processor
        parts = ("scheduler", "vae", "text_encoder", "tokenizer", "processor", "transformer")
        nothing: dict[str, Any] = dict.fromkeys(parts)
        pipeline: Any = QwenImageEditPlusPipeline(**nothing)
        self._template: str = pipeline.prompt_template_encode
        self._left_out: int = pipeline.prompt_template_encode_start_idx
        self._resize = pipeline.image_processor.resize

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        pictures01: Sequence[Float[Tensor, "n 3 _ _"]] = (),
    ) -> tuple[Float[Tensor, "r tokens width"], Bool[Tensor, "r tokens"] | None]:
        """Encode prompts to the model's last hidden states, float32.

        Args:
            prompts: The texts: one for each picture, or one for all.
            pictures01: What is shown: n first pictures, n second ones, and so on.

        Returns:
            The states, and which of their tokens are not padding; None if all are.

        Raises:
            ValueError: If prompts is empty or one string, or the numbers don't fit.
            RuntimeError: After `free`.
        """
        check_prompts(prompts)
        n = len(pictures01[0]) if pictures01 else len(prompts)
        texts = [*prompts] * n if len(prompts) == 1 and pictures01 else [*prompts]
        if len(texts) != n:
            raise ValueError(
                f"Texts that see pictures need one prompt, or one a picture ({n}), got "
                f"{len(prompts)}."
            )
        shown = [[*map(self._shown, pixels_of(images01))] for images01 in pictures01]
        found = []
        size = PICTURES_PER_CALL if pictures01 else n
        with self.on_device() as model:
            for first in range(0, n, size):
                part = slice(first, first + size)
                found += self._states(model, texts[part], [images[part] for images in shown])
        lengths = torch.tensor([len(states) for states in found])
        states = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        if bool((lengths == lengths[0]).all()):
            return states, None
        return states, (torch.arange(states.shape[1]) < lengths[:, None]).to(states.device)

    def _shown(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
        """A picture as the model is shown it."""
        picture = Image.fromarray(pixels)
        ratio = picture.width / picture.height
        width, height = calculate_dimensions(CONDITION_IMAGE_SIZE, ratio)
        return self._resize(picture, height, width)

    def _states(
        self, model: Any, texts: Sequence[str], shown: Sequence[Sequence[Image.Image]]
    ) -> list[Float[Tensor, "_ width"]]:
        """The hidden states of some texts, without the template's beginning and padding."""
        before = "".join(_SHOWN.format(number + 1) for number in range(len(shown)))
        # The processor takes all pictures in the order in which the texts name them.
        images = [image for row in zip(*shown, strict=True) for image in row]
        inputs = self._processor(
            text=[self._template.format(before + text) for text in texts],
            images=images or None,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        states = model(**inputs, use_cache=False).last_hidden_state.float()
        masks = inputs["attention_mask"].bool()
        return [one[mask][self._left_out :] for one, mask in zip(states, masks, strict=True)]
