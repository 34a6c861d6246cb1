"""Guidance and the residuals of score distillation: linear combinations of noise estimates.

Symbols, for one noisy latent z_t:
    null: e(z_t), with neither image nor text (a negative prompt takes the empty text's place).
    image: e(z_t; s), with the source image and the empty text.
    text: e(z_t; s, y), with the source image and the instruction.

Sign: a residual points to where the energy rises; callers descend.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Baseline = Literal["source", "noise"]


def classifier_free(
    null: Float[Tensor, "*shape"], conditional: Float[Tensor, "*shape"], *, scale: float
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance, CSD Eq. 2; scale 1 is the conditional estimate alone."""
    return null + scale * (conditional - null)


def guided_noise(
    null: Float[Tensor, "*shape"],
    image: Float[Tensor, "*shape"],
    text: Float[Tensor, "*shape"],
    *,
    image_scale: float,
    text_scale: float,
) -> Float[Tensor, "*shape"]:
    """Guidance by source image and instruction, CSD Eq. 3.

    Args:
        null: Estimate with neither image nor text.
        image: Estimate with the source image alone.
        text: Estimate with the source image and the instruction.
        image_scale: w_s; how closely the source image is kept.
        text_scale: w_y; how strongly the instruction is followed.
    """
    return null + image_scale * (image - null) + text_scale * (text - image)


def composed_noise(
    estimates: Float[Tensor, "k n *shape"], weights: Float[Tensor, "n k"]
) -> Float[Tensor, "n *shape"]:
    """One estimate for several instructions, CSD Appendix C.1.

    Args:
        estimates: An estimate an instruction and particle.
        weights: Share of each instruction in each particle; rows sum to one.
    """
    shares = weights.T.to(estimates).view(*estimates.shape[:2], *[1] * (estimates.ndim - 2))
    return (shares * estimates).sum(0)


def prompt_shares(
    weights: Float[Tensor, "size k"] | None, *, size: int, prompts: int
) -> Float[Tensor, "size {prompts}"]:
    """Checked shares of each instruction in each particle; equal ones where None is given.

    Raises:
        ValueError: If the shape doesn't fit, a share is negative, or a row sums to more than one.
    """
    if weights is None:
        return torch.full((size, prompts), 1 / prompts)
    if weights.shape != (size, prompts) or (weights < 0).any() or (weights.sum(1) > 1 + 1e-5).any():
        raise ValueError(
            f"prompt_weights needs a row for each of {size} particles and a column for each of "
            f"{prompts} prompts, no less than zero, rows summing to one at most, got shape "
            f"{tuple(weights.shape)} with row sums {weights.sum(1).tolist()}."
        )
    return weights


def generation_residual(
    null: Float[Tensor, "*shape"],
    text: Float[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    *,
    text_scale: float,
) -> Float[Tensor, "*shape"]:
    """Guided estimate less the noise that was drawn: CSD Eq. 8, and Eq. 5 of SDS."""
    return classifier_free(null, text, scale=text_scale) - noise


def edit_residual(
    null: Float[Tensor, "*shape"],
    image: Float[Tensor, "*shape"],
    text: Float[Tensor, "*shape"],
    source_null: Float[Tensor, "*shape"],
    source_image: Float[Tensor, "*shape"],
    *,
    image_scale: float,
    text_scale: float,
) -> Float[Tensor, "*shape"]:
    """Residual of CSD-Edit, CSD Eq. 9.

    The baseline is the estimate for the noisy source (same noise, same timestep) that sees the
    source image and no instruction, so that an unedited particle is moved by the instruction
    alone. It takes two estimates of the source; the authors' release runs three.

    Args:
        null: Target's estimate with neither image nor text.
        image: Target's estimate with the source image alone.
        text: Target's estimate with the source image and the instruction.
        source_null: Source's estimate with neither image nor text.
        source_image: Source's estimate with the source image alone.
        image_scale: w_s of Eq. 3.
        text_scale: w_y of Eq. 3.
    """
    target = guided_noise(null, image, text, image_scale=image_scale, text_scale=text_scale)
    return target - classifier_free(source_null, source_image, scale=image_scale)


def dds_residual(
    null: Float[Tensor, "*shape"],
    text: Float[Tensor, "*shape"],
    source_null: Float[Tensor, "*shape"],
    source_text: Float[Tensor, "*shape"],
    *,
    text_scale: float,
) -> Float[Tensor, "*shape"]:
    """Delta Denoising Score as CSD's residual, CSD Appendix A.

    The target sees the target's prompt, the source its own; both are guided by the same scale
    (the appendix prints the case of scale 1).
    """
    target = classifier_free(null, text, scale=text_scale)
    return target - classifier_free(source_null, source_text, scale=text_scale)


class EditWeights(NamedTuple):
    """The edit residual's coefficient of each estimate; an exact zero needs no estimate."""

    null: float
    image: float
    text: float
    source_null: float
    source_image: float
    noise: float


def edit_weights(
    *, image_scale: float, text_scale: float, baseline: Baseline = "source"
) -> EditWeights:
    """Coefficients of Eq. 9 (baseline "source"), or of Eq. 3 less the noise ("noise", SDS)."""
    from_source = baseline == "source"
    return EditWeights(
        null=1 - image_scale,
        image=image_scale - text_scale,
        text=text_scale,
        source_null=image_scale - 1 if from_source else 0.0,
        source_image=-image_scale if from_source else 0.0,
        noise=0.0 if from_source else -1.0,
    )
