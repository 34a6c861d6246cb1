"""The one optimisation loop of CSD-Edit; every domain goes through it.

An iteration draws a batch of particles x_i, one timestep t for all of them and their noise e_i
(a canvas may keep both for as many batches as it takes to go over everything once),
asks the prior for every guidance branch at once, and descends: x_i <- x_i - rate w(t) g_i, where
g_i is the Stein direction of the edit residuals (CSD Eq. 9). w(t) = sigma_t^2 is kept in every
variant; the authors' release drops it for images without mixing. Nothing in the loop waits for
the device but a look every few iterations at whether all gradients were finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from csd_nerf.core.canvas import Canvas, ImageStack
from csd_nerf.core.finite import FiniteWatch
from csd_nerf.core.guidance import EditWeights, edit_weights, prompt_shares
from csd_nerf.core.kernels import median_bandwidth
from csd_nerf.core.randomness import Randomness, SeededRandomness
from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.stein import stein_direction
from csd_nerf.priors.base import Branch, Prior, Text

Preview = Callable[[], Float[Tensor, "n 3 H W"]]
"""Decodes the images as they are now."""

__all__ = ["EditResult", "EditSettings", "edit", "edit_images"]

CHECK_EVERY = 10
"""Iterations between two looks at whether all gradients were finite; each waits for the device."""


@dataclass(frozen=True)
class EditResult:
    """Outcome of `edit_images`; tensors lie on the prior's device."""

    image01: Float[Tensor, "n 3 H W"]
    """The edited images."""
    latent: Float[Tensor, "n c h w"]
    """Their latents, before decoding."""
    source_latent: Float[Tensor, "n c h w"]
    """The source's latents; decoded, they are the source after a round trip."""
    evaluations: int
    """Model evaluations: one for each particle, guidance branch and iteration."""
    seconds: float
    """Wall-clock time of the optimisation, without encoding and decoding."""


@torch.no_grad()
def edit_images(
    prior: Prior,
    source01: Float[Tensor, "n 3 H W"],
    *,
    prompt: str | Sequence[str],
    prompt_weights: Float[Tensor, "n k"] | None = None,
    negative_prompt: str = "",
    settings: EditSettings,
    generator: torch.Generator,
    start01: Float[Tensor, "n 3 H W"] | None = None,
    progress: str | None = None,
    callback: Callable[[int, int, Preview], None] | None = None,
    callback_every: int = 20,
) -> EditResult:
    """Edit images together by an instruction.

    Args:
        prior: The diffusion model.
        source01: The images to keep to; heights and widths in multiples of
            `prior.size_multiple`.
        prompt: The instruction; several are composed by `prompt_weights` (Appendix C.1).
        prompt_weights: Share of each instruction in each image; rows sum to one. None means
            equal shares.
        negative_prompt: Takes the place of the empty text.
        settings: How to optimise.
        generator: Source of randomness, on the CPU.
        start01: Where to start from; None means the source.
        progress: Label of a progress bar on stderr; None means no bar.
        callback: Called with the iterations done, their total, and a function that decodes the
            images as they are.
        callback_every: Iterations between calls.

    Raises:
        ValueError: If sizes or weights don't fit.
        FloatingPointError: If a gradient isn't finite.
    """
    _check_sizes(prior, source01, start01)

    def encode(image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        parts = image01.split(settings.max_batch or len(image01))
        return torch.cat([prior.encode(part) for part in parts]).to(prior.device)

    def decode() -> Float[Tensor, "n 3 H W"]:
        parts = stack.latent.split(settings.max_batch or stack.size)
        return torch.cat([prior.decode(part) for part in parts])

    def after_step(done: int, total: int) -> None:
        if callback is not None and done % callback_every == 0:
            callback(done, total, decode)

    parts = [
        prior.encode_source(part) for part in source01.split(settings.max_batch or len(source01))
    ]
    source, condition = (torch.cat(whole).to(prior.device) for whole in zip(*parts, strict=True))
    start = source.clone() if start01 is None else encode(start01)
    stack = ImageStack(start, source, condition, settings.batch_size)
    began = perf_counter()
    evaluations = edit(
        prior,
        stack,
        prompts=[prompt] if isinstance(prompt, str) else prompt,
        prompt_weights=prompt_weights,
        negative_prompt=negative_prompt,
        settings=settings,
        randomness=SeededRandomness(generator),
        progress=progress,
        after_step=after_step,
    )
    seconds = perf_counter() - began
    return EditResult(decode(), stack.latent, source, evaluations, seconds)


@torch.no_grad()
def edit(
    prior: Prior,
    canvas: Canvas,
    *,
    prompts: Sequence[str],
    prompt_weights: Float[Tensor, "size k"] | None = None,
    negative_prompt: str = "",
    settings: EditSettings,
    randomness: Randomness,
    start: int = 0,
    progress: str | None = None,
    after_step: Callable[[int, int], None] | None = None,
) -> int:
    """Optimise a canvas in place.

    Args:
        prior: The diffusion model.
        canvas: What is edited.
        prompts: One or more instructions.
        prompt_weights: Share of each instruction in each particle of the canvas. What a row lacks
            to one is a share without instruction, which takes the estimate with the source image
            alone. None means equal shares.
        negative_prompt: Takes the place of the empty text.
        settings: How to optimise; `batch_size` is the canvas's affair.
        randomness: Drawn from for an iteration's batch, timestep and noise, in this order.
        start: First iteration: the number that is done already, to go on with an edit.
        progress: Label of a progress bar on stderr; None means no bar.
        after_step: Called with the iterations done and their total.

    Returns:
        Number of model evaluations.

    Raises:
        ValueError: If the weights don't fit.
        FloatingPointError: If a gradient isn't finite; names iteration and particles.
    """
    guidance = _Guidance.encode(prior, prompts, negative_prompt, settings)
    shares = prompt_shares(prompt_weights, size=canvas.size, prompts=len(prompts)).cpu()
    low, high = prior.schedule.timestep_bounds(settings.t_range)
    watch = FiniteWatch(canvas.size, prior.device)
    evaluations = 0
    total = settings.iterations
    bar = {"desc": progress, "disable": progress is None, "initial": start, "total": total}
    for iteration in tqdm(range(start, total), **bar):
        index = canvas.draw_batch(randomness)
        timestep = torch.full((len(index),), canvas.draw_timestep(randomness, low, high))
        noise = canvas.draw_noise(index, randomness, shared=settings.noise == "shared")
        particles = canvas.read(index)
        noisy = prior.schedule.add_noise(particles.latent, noise, timestep)
        noisy_source = prior.schedule.add_noise(particles.source, noise, timestep)
        terms = guidance.terms(noisy, noisy_source, particles.condition, shares[index])
        on_device = timestep.to(prior.device, non_blocking=True)
        branches = [branch for _, branch in terms]
        estimates = prior.predict(branches, on_device, max_batch=settings.max_batch)
        evaluations += sum(int(weight.count_nonzero()) for weight, _ in terms)

        residual = guidance.weights.noise * noise
        for (weight, _), estimate in zip(terms, estimates, strict=True):
            weight = weight.to(prior.device, non_blocking=True)
            residual = residual + weight[:, None, None, None] * estimate
        residual = residual.flatten(1)
        t = timestep[0]
        clean = particles.latent.flatten(1)
        direction = _direction(residual, clean, noisy.flatten(1), prior.schedule, t, settings)
        watch.record(iteration, index, residual, direction)
        rate = settings.learning_rate * settings.decay ** (iteration // settings.decay_every)
        step = rate * float(prior.schedule.weight(t)) * direction
        canvas.descend(index, step.view_as(noisy))

        done = iteration + 1
        if done % CHECK_EVERY == 0 or done == total:
            watch.check(total)
        if after_step is not None:
            after_step(done, total)
    return evaluations


def _direction(
    residual: Float[Tensor, "n d"],
    clean: Float[Tensor, "n d"],
    noisy: Float[Tensor, "n d"],
    schedule: NoiseSchedule,
    timestep: Int[Tensor, ""],
    settings: EditSettings,
) -> Float[Tensor, "n d"]:
    """The residuals, mixed as the settings say; without w(t)."""
    if settings.mixing == "none":
        return residual
    sigma = float(schedule.sigma(timestep))
    repulsion = settings.repulsion * (sigma if settings.repulsion_scale == "sigma" else 1.0)
    points = noisy
    if settings.kernel_on == "clean":
        # The kernel as a function of z = alpha x + sigma e: grad_z k = grad_x k / alpha.
        points, repulsion = clean, repulsion / float(schedule.alpha(timestep))
    return stein_direction(
        points,
        residual,
        bandwidth=median_bandwidth(points),
        repulsion=repulsion,
        normalize=settings.normalize,
    )


@dataclass(frozen=True)
class _Guidance:
    """The guidance branches of Eq. 9, composed by Appendix C.1."""

    weights: EditWeights
    empty: Text
    prompts: list[Text]

    @classmethod
    def encode(
        cls, prior: Prior, prompts: Sequence[str], negative_prompt: str, settings: EditSettings
    ) -> _Guidance:
        weights = edit_weights(
            image_scale=settings.image_scale,
            text_scale=settings.text_scale,
            baseline=settings.baseline,
        )
        texts = [prior.encode_text([prompt]) for prompt in prompts]
        return cls(weights, prior.encode_text([negative_prompt]), texts)

    def terms(
        self,
        noisy: Float[Tensor, "n c h w"],
        noisy_source: Float[Tensor, "n c h w"],
        condition: Float[Tensor, "n k h w"],
        shares: Float[Tensor, "n prompts"],
    ) -> list[tuple[Float[Tensor, "n"], Branch]]:
        """The estimates that the residual is made of, each with its coefficient by particle.

        A branch is evaluated for the particles where its coefficient is not zero. A share that
        no instruction takes has the image's estimate in the instruction's place.
        """
        one = torch.ones(len(shares))
        w = self.weights
        unasked = 1 - shares.sum(1)
        # Sums of shares are one but for rounding, which must not cost an evaluation.
        unasked = unasked.where(unasked > 1e-5, 0.0)
        terms = [
            (w.null * one, Branch(noisy, self.empty)),
            (w.image + w.text * unasked, Branch(noisy, self.empty, condition)),
            (w.source_null * one, Branch(noisy_source, self.empty)),
            (w.source_image * one, Branch(noisy_source, self.empty, condition)),
        ]
        for text, share in zip(self.prompts, shares.T, strict=True):
            terms.append((w.text * share, Branch(noisy, text, condition)))
        return [
            (weight, branch if weight.all() else replace(branch, rows=weight.nonzero()[:, 0]))
            for weight, branch in terms
            if weight.any()
        ]


def _check_sizes(
    prior: Prior, source01: Float[Tensor, "n 3 H W"], start01: Float[Tensor, "m 3 h w"] | None
) -> None:
    height, width = source01.shape[2:]
    if len(source01) == 0 or height % prior.size_multiple or width % prior.size_multiple:
        raise ValueError(
            f"{prior.name} needs at least one image, of height and width in multiples of "
            f"{prior.size_multiple} pixels, got shape {tuple(source01.shape)}; resize the images."
        )
    if start01 is not None and start01.shape != source01.shape:
        raise ValueError(
            f"start01 needs the shape of source01, {tuple(source01.shape)}, "
            f"got {tuple(start01.shape)}."
        )
