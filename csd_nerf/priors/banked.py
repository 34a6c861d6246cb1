"""Sums of estimates of which the source's part may come from a bank; see `csd_nerf.core.bank`."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.bank import Drawn, SourceBank
from csd_nerf.core.copies import sent
from csd_nerf.core.residuals import Terms
from csd_nerf.priors.base import Prior
from csd_nerf.priors.estimates import ModelInputs, weighted_sum


def banked_sum(
    prior: Prior,
    terms: Terms,
    inputs: ModelInputs,
    timestep: Int[Tensor, "n"],
    *,
    index: Int[Tensor, "n"],
    drawn: Drawn,
    own_noise: Float[Tensor, "n c h w"],
    bank: SourceBank | None,
    max_batch: int | None = None,
) -> tuple[Float[Tensor, "n c h w"], int]:
    """As `weighted_sum`, but the source's estimates are computed once for each pair of a bank.

    Args:
        prior: The diffusion model.
        terms: The weights of the sum.
        inputs: The model's inputs.
        timestep: One per particle, all the same.
        index: Numbers of the particles on their canvas, on the CPU.
        drawn: What was drawn for them; with a bank from it.
        own_noise: The drawn noise of the target, if it is another one than the source's.
        bank: None computes everything.
        max_batch: Largest number of evaluations in one call of the model; None means no limit.

    Returns:
        The sum, and the number of model evaluations that it took.
    """
    if bank is None:
        return weighted_sum(prior, terms, inputs, timestep, drawn=own_noise, max_batch=max_batch)
    assert drawn.pair is not None
    count, of_noise = 0, terms.sum_of("source")
    if len(new := bank.missing(drawn.pair, index)):
        found, count = weighted_sum(
            prior,
            terms,
            inputs.of_particles(new),
            timestep[: len(new)],
            max_batch=max_batch,
            only="source",
        )
        noise = drawn.noise[sent(new, drawn.noise.device)]
        bank.keep(drawn.pair, index[new], found - of_noise * noise)
    target, more = weighted_sum(
        prior, terms, inputs, timestep, drawn=own_noise, max_batch=max_batch, only="target"
    )
    return target + (bank.read(drawn.pair, index) + of_noise * drawn.noise), count + more
