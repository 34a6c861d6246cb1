"""Encodes prompts to hidden states of CLIP, T5 or Qwen3.

A prompt that is too long is truncated; a warning quotes the part cut off.

This module imports transformers; import it late.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen3Model,
    T5EncoderModel,
    T5Tokenizer,
)

T5_TOKENS = 77
"""Number of tokens to which DeepFloyd IF pads and truncates texts; T5 itself has no limit."""
FLUX_TOKENS = 512
"""Number of tokens to which FLUX.1 pads and truncates texts for T5."""
QWEN3_TOKENS = 512
"""Number of tokens to which FLUX.2 [klein] pads and truncates texts."""
QWEN3_LAYERS = (9, 18, 27)
"""The hidden states of Qwen3 that FLUX.2 [klein] reads, counted from the embedding, which is 0."""


def clip_states(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: Sequence[str], *, name: str
) -> Float[Tensor, "r tokens width"]:
    """CLIP's last hidden states, padded to its full length, in the encoder's precision.

    Args:
        encoder: The text encoder; states are returned on its device.
        tokenizer: Tokenizer of the encoder.
        prompts: The texts, which give one row each; "" is the empty prompt.
        name: Name of the prior, for the warning.

    Raises:
        ValueError: If there is no prompt, or prompts is one string.
    """
    limit = encoder.config.max_position_embeddings
    tokens = _tokens(tokenizer, prompts, limit=limit, name=name).to(encoder.device)
    # CLIP attends to its padding, unless a model was trained otherwise and says so.
    masked = getattr(encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask if masked else None
    return encoder(tokens.input_ids, attention_mask=mask).last_hidden_state


def clip_penultimate(
    encoder: CLIPTextModel | CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    prompts: Sequence[str],
    *,
    name: str,
) -> Float[Tensor, "r tokens width"]:
    """CLIP's last states but one, as Stable Diffusion XL reads them; else as `clip_states`."""
    limit = encoder.config.max_position_embeddings
    tokens = _tokens(tokenizer, prompts, limit=limit, name=name).to(encoder.device)
    return encoder(tokens.input_ids, output_hidden_states=True).hidden_states[-2]


def clip_projected(
    encoder: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    prompts: Sequence[str],
    *,
    name: str,
) -> Float[Tensor, "r width"]:
    """CLIP's projected summary of each prompt; arguments and errors as `clip_states`."""
    limit = encoder.config.max_position_embeddings
    tokens = _tokens(tokenizer, prompts, limit=limit, name=name).to(encoder.device)
    return encoder(tokens.input_ids).text_embeds


def clip_pooled(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: Sequence[str], *, name: str
) -> Float[Tensor, "r width"]:
    """CLIP's summary of each prompt, its state at the end of the text; else as `clip_states`."""
    limit = encoder.config.max_position_embeddings
    tokens = _tokens(tokenizer, prompts, limit=limit, name=name).to(encoder.device)
    return encoder(tokens.input_ids).pooler_output


def t5_plain_states(
    encoder: T5EncoderModel, tokenizer: Any, prompts: Sequence[str], *, name: str
) -> Float[Tensor, "r tokens width"]:
    """T5's last hidden states as FLUX.1 uses them; arguments and errors as `clip_states`.

    Texts are padded to `FLUX_TOKENS` tokens, and padding is attended to.
    """
    tokens = _tokens(tokenizer, prompts, limit=FLUX_TOKENS, name=name).to(encoder.device)
    return encoder(tokens.input_ids).last_hidden_state


def t5_states(
    encoder: T5EncoderModel, tokenizer: T5Tokenizer, prompts: Sequence[str], *, name: str
) -> Float[Tensor, "r tokens width"]:
    """T5's last hidden states as DeepFloyd IF uses them; arguments and errors as `clip_states`.

    Texts are lower-cased, stripped, and padded to `T5_TOKENS` tokens; padding is masked.
    """
    if not isinstance(prompts, str):
        prompts = [prompt.lower().strip() for prompt in prompts]
    tokens = _tokens(tokenizer, prompts, limit=T5_TOKENS, name=name).to(encoder.device)
    return encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state


def qwen3_states(
    encoder: Qwen3Model, tokenizer: Any, prompts: Sequence[str], *, name: str
) -> Float[Tensor, "r tokens width"]:
    """Three layers of Qwen3 side by side, as FLUX.2 [klein] reads them; else as `clip_states`.

    A prompt is a user's turn of a chat; it is padded to `QWEN3_TOKENS`, and padding is masked.
    """
    check_prompts(prompts)
    turns = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        for prompt in prompts
    ]
    tokens = _tokens(tokenizer, turns, limit=QWEN3_TOKENS, name=name).to(encoder.device)
    found = encoder(
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.cat([found.hidden_states[layer] for layer in QWEN3_LAYERS], dim=2)


class FreedEncoder:
    """A model that encodes texts, waits where it lies, and can be dropped from memory.

    Attributes:
        name: Name of the prior, for messages.
    """

    def __init__(self, name: str, model: Any, *, device: torch.device | None = None) -> None:
        """Take a model that is loaded already; `device` is where it runs, None where it lies."""
        self.name = name
        self._device = device or model.device
        self._model = model.eval().requires_grad_(False)

    @contextmanager
    def on_device(self) -> Iterator[Any]:
        """Lend the model, which is back at its place afterwards.

        Raises:
            RuntimeError: After `free`.
        """
        model = self._model
        if model is None:
            raise RuntimeError(
                f"Encoding a text needs the text encoder, which {self.name!r} has freed: encode "
                "all texts before free_text_encoder(), or load the prior again."
            )
        home = model.device
        # A GPU may be named with its number or without.
        if home.type == self._device.type:
            yield model
            return
        try:
            yield model.to(self._device)
        finally:
            model.to(home)
            _release_memory()

    def free(self) -> None:
        """Drop the model from memory."""
        self._model = None
        _release_memory()


class TextEncoder(FreedEncoder):
    """A text encoder with its tokenizer."""

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        states: Callable[..., Tensor],
        *,
        device: torch.device | None = None,
    ) -> None:
        """Take a model that is loaded already.

        Args:
            name: Name of the prior, for messages.
            model: The encoder.
            tokenizer: Its tokenizer.
            states: The function that encodes, such as `clip_states`.
            device: Where the model runs, to which it is moved while it encodes; None means where
                its weights are.
        """
        super().__init__(name, model, device=device)
        self._tokenizer, self._states = tokenizer, states

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "r *shape"]:
        """Encode prompts, float32, one row per prompt.

        Raises:
            ValueError: If there is no prompt, or prompts is one string.
            RuntimeError: After `free`.
        """
        with self.on_device() as model:
            return self._states(model, self._tokenizer, prompts, name=self.name).float()


def _release_memory() -> None:
    """Let other processes, and parts of a model of other sizes, have memory that is free."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_prompts(prompts: Sequence[str]) -> None:
    """Check that there is a prompt.

    Raises:
        ValueError: If there is none, or prompts is one string.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts needs a sequence of at least one string, got {prompts!r}.")


def _tokens(tokenizer: Any, prompts: Sequence[str], *, limit: int, name: str) -> Any:
    check_prompts(prompts)
    _warn_of_cuts(tokenizer, prompts, limit=limit, name=name)
    return tokenizer(
        list(prompts),
        padding="max_length",
        max_length=limit,
        truncation=True,
        return_tensors="pt",
    )


def _warn_of_cuts(tokenizer: Any, prompts: Sequence[str], *, limit: int, name: str) -> None:
    # Special tokens take some of the places: CLIP has two (begin and end), T5 one (end).
    room = limit - tokenizer.num_special_tokens_to_add()
    ids = tokenizer(list(prompts), add_special_tokens=False, verbose=False).input_ids
    for prompt, tokens in zip(prompts, ids, strict=True):
        if cut := tokens[room:]:
            lost = tokenizer.decode(cut)
            warnings.warn(
                f"The prompt {prompt!r} has {len(tokens)} tokens, {name!r} reads "
                f"{room}: {lost!r} is cut off.",
                stacklevel=7,
            )
