"""Evaluates `Terms` (guidance and residuals as weighted sums) with a prior, in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.residuals import Estimate, Terms
from csd_nerf.core.rows import Rows, take_rows
from csd_nerf.priors.base import Branch, Prior


@dataclass(frozen=True)
class Texts:
    """The encoded texts of an edit; each is one row for all particles or one row per particle."""

    prompts: Sequence[Rows]
    """The instructions."""
    empty: Rows
    """The empty text, or the negative prompt that replaces it."""
    source: Rows | None = None
    """A description of the source; None if no residual needs it."""

    @classmethod
    def encode(
        cls,
        prior: Prior,
        prompts: Sequence[str],
        *,
        negative_prompt: str = "",
        source_prompt: str | None = None,
        image01: Float[Tensor, "n 3 H W"] | None = None,
    ) -> Texts:
        """Encode the texts of an edit.

        Args:
            prior: Whose text encoder to use.
            prompts: One or more instructions.
            negative_prompt: Replaces the empty text.
            source_prompt: Description of the source; None if no residual needs it.
            image01: Source images, for priors whose text encoder sees them; texts then have one
                row per image.
        """
        return cls(
            [prior.encode_text([prompt], image01) for prompt in prompts],
            prior.encode_text([negative_prompt], image01),
            None if source_prompt is None else prior.encode_text([source_prompt], image01),
        )

    def of_particles(self, index: Int[Tensor, "m"]) -> Texts:
        """Select the rows of some particles; texts shared by all particles stay as they are."""
        source = None if self.source is None else take_rows(self.source, index)
        prompts = [take_rows(prompt, index) for prompt in self.prompts]
        return Texts(prompts, take_rows(self.empty, index), source)


@dataclass(frozen=True)
class ModelInputs:
    """All inputs of the model for n particles, but the timestep."""

    noisy: Mapping[str, Float[Tensor, "n c h w"]]
    """Noisy latents of the `target` and, if the terms use it, of the `source`."""
    image_rows: Rows
    """Conditions from the source images; see `Prior.encode_source`."""
    texts: Texts
    shares: Float[Tensor, "n prompts"]
    """Share of each instruction in each particle. If a row sums to less than one, the rest of
    the weight goes to the terms' `text_without_prompt`."""


def weighted_sum(
    prior: Prior,
    terms: Terms,
    inputs: ModelInputs,
    timestep: Real[Tensor, "n"],
    *,
    drawn: Float[Tensor, "n c h w"] | None = None,
    max_batch: int | None = None,
    evaluate: Callable[..., Float[Tensor, "k n c h w"]] | None = None,
) -> tuple[Float[Tensor, "n c h w"], int]:
    """Evaluate the noise estimates of terms for n particles in one batch, and sum them up.

    An estimate is evaluated only for particles in which its weight is not zero.

    Args:
        prior: The diffusion model.
        terms: The weights of the sum.
        inputs: The model's inputs.
        timestep: One per particle, on the latents' device.
        drawn: The drawn noise; required if `terms.noise` is not zero.
        max_batch: Largest number of evaluations in one call of the model; None means no limit.
        evaluate: Evaluates branches; None takes `Prior.predict`. If the weights sum to one, a sum
            of velocities is the velocity of the same sum of noises.

    Returns:
        The sum, and the number of model evaluations that it took.
    """
    weighted = _branches(terms, inputs)
    branches = [branch for _, branch in weighted]
    estimates = (evaluate or prior.predict)(branches, timestep, max_batch=max_batch)
    total = torch.zeros_like(estimates[0])
    if terms.noise:
        assert drawn is not None, "terms with the drawn noise need it"
        total = terms.noise * drawn
    for (weight, _), one in zip(weighted, estimates, strict=True):
        total = total + weight.to(one.device, non_blocking=True)[:, None, None, None] * one
    return total, sum(branch.evaluations for branch in branches)


def _branches(terms: Terms, inputs: ModelInputs) -> list[tuple[Float[Tensor, "n"], Branch]]:
    """All branches to evaluate, each with its weight in every particle; prompts come last."""
    without_prompt = 1 - inputs.shares.sum(1)
    # Shares may sum to one only up to rounding, which must not cost an evaluation.
    without_prompt = without_prompt.where(without_prompt > 1e-5, 0.0)
    one = torch.ones(len(inputs.shares))
    plain: dict[Estimate, Float[Tensor, "n"]] = {}
    prompted: list[tuple[Float[Tensor, "n"], Estimate, Rows]] = []
    for estimate, weight in terms.weights.items():
        if estimate.text == "prompt":
            for text, share in zip(inputs.texts.prompts, inputs.shares.T, strict=True):
                prompted.append((weight * share, estimate, text))
            if not without_prompt.any():
                continue
            estimate = estimate._replace(text=terms.text_without_prompt)
            plain[estimate] = plain.get(estimate, 0.0) + weight * without_prompt
        else:
            plain[estimate] = plain.get(estimate, 0.0) + weight * one
    texts = {"empty": inputs.texts.empty, "source": inputs.texts.source}
    alone = [(weight, estimate, texts[estimate.text]) for estimate, weight in plain.items()]
    return [
        (weight, _branch(estimate, text, inputs, weight))
        for weight, estimate, text in [*alone, *prompted]
        if weight.any()
    ]


def _branch(
    estimate: Estimate, text: Rows | None, inputs: ModelInputs, weight: Float[Tensor, "n"]
) -> Branch:
    assert text is not None, "a residual with the source's text needs a source prompt"
    rows = {**text, **(inputs.image_rows if estimate.image else {})}
    particles = None if weight.all() else weight.nonzero()[:, 0]
    return Branch(inputs.noisy[estimate.latent], rows, particles)


def encode_sources(
    prior: Prior, image01: Float[Tensor, "n 3 H W"], *, max_batch: int | None = None
) -> tuple[Float[Tensor, "n c h w"], dict[str, Tensor]]:
    """Call `Prior.encode_source` on many images, at most `max_batch` at a time; None means all."""
    parts = [prior.encode_source(part) for part in image01.split(max_batch or len(image01))]
    latents = torch.cat([latent for latent, _ in parts])
    return latents, {name: torch.cat([rows[name] for _, rows in parts]) for name in parts[0][1]}
