"""Guidance and the residuals of score distillation, as tables of noise estimates.

The model's input is the noisy target (the image being edited) or the noisy source, with or without
the source image as a condition, and one of three texts. Each combination is an `Estimate`. Guidance
and residuals are weighted sums of estimates and of the drawn noise. A `Terms` holds the weights; it
supports `+`, `-` and `*`, so that the functions below read like the equations. Only estimates with
a weight are evaluated.

Sign: a residual points to where the energy rises; callers descend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Latent = Literal["target", "source"]
Text = Literal["prompt", "empty", "source"]
ResidualName = Literal["csd", "sds", "dds"]


class Estimate(NamedTuple):
    """One noise estimate of the model, identified by the model's inputs."""

    latent: Latent
    """Which latent is noised: the target's or the source's; both get the same noise."""
    image: bool
    """Whether the source image is a condition."""
    text: Text
    """prompt: the user's instruction or description; empty: the empty or the negative text; source:
    the description of the source."""


@dataclass(frozen=True)
class Terms:
    """A weighted sum of noise estimates and of the drawn noise."""

    weights: Mapping[Estimate, float] = field(default_factory=dict)
    """Weight of each estimate; estimates of weight zero are left out."""
    noise: float = 0.0
    """Weight of the drawn noise e."""

    def __add__(self, other: Terms) -> Terms:
        """The sum of both."""
        names = dict.fromkeys([*self.weights, *other.weights])
        sums = {n: self.weights.get(n, 0.0) + other.weights.get(n, 0.0) for n in names}
        return Terms({n: w for n, w in sums.items() if w}, self.noise + other.noise)

    def __rmul__(self, factor: float) -> Terms:
        """All weights times a factor."""
        scaled = {name: factor * weight for name, weight in self.weights.items() if factor}
        return Terms(scaled, factor * self.noise)

    def __sub__(self, other: Terms) -> Terms:
        """The difference."""
        return self + -1.0 * other

    @property
    def latents(self) -> list[Latent]:
        """The latents that estimates are for, in the order of the estimates."""
        return [*dict.fromkeys(estimate.latent for estimate in self.weights)]

    def most_conditional(self, latent: Latent) -> Estimate:
        """The estimate for a latent that has the most conditions: the one guidance leads to."""
        texts = ("empty", "source", "prompt")
        own = [estimate for estimate in self.weights if estimate.latent == latent]
        return max(own, key=lambda estimate: (texts.index(estimate.text), estimate.image))

    def sum_of(self, latent: Latent) -> float:
        """The sum of the weights of all estimates for a latent."""
        return sum(weight for name, weight in self.weights.items() if name.latent == latent)

    @property
    def needs_image(self) -> bool:
        """Whether any estimate is conditioned on the source image."""
        return any(estimate.image for estimate in self.weights)

    @property
    def needs_source_latent(self) -> bool:
        """Whether any estimate is for the noisy source."""
        return any(estimate.latent == "source" for estimate in self.weights)

    @property
    def needs_source_text(self) -> bool:
        """Whether any estimate is conditioned on the description of the source."""
        return any(estimate.text == "source" for estimate in self.weights)

    @property
    def text_without_prompt(self) -> Text:
        """The text that replaces the prompt where a particle has no prompt.

        It is the description of the source if the terms use one, else the empty text. The `csd`
        and `dds` residuals of an unedited particle are then zero, so that a particle without
        prompt stays as it is. With the drawn noise among the terms (`sds`, or a `source_share`
        below 1) they are not zero.
        """
        return "source" if self.needs_source_text else "empty"


def estimate(latent: Latent, *, image: bool, text: Text) -> Terms:
    """Terms of a single estimate, with weight one."""
    return Terms({Estimate(latent, image, text): 1.0})


DRAWN_NOISE = Terms(noise=1.0)
"""Terms of the drawn noise e alone, with weight one."""


def text_guidance(latent: Latent, text: Text, *, text_scale: float) -> Terms:
    """Classifier-free guidance, CSD Eq. 2; with scale 1 only the conditional estimate is left."""
    null = estimate(latent, image=False, text="empty")
    conditional = estimate(latent, image=False, text=text)
    return null + text_scale * (conditional - null)


def image_guidance(latent: Latent, *, image_scale: float) -> Terms:
    """Guidance by the source image alone: CSD Eq. 3 without its text term."""
    null = estimate(latent, image=False, text="empty")
    image = estimate(latent, image=True, text="empty")
    return null + image_scale * (image - null)


def edit_guidance(latent: Latent, *, image_scale: float, text_scale: float) -> Terms:
    """Guidance by source image and instruction, CSD Eq. 3.

    Args:
        latent: Which noisy latent is the model's input.
        image_scale: w_s; how closely the source image is kept.
        text_scale: w_y; how strongly the instruction is followed.
    """
    image = estimate(latent, image=True, text="empty")
    prompt = estimate(latent, image=True, text="prompt")
    return image_guidance(latent, image_scale=image_scale) + text_scale * (prompt - image)


def baseline(source: Terms, *, source_share: float) -> Terms:
    """What a residual subtracts: a mixture of the source's estimate and the drawn noise.

    The residual at a timestep t is

        r_s = a - s b - (1 - s) e = u - s v,    u = a - e,    v = b - e,

    with the drawn noise e, the guided estimate a for the noisy target alpha_t x + sigma_t e, the
    estimate b for the noisy source alpha_t x~ + sigma_t e, and the share s. All are in units of the
    noise, whose rms is 1. s = 0 is SDS; s = 1 is CSD-Edit, or DDS.

    The source's estimate is a control variate of SDS: u and v contain the same e, so their errors
    are alike, and subtracting a share of v makes steps less noisy. Let x, x~, the conditions and t
    be fixed, so that only e is random. With variances and covariances summed over the coordinates,

        Var r_s = Var u - 2 s Cov(u, v) + s^2 Var v,

    which is least, Var u - Cov(u, v)^2 / Var v, at

        s* = Cov(u, v) / Var v.

    The more alike the errors of the two estimates, the nearer s* is to 1; if u = v, s* = 1 and the
    variance is zero. With the bundled prior s* at the true edit falls with t, from 0.9 at a tenth
    of the schedule to 0 at three quarters; docs/evaluation.md has the figures and the command.

    A control variate should have the mean zero. E[v] is zero on average over sources of the
    prior's distribution if the model is exact and unguided; for a single source it is not. So s
    also moves the mean, E[r_s] = E[u] - s E[v]: the least variance need not give the best edit.

    Args:
        source: The source's guided estimate.
        source_share: s, from 0 to 1. With 0 the source is not evaluated.
    """
    return source_share * source + (1.0 - source_share) * DRAWN_NOISE


def csd_edit(*, image_scale: float, text_scale: float, source_share: float = 1.0) -> Terms:
    """Residual of CSD-Edit, CSD Eq. 9.

    The guided estimate for the noisy target, minus the estimate for the noisy source (same noise,
    same timestep) guided by the source image alone. For an unedited particle only the text term is
    left. This takes two model evaluations for the source; the authors' release takes three.

    With a `source_share` below 1, which is not in the paper, the drawn noise replaces a part of the
    source's estimate; see `baseline`.
    """
    guided = edit_guidance("target", image_scale=image_scale, text_scale=text_scale)
    source = image_guidance("source", image_scale=image_scale)
    return guided - baseline(source, source_share=source_share)


def sds_edit(
    *,
    image_scale: float,
    text_scale: float,
    source_share: float = 0.0,  # noqa: ARG001
) -> Terms:
    """Residual of SDS with an editing model: the guided estimate of CSD Eq. 3 minus the noise.

    It is `csd_edit` with a `source_share` of 0; its own is ignored.
    """
    return edit_guidance("target", image_scale=image_scale, text_scale=text_scale) - DRAWN_NOISE


def dds_edit(
    *,
    image_scale: float,  # noqa: ARG001
    text_scale: float,
    source_share: float = 1.0,
) -> Terms:
    """Delta Denoising Score as CSD's residual, CSD Appendix A.

    The estimate for the target, guided by the prompt (a description of the result), minus the
    estimate for the source, guided by the description of the source. Both have the same guidance
    scale; the appendix prints the case of scale 1. The source image is no condition, so any
    text-to-image model will do, and `image_scale` is ignored.

    With a `source_share` below 1, which is not in the paper, the drawn noise replaces a part of the
    source's estimate; see `baseline`. With 0 it is SDS with a text-to-image model (CSD Eq. 5).
    """
    guided = text_guidance("target", "prompt", text_scale=text_scale)
    source = text_guidance("source", "source", text_scale=text_scale)
    return guided - baseline(source, source_share=source_share)


def generation(*, text_scale: float) -> Terms:
    """Residual of generation from a text, as in CSD Eq. 8 and in SDS (Eq. 5)."""
    return text_guidance("target", "prompt", text_scale=text_scale) - DRAWN_NOISE


EDIT_RESIDUALS: dict[ResidualName, Callable[..., Terms]] = {
    "csd": csd_edit,
    "sds": sds_edit,
    "dds": dds_edit,
}
"""The residuals of an edit by name; each function takes `image_scale`, `text_scale` and
`source_share`."""


def prompt_shares(
    weights: Float[Tensor, "size k"] | None, *, size: int, prompts: int
) -> Float[Tensor, "size {prompts}"]:
    """Check the share of each prompt in each particle; None gives equal shares, 1 / `prompts`.

    Raises:
        ValueError: If the shape isn't (size, prompts), a share is negative, or a row sums to more
            than one.
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
