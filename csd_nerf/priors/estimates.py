"""Evaluates `Terms` (guidance and residuals as weighted sums) with a prior, in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.copies import sent
from csd_nerf.core.residuals import Estimate, Latent, Terms, Text
from csd_nerf.core.rows import PICTURES, SECOND, Rows, on_device, take_rows
from csd_nerf.core.structure import STRUCTURE_ROWS
from csd_nerf.priors.base import Branch, Prior, at_once, ranks_of

PICTURES_AT_ONCE = 8
"""Source images that are handed to a text encoder together, for `Texts.encode`."""


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
        prompts: Sequence[str | Sequence[str]],
        *,
        negative_prompt: str = "",
        source_prompt: str | None = None,
        image_rows: Iterable[Rows] = ({},),
    ) -> Texts:
        """Encode the texts of an edit.

        Args:
            prior: Whose text encoder to use.
            prompts: One or more instructions; each is one for all particles, or one per particle.
            negative_prompt: Replaces the empty text.
            source_prompt: Description of the source; None if no residual needs it.
            image_rows: Rows of `Prior.encode_source` for all particles, in one part or several of
                more than one particle each (but the last). Only `PICTURES` are used, by priors
                whose text encoder sees them; texts then have one row per particle.
        """
        asked = [[prompt] if isinstance(prompt, str) else [*prompt] for prompt in prompts]
        texts = [*asked, [negative_prompt], *([] if source_prompt is None else [[source_prompt]])]
        parts = []
        for rows in image_rows:
            seen = {name: rows[name] for name in PICTURES if name in rows} or None
            parts.append([prior.encode_text(text, seen) for text in texts])
        found = [_joined(of_text) for of_text in zip(*parts, strict=True)]
        count = len(asked)
        return cls(found[:count], found[count], *found[count + 1 :])

    def of_particles(self, index: Int[Tensor, "m"] | slice) -> Texts:
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
    """Conditions from the source images; see `Prior.encode_source`. Those of `STRUCTURE_ROWS` are
    shown to every estimate, the others to estimates with the image."""
    texts: Texts
    shares: Float[Tensor, "n prompts"]
    """Share of each instruction in each particle. If a row sums to less than one, the rest of
    the weight goes to the terms' `text_without_prompt`."""
    reference_rows: Rows = field(default_factory=dict)
    """A second image, shown to the target's estimates with the image; see `second_reference`."""

    def of_particles(self, index: Int[Tensor, "m"] | slice) -> ModelInputs:
        """The inputs for some of the particles, by their places."""
        return ModelInputs(
            {name: rows[on_device(rows, index)] for name, rows in self.noisy.items()},
            take_rows(self.image_rows, index),
            self.texts.of_particles(index),
            self.shares[index],
            self.reference_rows,
        )


def weighted_sum(
    prior: Prior,
    terms: Terms,
    inputs: ModelInputs,
    timestep: Real[Tensor, "n"],
    *,
    drawn: Float[Tensor, "n c h w"] | None = None,
    max_batch: int | None = None,
    velocity: bool = False,
    only: Latent | None = None,
) -> tuple[Float[Tensor, "n c h w"], int]:
    """Evaluate the noise estimates of terms for n particles in one batch, and sum them up.

    An estimate is evaluated only for particles in which its weight is not zero. A prior may bound
    what guidance does to its estimates (`FlowPrior.bound_guidance`). If ranks share the prior, each
    evaluates its share of the particles, and all get all sums.

    Args:
        prior: The diffusion model.
        terms: The weights of the sum.
        inputs: The model's inputs.
        timestep: One per particle, on the latents' device.
        drawn: The drawn noise; required if `terms.noise` is not zero.
        max_batch: Largest number of evaluations in one call of the model; None means no limit.
        velocity: Sum a flow's velocities in place of noises. If the weights sum to one, that is the
            velocity of the same sum of noises.
        only: Sum up the estimates for this latent alone, with the drawn noise for the target. The
            sums for both latents add up to the whole.

    Returns:
        The sum, and the number of model evaluations that it took.
    """
    asked = _Sum(prior, terms, max_batch=max_batch, velocity=velocity, only=only)
    ranks = ranks_of(prior)
    if ranks.count == 1:
        return asked.of(inputs, timestep, drawn)

    def of_share(part: slice) -> dict[str, Tensor]:
        own = inputs.of_particles(part)
        if part.start == part.stop:
            return {"sum": own.noisy[terms.latents[0]]}
        found, _ = asked.of(own, timestep[part], None if drawn is None else drawn[part])
        return {"sum": found}

    count = sum(int(weight.count_nonzero()) for weight in asked.weights(inputs).values())
    return ranks.shared(len(timestep), of_share)["sum"], count


class _Key(NamedTuple):
    """An estimate, and the number of the instruction if its text is one."""

    estimate: Estimate
    prompt: int | None = None


_Weights = dict[_Key, Tensor]
"""The weight of each estimate in every particle."""


def _weights(
    weights: Mapping[Estimate, float], inputs: ModelInputs, *, without_prompt: Text
) -> _Weights:
    """The weight of each estimate in every particle, without zeros; instructions come last."""
    rest = 1 - inputs.shares.sum(1)
    # Shares may sum to one only up to rounding, which must not cost an evaluation.
    rest = rest.where(rest > 1e-5, 0.0)
    one = torch.ones(len(inputs.shares))
    plain: _Weights = {}
    prompted: _Weights = {}
    for estimate, weight in weights.items():
        factor = one
        if estimate.text == "prompt":
            for number, share in enumerate(inputs.shares.T):
                prompted[_Key(estimate, number)] = weight * share
            if not rest.any():
                continue
            factor, estimate = rest, estimate._replace(text=without_prompt)
        key = _Key(estimate)
        plain[key] = plain.get(key, 0.0) + weight * factor
    return {key: weight for key, weight in (plain | prompted).items() if weight.any()}


def _add_weighted(
    total: Float[Tensor, "n c h w"], weights: _Weights, found: Mapping[_Key, Tensor]
) -> Float[Tensor, "n c h w"]:
    for key, weight in weights.items():
        total = total + sent(weight, total.device)[:, None, None, None] * found[key]
    return total


@dataclass(frozen=True)
class _Sum:
    """What `weighted_sum` is asked for, whichever particles it is of."""

    prior: Any
    terms: Terms
    max_batch: int | None
    velocity: bool
    only: Latent | None

    def of(
        self,
        inputs: ModelInputs,
        timestep: Real[Tensor, "n"],
        drawn: Float[Tensor, "n c h w"] | None,
    ) -> tuple[Float[Tensor, "n c h w"], int]:
        """The sum for these particles, in this process, and its evaluations."""
        weights = self.weights(inputs)
        branches = [_branch(key, inputs, weight) for key, weight in weights.items()]
        evaluate = self.prior.predict_velocity if self.velocity else self.prior.predict
        estimates = evaluate(branches, timestep, max_batch=self.max_batch)
        found = dict(zip(weights, estimates, strict=True))
        total = torch.zeros_like(estimates[0])
        if self.terms.noise and self.only != "source":
            assert drawn is not None, "terms with the drawn noise need it"
            total = self.terms.noise * drawn
        if getattr(self.prior, "bounds_guidance", False):
            latents: list[Latent] = self.terms.latents if self.only is None else [self.only]
            for latent in latents:
                total = total + self._bounded(latent, found, inputs, timestep)
        else:
            total = _add_weighted(total, weights, found)
        return total, sum(branch.evaluations for branch in branches)

    def weights(self, inputs: ModelInputs) -> _Weights:
        """The weight of each estimate in every particle, of all latents or of one."""
        found = self._weights_of(self.terms.weights, inputs)
        return {k: weight for k, weight in found.items() if self.only in (None, k.estimate.latent)}

    def _weights_of(self, weights: Mapping[Estimate, float], inputs: ModelInputs) -> _Weights:
        return _weights(weights, inputs, without_prompt=self.terms.text_without_prompt)

    def _bounded(
        self,
        latent: Latent,
        found: Mapping[_Key, Tensor],
        inputs: ModelInputs,
        timestep: Real[Tensor, "n"],
    ) -> Float[Tensor, "n c h w"]:
        """The part of the sum that is for one latent, with guidance as the prior bounds it."""
        own = {one: w for one, w in self.terms.weights.items() if one.latent == latent}
        aim = {self.terms.most_conditional(latent): 1.0}
        zeros = torch.zeros_like(inputs.noisy[latent])
        guided, aimed = (self._weights_of(some, inputs) for some in (own, aim))
        share, unbounded = sum(own.values()), _add_weighted(zeros, guided, found)
        # Weights can cancel, so that an estimate that guidance leads to is not evaluated.
        if not share or not aimed.keys() <= found.keys():
            return unbounded
        pair = (unbounded / share, _add_weighted(zeros, aimed, found))
        if self.velocity:
            return share * self.prior.bound_guidance(*pair)
        noisy, schedule = inputs.noisy[latent], self.prior.schedule
        velocities = [schedule.velocity_of_noise(one, noisy, timestep) for one in pair]
        bounded = self.prior.bound_guidance(*velocities)
        return share * schedule.noise_of_velocity(bounded, noisy, timestep)


def _branch(key: _Key, inputs: ModelInputs, weight: Float[Tensor, "n"]) -> Branch:
    estimate, texts = key.estimate, inputs.texts
    if key.prompt is not None:
        text = texts.prompts[key.prompt]
    else:
        text = texts.source if estimate.text == "source" else texts.empty
    assert text is not None, "a residual with the source's text needs a source prompt"
    shown = {
        name: row
        for name, row in inputs.image_rows.items()
        if estimate.image or name in STRUCTURE_ROWS
    }
    if estimate.image and estimate.latent == "target":
        shown |= inputs.reference_rows
    particles = None if weight.all() else weight.nonzero()[:, 0]
    return Branch(inputs.noisy[estimate.latent], {**text, **shown}, particles)


def _joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all particles from those of several parts; shared rows are those of the first."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return {
        name: torch.cat([part[name] for part in parts]) if len(rows) > 1 else rows
        for name, rows in first.items()
    }


def second_reference(prior: Prior, image01: Float[Tensor, "1 3 H W"]) -> dict[str, Tensor]:
    """Rows by which all particles see one more image beside their sources.

    Raises:
        ValueError: If the prior's model sees the source image alone.
    """
    if not getattr(prior, "second_rows", ()):
        raise ValueError(
            f"A second reference needs a prior that takes two images, got {prior.name!r}; take "
            "flux2-klein or qwen-image-edit, or leave the reference out."
        )
    return {name + SECOND: row for name, row in prior.encode_source(image01)[1].items()}


def encode_sources(
    prior: Prior, image01: Float[Tensor, "n 3 H W"], *, max_batch: int | None = None
) -> tuple[Float[Tensor, "n c h w"], dict[str, Tensor]]:
    """Call `Prior.encode_source` on many images, at most `max_batch` at a time; None means all."""
    size = at_once(prior, max_batch, total=len(image01))
    parts = [prior.encode_source(part) for part in image01.split(size)]
    latents = torch.cat([latent for latent, _ in parts])
    return latents, {name: torch.cat([rows[name] for _, rows in parts]) for name in parts[0][1]}
