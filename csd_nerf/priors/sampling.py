"""Ordinary InstructPix2Pix sampling with a prior: the baselines of the paper.

`sample_edit` edits each image independently. `sample_windows` edits one large canvas in overlapping
windows, whose noise estimates are averaged. The steps of the solvers are those of diffusers; see
`csd_nerf.priors.solvers`.

This module imports diffusers; import it late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from csd_nerf.core.residuals import Terms, edit_guidance
from csd_nerf.core.rows import PICTURE, Rows, without_picture
from csd_nerf.core.schedules import FlowSchedule
from csd_nerf.core.windows import coverage, cut_windows, window_cells
from csd_nerf.priors.base import Prior, at_once
from csd_nerf.priors.estimates import (
    PICTURES_AT_ONCE,
    ModelInputs,
    Texts,
    second_reference,
    weighted_sum,
)
from csd_nerf.priors.solvers import make_solver, per_image, solve, standard_normal

WINDOWS_PER_CALL = 16
"""Windows that are evaluated together if `max_batch` is None."""


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
    reference01: Float[Tensor, "1 3 _ _"] | None = None,
    editable: Float[Tensor, "n h w"] | None = None,
    noise: Float[Tensor, "n c h w"] | None = None,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
    after_step: Callable[[int, Float[Tensor, "n c h w"]], None] | None = None,
) -> Float[Tensor, "n 3 H W"]:
    """Edit images by instruction, each independently, as InstructPix2Pix (Brooks et al. 2023).

    The noise estimate of every step is CSD Eq. 3. From the same noise, diffusers' pipeline gives
    the same image if text_scale > 1 and image_scale >= 1. With lower scales it turns guidance off;
    this function doesn't.

    Args:
        prior: An editing prior.
        image01: Source images, with edges that are multiples of the prior's `size_multiple`.
        prompt: One instruction for all images, or one per image.
        negative_prompt: Replaces the empty text.
        text_scale: w_y; how strongly the instruction is followed.
        image_scale: w_s; how closely the source image is kept.
        steps: Number of steps of the whole schedule; a strength below 1 takes only the last of
            them.
        solver: `ddim` without added noise, or `euler-ancestral`, the published model's default.
            The latter uses fractional timesteps, which the prior must accept.
        strength: Share of the steps to take, in (0, 1]. At 1 sampling starts from pure noise,
            below 1 from the start image with noise added.
        level: Share of the prior's timesteps, counted from the clean end, over which all steps are
            spaced. Below 1 sampling starts from the start image with noise added.
            (Instruct-NeRF2NeRF draws this level at random.)
        start01: Start images for a strength or level below 1; None means the source images.
        reference01: One more image that the model sees beside each source; for priors that take
            two.
        editable: Share of each latent cell that is edited; None means all of it. After every step
            the rest is the source again, with the noise of the start at the level that the next
            step expects, so that the edit fits in at the border (as RePaint does, Lugmayr et al.
            2022).
        noise: Unit Gaussian noise for the start; drawn from the generator if None.
        generator: Source of this noise and the solver's; None means torch's global generator.
        max_batch: Largest number of evaluations in one call of the model; None means no limit.
        after_step: Called after each step with the number of steps done and the latents.

    Raises:
        ValueError: If the solver is unknown, steps is not positive, strength is not in (0, 1], or
            level leaves fewer timesteps than steps.
    """
    cells = (image01.shape[2] // prior.cell_size, image01.shape[3] // prior.cell_size)
    options = {"steps": steps, "strength": strength, "level": level}
    scheduler = make_solver(prior, solver, size=cells, **options)
    source, image_rows = prior.encode_source(image01)
    if noise is None:
        noise = standard_normal(tuple(source.shape), generator)
    skipped, latent = 0, noise.to(source) * scheduler.init_noise_sigma
    if strength < 1 or level < 1:
        skipped = steps - max(1, round(steps * strength))
        at = scheduler.timesteps[skipped : skipped + 1]
        clean = source if start01 is None else prior.encode(start01)
        latent = scheduler.add_noise(clean, noise.to(clean), at).to(source)
    reference_rows = {} if reference01 is None else second_reference(prior, reference01)
    guidance = _Guidance.encode(
        prior,
        [prompt],
        image_rows=[{**image_rows, **reference_rows}],
        negative_prompt=negative_prompt,
        text_scale=text_scale,
        image_scale=image_scale,
        max_batch=max_batch,
    )
    shown = {"image_rows": image_rows, "reference_rows": reference_rows}
    estimate = partial(guidance.estimate, **shown)

    def keep(done: int, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        assert editable is not None
        known = source
        if done < len(scheduler.timesteps):
            at = scheduler.timesteps[done : done + 1]
            known = scheduler.add_noise(source, noise.to(source), at)
        return torch.lerp(known.to(latent), latent, editable[:, None].to(latent))

    latent = solve(
        scheduler,
        latent,
        estimate,
        done=skipped,
        generator=generator,
        after_step=after_step,
        keep=None if editable is None else keep,
    )
    return prior.decode(latent)


@torch.no_grad()
def sample_latents(
    prior: Prior,
    image_rows: Rows,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str = "",
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    steps: int = 100,
    solver: str = "ddim",
    noise: Float[Tensor, "n c h w"],
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
    done: tuple[int, Float[Tensor, "n c h w"]] | None = None,
    after_step: Callable[[int, Float[Tensor, "n c h w"]], None] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Do what `sample_edit` does between encoding and decoding, on the prior's device.

    `image_rows` come from `Prior.encode_source`. To resume a run, pass as `done` the number of
    steps done and the latents after them, and a generator in the state it had then.
    `after_step` is called after each step with the number of steps done and the latents. All other
    arguments are as for `sample_edit`; sampling always starts from the given noise.
    """
    cells = (noise.shape[2], noise.shape[3])
    scheduler = make_solver(prior, solver, size=cells, steps=steps)
    guidance = _Guidance.encode(
        prior,
        [prompt],
        image_rows=[image_rows],
        negative_prompt=negative_prompt,
        text_scale=text_scale,
        image_scale=image_scale,
        max_batch=max_batch,
    )
    number, latent = done or (0, noise * scheduler.init_noise_sigma)
    latent = latent.to(prior.device)
    estimate = partial(guidance.estimate, image_rows=image_rows)
    return solve(
        scheduler, latent, estimate, done=number, generator=generator, after_step=after_step
    )


@torch.no_grad()
def sample_windows(
    prior: Prior,
    image_rows: Rows,
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
    noise: Float[Tensor, "c H W"],
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
        image_rows: Conditions from the source by name, each of shape (k, H, W), on any device.
        prompts: The instructions.
        shares: Share of each instruction in each window. If a row sums to less than one, the rest
            of the weight goes to the estimate conditioned on the source image only.
        positions: Top left cells of the windows, which must cover the canvas.
        window: Height and width of a window in cells.
        negative_prompt: Replaces the empty text.
        text_scale: w_y; how strongly the instructions are followed.
        image_scale: w_s; how closely the source image is kept.
        steps: Number of steps.
        solver: As for `sample_edit`.
        noise: Unit Gaussian noise to start from; the canvas is kept on its device.
        generator: Source of the solver's noise; None means torch's global generator.
        max_batch: Largest number of evaluations in one call of the model, and of windows cut out at
            once; None means no limit and `WINDOWS_PER_CALL`.
        done: To resume a run: the number of steps done and the canvas after them; the generator
            must have the state it had then.
        after_step: Called after each step with the number of steps done and the canvas.

    Raises:
        ValueError: If the solver is unknown or steps is not positive.
    """
    scheduler = make_solver(prior, solver, size=window, steps=steps)
    canvas = (noise.shape[1], noise.shape[2])
    count = coverage(positions, window, canvas).to(noise)
    parts = torch.arange(len(positions)).split(
        at_once(prior, max_batch or WINDOWS_PER_CALL, total=len(positions))
    )

    def cut(whole: Float[Tensor, "k H W"], part: Int[Tensor, "n"]) -> Float[Tensor, "n k h w"]:
        return cut_windows(whole, positions[part], window).to(prior.device)

    def rows_of(wholes: Rows, part: Int[Tensor, "n"]) -> Rows:
        return {name: cut(whole, part) for name, whole in wholes.items()}

    # Texts are encoded once, so that no step cuts the picture again.
    shown = without_picture(image_rows)
    pictures = {PICTURE: image_rows[PICTURE]} if PICTURE in image_rows else {}
    seen = torch.arange(len(positions)).split(PICTURES_AT_ONCE)
    guidance = _Guidance.encode(
        prior,
        prompts,
        image_rows=(rows_of(pictures, some) for some in seen) if pictures else ({},),
        negative_prompt=negative_prompt,
        text_scale=text_scale,
        image_scale=image_scale,
        max_batch=max_batch,
    )

    def estimate(noisy: Float[Tensor, "1 c H W"], step: Real[Tensor, ""]) -> Tensor:
        total = torch.zeros_like(noisy[0])
        for part in parts:
            guided = guidance.estimate(
                cut(noisy[0], part), step, rows_of(shown, part), shares=shares[part], index=part
            )
            cells = window_cells(positions[part], window, canvas[1]).flatten().to(total.device)
            columns = guided.to(total.device).transpose(0, 1).flatten(1)
            total.view(len(total), -1).index_add_(1, cells, columns)
        return (total / count)[None]

    number, latent = done or (0, noise * scheduler.init_noise_sigma)
    tell = None if after_step is None else lambda done, latent: after_step(done, latent[0])
    latent = latent.to(noise)[None]
    return solve(scheduler, latent, estimate, done=number, generator=generator, after_step=tell)[0]


@dataclass(frozen=True)
class _Guidance:
    """The noise estimate of CSD Eq. 3 with composed instructions (Appendix C.1), for `solve`."""

    prior: Prior
    terms: Terms
    texts: Texts
    max_batch: int | None

    @classmethod
    def encode(
        cls,
        prior: Prior,
        prompts: Sequence[str | Sequence[str]],
        *,
        image_rows: Iterable[Rows],
        negative_prompt: str,
        text_scale: float,
        image_scale: float,
        max_batch: int | None,
    ) -> _Guidance:
        """Encode the texts; arguments as for `Texts.encode` and `edit_guidance`."""
        terms = edit_guidance("target", image_scale=image_scale, text_scale=text_scale)
        texts = Texts.encode(prior, prompts, negative_prompt=negative_prompt, image_rows=image_rows)
        return cls(prior, terms, texts, max_batch)

    def estimate(
        self,
        noisy: Float[Tensor, "n c h w"],
        step: Real[Tensor, ""],
        image_rows: Rows,
        *,
        reference_rows: Rows | None = None,
        shares: Float[Tensor, "n prompts"] | None = None,
        index: Int[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """The guided noise, or a flow's velocity.

        Without shares there is a single prompt. `index` says which particles of the encoded texts
        these are; None means all.
        """
        if shares is None:
            shares = torch.ones(len(noisy), 1)
        texts = self.texts if index is None else self.texts.of_particles(index)
        inputs = ModelInputs({"target": noisy}, image_rows, texts, shares, reference_rows or {})
        timestep = per_image(step, len(noisy)).to(noisy.device)
        velocity = isinstance(self.prior.schedule, FlowSchedule)
        return weighted_sum(
            self.prior, self.terms, inputs, timestep, max_batch=self.max_batch, velocity=velocity
        )[0]
