"""Ordinary InstructPix2Pix sampling on top of a prior: the baselines of the paper.

They edit every image alone, or a large canvas by windows whose estimates are averaged.
The solver steps are diffusers' own; see `csd_nerf.priors.solvers`.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.guidance import composed_noise, guided_noise
from csd_nerf.core.windows import coverage, cut_windows, window_cells
from csd_nerf.priors.base import Branch, Prior, Text
from csd_nerf.priors.solvers import make_solver, per_image, solve, standard_normal

BRANCHES = 3
"""Model evaluations an image and step: those of Eq. 3 for one instruction."""
WINDOWS_A_CALL = 16
"""Windows that are cut out together where no `max_batch` says less."""


@torch.no_grad()
def sample_edit(
    prior: Prior,
    image01: Float[Tensor, "n 3 H W"],
    prompt: str | Sequence[str],
    *,
    negative_prompt: str = "",
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    steps: int = 100,
    solver: str = "ddim",
    strength: float = 1.0,
    level: float = 1.0,
    start01: Float[Tensor, "n 3 H W"] | None = None,
    noise: Float[Tensor, "n c h w"] | None = None,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
) -> Float[Tensor, "n 3 H W"]:
    """Edit images by instruction, each for itself, as InstructPix2Pix does (Brooks et al. 2023).

    The estimate is CSD Eq. 3 at every step. diffusers' pipeline gives the same image from the
    same noise while text_scale > 1 and image_scale >= 1; below that it drops guidance, which this
    function does not.

    Args:
        prior: An editing prior.
        image01: Source images, with edges that are multiples of the prior's `size_multiple`.
        prompt: One instruction for all images, or one an image.
        negative_prompt: Takes the place of the empty text.
        text_scale: w_y; how strongly the instruction is followed.
        image_scale: w_s; how closely the source image is kept.
        steps: Length of the whole schedule; a strength below 1 does the last part of it.
        solver: `ddim` without added noise, or `euler-ancestral`, the published model's own.
            The latter visits fractional timesteps, so that the prior must take them.
        strength: Where to start: 1 from pure noise, lower from the noised start image, with
            this share of the steps left to do.
        level: The other way to say where: all of the steps are taken within this share of the
            prior's timesteps, below 1 from the noised start image. Instruct-NeRF2NeRF draws it.
        start01: The start image of a strength or level below 1; None means the source.
        noise: Unit Gaussian noise to start from; drawn from the generator if None.
        generator: Source of this and of the solver's noise; torch's global one if None.
        max_batch: Largest number of model evaluations a call; None means all at once.

    Raises:
        ValueError: If the solver is unknown, steps is not positive, strength is not in (0, 1], or
            level leaves fewer timesteps than steps.
    """
    scheduler = make_solver(prior.schedule, solver, steps=steps, strength=strength, level=level)
    condition = prior.encode_condition(image01)
    if noise is None:
        shape = (len(image01), prior.latent_channels, *condition.shape[-2:])
        noise = standard_normal(shape, generator)
    start, latent = 0, noise.to(condition) * scheduler.init_noise_sigma
    if strength < 1 or level < 1:
        start = steps - max(1, round(steps * strength))
        at = scheduler.timesteps[start : start + 1]
        clean = prior.encode(image01 if start01 is None else start01)
        latent = scheduler.add_noise(clean, noise.to(clean), at).to(condition)
    guidance = _Guidance.of_one(
        prior, prompt, negative_prompt, text_scale, image_scale, max_batch=max_batch
    )
    estimate = guidance.of_whole(condition)
    return prior.decode(solve(scheduler, latent, estimate, start=start, generator=generator))


@torch.no_grad()
def sample_latents(
    prior: Prior,
    condition: Float[Tensor, "n k h w"],
    prompt: str | Sequence[str],
    *,
    negative_prompt: str = "",
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    steps: int = 100,
    solver: str = "ddim",
    noise: Float[Tensor, "n c h w"] | None = None,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
    done: tuple[int, Float[Tensor, "n c h w"]] | None = None,
    after_step: Callable[[int, Float[Tensor, "n c h w"]], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Do what `sample_edit` does between encoding and decoding, on the condition's device.

    `done` says how many steps are done and which latents they gave, to go on with a run; the
    generator then needs its state of that moment too. `after_step` is called with the same two.
    The other arguments are those of `sample_edit`.
    """
    scheduler = make_solver(prior.schedule, solver, steps=steps)
    guidance = _Guidance.of_one(
        prior, prompt, negative_prompt, text_scale, image_scale, max_batch=max_batch
    )
    if done is None:
        shape = (len(condition), prior.latent_channels, *condition.shape[-2:])
        latent = standard_normal(shape, generator) if noise is None else noise
        done = (0, latent.to(condition) * scheduler.init_noise_sigma)
    start, latent = done[0], done[1].to(condition)
    estimate = guidance.of_whole(condition)
    return solve(
        scheduler, latent, estimate, start=start, generator=generator, after_step=after_step
    )


@torch.no_grad()
def sample_windows(
    prior: Prior,
    condition: Float[Tensor, "k H W"],
    prompts: Sequence[str],
    shares: Float[Tensor, "m prompts"],
    *,
    positions: Int[Tensor, "m 2"],
    window: tuple[int, int],
    negative_prompt: str = "",
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    steps: int = 100,
    solver: str = "ddim",
    noise: Float[Tensor, "c H W"] | None = None,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
    done: tuple[int, Float[Tensor, "c H W"]] | None = None,
    after_step: Callable[[int, Float[Tensor, "c H W"]], None] | None = None,
) -> Float[Tensor, "c H W"]:
    """Edit a canvas larger than the prior's images, as MultiDiffusion does (Bar-Tal et al. 2023).

    At every step the guided estimates of all windows are averaged where they overlap, then the
    whole canvas takes one step of the solver. With one window this is `sample_latents`.

    Args:
        prior: An editing prior.
        condition: The encoded source; on any device, where the canvas then lies too.
        prompts: The instructions.
        shares: Share of each instruction in each window, rows summing to one at most; what is
            missing takes the estimate without an instruction.
        positions: Windows' top left cells; together they cover the canvas.
        window: Height and width of a window in cells.
        negative_prompt: Takes the place of the empty text.
        text_scale: w_y; how strongly the instructions are followed.
        image_scale: w_s; how closely the source image is kept.
        steps: Length of the schedule.
        solver: As for `sample_edit`.
        noise: Unit Gaussian noise to start from; drawn from the generator if None.
        generator: Source of this and of the solver's noise; torch's global one if None.
        max_batch: Largest number of model evaluations a call, and of windows held at once; None
            means `WINDOWS_A_CALL` windows.
        done: Steps done and the canvas then, to go on with a run; the generator then needs its
            state of that moment too.
        after_step: Called with the steps done and the canvas as it is.

    Raises:
        ValueError: If the solver is unknown or steps is not positive.
    """
    scheduler = make_solver(prior.schedule, solver, steps=steps)
    empty, texts = prior.encode_text([negative_prompt]), [prior.encode_text([p]) for p in prompts]
    guidance = _Guidance(prior, empty, texts, text_scale, image_scale, max_batch)
    canvas = (condition.shape[1], condition.shape[2])
    count = coverage(positions, window, canvas).to(condition)

    def estimate(noisy: Float[Tensor, "1 c H W"], step: Real[Tensor, ""]) -> Tensor:
        total = torch.zeros_like(noisy[0])
        for part in torch.arange(len(positions)).split(max_batch or WINDOWS_A_CALL):
            shown, beside = (
                cut_windows(whole, positions[part], window).to(prior.device)
                for whole in (noisy[0], condition)
            )
            guided = guidance.estimate(shown, beside, step, shares[part])
            cells = window_cells(positions[part], window, canvas[1]).flatten().to(total.device)
            columns = guided.to(total.device).transpose(0, 1).flatten(1)
            total.view(len(total), -1).index_add_(1, cells, columns)
        return (total / count)[None]

    if done is None:
        shape = (prior.latent_channels, *canvas)
        latent = standard_normal(shape, generator) if noise is None else noise
        done = (0, latent.to(condition) * scheduler.init_noise_sigma)
    tell = None if after_step is None else lambda done, latent: after_step(done, latent[0])
    start, latent = done[0], done[1].to(condition)[None]
    return solve(scheduler, latent, estimate, start=start, generator=generator, after_step=tell)[0]


@dataclass(frozen=True)
class _Guidance:
    """CSD Eq. 3 with composed instructions (Appendix C.1)."""

    prior: Prior
    empty: Text
    texts: list[Text]
    text_scale: float
    image_scale: float
    max_batch: int | None

    @classmethod
    def of_one(
        cls,
        prior: Prior,
        prompt: str | Sequence[str],
        negative_prompt: str,
        text_scale: float,
        image_scale: float,
        *,
        max_batch: int | None,
    ) -> _Guidance:
        """One instruction for all images, or one an image; none are composed."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        empty, text = prior.encode_text([negative_prompt]), prior.encode_text(prompts)
        return cls(prior, empty, [text], text_scale, image_scale, max_batch)

    def of_whole(
        self, condition: Float[Tensor, "n k h w"]
    ) -> Callable[[Float[Tensor, "n c h w"], Real[Tensor, ""]], Tensor]:
        """The estimate of whole images, as `solve` asks for it."""
        shares = torch.ones(len(condition), 1)
        return lambda noisy, step: self.estimate(noisy, condition, step, shares)

    def estimate(
        self,
        noisy: Float[Tensor, "n c h w"],
        condition: Float[Tensor, "n k h w"],
        step: Real[Tensor, ""],
        shares: Float[Tensor, "n prompts"],
    ) -> Float[Tensor, "n c h w"]:
        """By three evaluations a particle, or more where instructions meet, in one batch."""
        asked = [k for k in range(len(self.texts)) if bool(shares[:, k].any())]
        branches = [
            Branch(noisy, self.empty),
            Branch(noisy, self.empty, condition),
            *(Branch(noisy, self.texts[k], condition, _rows(shares[:, k])) for k in asked),
        ]
        timestep = per_image(step, len(noisy)).to(noisy.device)
        null, image, *texts = self.prior.predict(branches, timestep, max_batch=self.max_batch)
        rest = 1 - shares.sum(1)
        text = composed_noise(
            torch.stack([image, *texts]), torch.cat([rest[:, None], shares[:, asked]], dim=1)
        )
        return guided_noise(
            null, image, text, image_scale=self.image_scale, text_scale=self.text_scale
        )


def _rows(share: Float[Tensor, "n"]) -> Int[Tensor, "m"] | None:
    return None if bool(share.all()) else share.nonzero().flatten()
