"""The optimisation loop of CSD-Edit, for scenes, videos, panoramas and plain images alike.

An iteration draws a batch of particles x_i, one timestep t for the batch and noises e_i (a canvas
may keep t and e_i for a whole sweep), evaluates all guidance branches of the prior in one batch,
and descends: x_i <- x_i - rate w(t) g_i. Here g_i is the Stein direction of the edit residuals
(`csd_nerf.core.residuals`; CSD Eq. 9) and w(t) = sigma_t^2. The authors' release leaves w(t) out
for images without mixing; here every variant has it. Residuals between velocities have another w
(`csd_nerf.core.velocities`). The loop waits for the device only every `CHECK_EVERY` iterations, to
check that all gradients were finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from csd_nerf.core.bank import SourceBank, draw
from csd_nerf.core.canvas import Canvas, ImageStack
from csd_nerf.core.copies import sent
from csd_nerf.core.finite import FiniteWatch, require_finite
from csd_nerf.core.mixing import Mixer, SettingsMixer
from csd_nerf.core.movement import STEPS, Movement
from csd_nerf.core.randomness import Randomness, SeededRandomness
from csd_nerf.core.residuals import EDIT_RESIDUALS, Terms, prompt_shares
from csd_nerf.core.rows import Rows
from csd_nerf.core.schedules import add_noise, falling_band, loss_weight
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.structure import CONTROL, pack_structure
from csd_nerf.core.velocities import Velocities
from csd_nerf.priors.banked import banked_sum
from csd_nerf.priors.base import Prior, at_once, ranks_of
from csd_nerf.priors.estimates import (
    PICTURES_AT_ONCE,
    ModelInputs,
    Texts,
    encode_sources,
    second_reference,
)

Preview = Callable[[], Float[Tensor, "n 3 H W"]]
"""Decodes the current latents to images in [0, 1]."""

__all__ = ["EditResult", "EditSettings", "edit", "edit_images"]

CHECK_EVERY = STEPS
"""Iterations between two checks that all gradients were finite, and that the edit still moves; a
check waits for the device."""


@dataclass(frozen=True)
class EditResult:
    """Outcome of `edit_images`; tensors lie on the prior's device."""

    image01: Float[Tensor, "n 3 H W"]
    """The edited images."""
    latent: Float[Tensor, "n c h w"]
    """Their latents, before decoding."""
    source_latent: Float[Tensor, "n c h w"]
    """The encoded source images."""
    evaluations: int
    """Number of model evaluations: one per particle, guidance branch and iteration."""
    seconds: float
    """Wall-clock seconds of the optimisation, without encoding and decoding."""


@torch.no_grad()
def edit_images(
    prior: Prior,
    source01: Float[Tensor, "n 3 H W"],
    *,
    prompt: str | Sequence[str],
    prompt_weights: Float[Tensor, "n k"] | None = None,
    negative_prompt: str = "",
    source_prompt: str | None = None,
    settings: EditSettings,
    generator: torch.Generator,
    mixer: Mixer | None = None,
    start01: Float[Tensor, "n 3 H W"] | None = None,
    control01: Float[Tensor, "n 1 H W"] | None = None,
    reference01: Float[Tensor, "1 3 _ _"] | None = None,
    editable: Float[Tensor, "n h w"] | None = None,
    progress: str | None = None,
    callback: Callable[[int, int, Preview], None] | None = None,
    callback_every: int = 20,
) -> EditResult:
    """Edit images jointly by one or more instructions.

    Args:
        prior: The diffusion model.
        source01: The images to edit; heights and widths are multiples of `prior.size_multiple`.
        prompt: The instruction, or several, weighted by `prompt_weights` (Appendix C.1); for the
            residual `dds` descriptions of the result.
        prompt_weights: Share of each instruction in each image, as for `edit`.
        negative_prompt: Replaces the empty text.
        source_prompt: Description of the source images; only the residual `dds` needs it.
        settings: Options of the optimisation.
        generator: Source of randomness, on the CPU.
        mixer: As for `edit`.
        start01: Images to start the optimisation from; None means the source images.
        control01: Structure images, such as depth, for a prior that follows them; None leaves it to
            the prior to make them from the source images. See `csd_nerf.core.structure`.
        reference01: One more image that the model sees beside each source, such as an edited view
            that the others are to match; for priors that take two.
        editable: Factor of each latent cell's step, such as 0 for cells to keep; None means 1
            everywhere. An image whose factors are all 0 isn't evaluated, and its result is its own
            round trip through the autoencoder.
        progress: Label of a progress bar on stderr; None means no bar.
        callback: Called with the number of iterations done, their total, and a function that
            decodes the current images.
        callback_every: Iterations between calls of `callback`.

    Raises:
        ValueError: If sizes or weights don't fit, or the prior can't serve the residual.
        FloatingPointError: If a gradient isn't finite, with iteration and particles, or the result.
    """
    _check_sizes(prior, source01, start01)

    def encode(image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        parts = image01.split(at_once(prior, settings.max_batch, total=len(image01)))
        return torch.cat([prior.encode(part) for part in parts])

    def decode() -> Float[Tensor, "n 3 H W"]:
        parts = stack.latent.split(at_once(prior, settings.max_batch, total=stack.size))
        return torch.cat([prior.decode(part) for part in parts])

    def after_step(done: int, total: int) -> None:
        if callback is not None and done % callback_every == 0:
            callback(done, total, decode)

    # Pixels cross to a device of the prior's own once; nothing comes back before the result.
    shown01 = source01.to(prior.device)
    source, image_rows = encode_sources(prior, shown01, max_batch=settings.max_batch)
    if control01 is not None:
        image_rows[CONTROL] = pack_structure(control01, cell_size=prior.cell_size)
    image_rows = {name: rows.to(prior.device) for name, rows in image_rows.items()}
    start = source.clone() if start01 is None else encode(start01.to(prior.device))
    if editable is not None and editable.shape != (len(start), *start.shape[2:]):
        raise ValueError(
            f"editable needs a factor for each latent cell, {(len(start), *start.shape[2:])}, got "
            f"shape {tuple(editable.shape)}."
        )
    stack = ImageStack(start, source, image_rows, settings.batch_size, editable=editable)
    began = perf_counter()
    evaluations = edit(
        prior,
        stack,
        prompts=[prompt] if isinstance(prompt, str) else prompt,
        prompt_weights=prompt_weights,
        negative_prompt=negative_prompt,
        source_prompt=source_prompt,
        reference_rows={}
        if reference01 is None
        else second_reference(prior, reference01.to(prior.device)),
        settings=settings,
        randomness=SeededRandomness(generator),
        mixer=mixer,
        progress=progress,
        after_step=after_step,
    )
    seconds = perf_counter() - began
    image01 = decode()
    require_finite(image01, "Decoded images")
    return EditResult(image01, stack.latent, source, evaluations, seconds)


@torch.no_grad()
def edit(
    prior: Prior,
    canvas: Canvas,
    *,
    prompts: Sequence[str],
    prompt_weights: Float[Tensor, "size k"] | None = None,
    negative_prompt: str = "",
    source_prompt: str | None = None,
    reference_rows: Rows | None = None,
    settings: EditSettings,
    randomness: Randomness,
    mixer: Mixer | None = None,
    bank_seed: int | None = None,
    done: int = 0,
    progress: str | None = None,
    after_step: Callable[[int, int], None] | None = None,
) -> int:
    """Optimise the latents of a canvas in place.

    Args:
        prior: The diffusion model.
        canvas: What is edited.
        prompts: One or more instructions; for the residual `dds`, descriptions of the result.
        prompt_weights: Share of each instruction in each particle of the canvas. If a row sums to
            less than one, the rest of the weight goes to an estimate without instruction (see
            `Terms.text_without_prompt`). None means equal shares.
        negative_prompt: Replaces the empty text.
        source_prompt: Description of the source; only the residual `dds` needs it.
        reference_rows: From `second_reference`, if a second image is shown beside each source.
        settings: Options of the optimisation. `batch_size` is ignored: the canvas draws batches.
        randomness: Source of each iteration's batch, timestep and noise, in this order.
        mixer: How particles share their residuals; None takes the `mixing` of the settings.
        bank_seed: Decides the pairs of `EditSettings.source_bank`; an edit that resumes needs that
            of its beginning. None draws one.
        done: Number of iterations that an interrupted edit has done already.
        progress: Label of a progress bar on stderr; None means no bar.
        after_step: Called after each iteration with the number done and their total. If the edit
            ends early, it is told of the total at last.

    Returns:
        Number of model evaluations of this call.

    Raises:
        ValueError: If the weights don't fit, or the prior can't serve the residual.
        FloatingPointError: If a gradient isn't finite; names iteration and particles.
    """
    reference_rows = reference_rows or {}
    terms = EDIT_RESIDUALS[settings.residual](
        image_scale=settings.image_scale,
        text_scale=settings.text_scale,
        source_share=settings.source_share,
    )
    _check_residual(prior, terms, settings.residual, source_prompt)
    velocities = None
    if settings.quantity == "velocity":
        velocities = Velocities.of(
            settings,
            prior.schedule,
            name=prior.name,
            source_share=1 + terms.noise,
            iterations_per_update=canvas.iterations_per_update,
        )
    texts = Texts.encode(
        prior,
        prompts,
        negative_prompt=negative_prompt,
        source_prompt=source_prompt if terms.needs_source_text else None,
        image_rows=_pictures(canvas, reference_rows),
    )
    shares = prompt_shares(prompt_weights, size=canvas.size, prompts=len(prompts)).cpu()
    bounds = prior.schedule.timestep_bounds(settings.t_range)
    watch = FiniteWatch(canvas.size, prior.device)
    mixer = SettingsMixer(settings, prior.schedule) if mixer is None else mixer
    bank = None
    if settings.source_bank:
        seed = randomness.timestep(0, 2**31 - 1) if bank_seed is None else bank_seed
        bank = SourceBank.drawn(settings.source_bank, seed=seed, bounds=bounds, size=canvas.size)
    moves = Movement(canvas.latent, done) if settings.stop_below else None
    evaluations = 0
    total = settings.iterations
    bar = {"desc": progress, "disable": progress is None, "initial": done, "total": total}

    def advance(iteration: int, index: Int[Tensor, "n"]) -> int:
        """Move these particles; returns the number of model evaluations."""
        now = _bounds_now(settings, bounds, iteration)
        particles = canvas.read(index)
        drawn = draw(canvas, index, randomness, bank, now, shared=settings.noise == "shared")
        timestep = torch.full((len(index),), drawn.timestep)
        own_noise = drawn.noise
        if velocities is not None:
            own_noise = velocities.own_noise(drawn.noise, particles)
        noisy = add_noise(prior.schedule, particles.latent, own_noise, timestep)
        latents = {"target": noisy}
        if terms.needs_source_latent:
            latents["source"] = add_noise(prior.schedule, particles.source, drawn.noise, timestep)
        inputs = ModelInputs(
            latents,
            particles.image_rows,
            texts.of_particles(index),
            shares[index],
            reference_rows,
        )
        residual, count = banked_sum(
            prior,
            terms,
            inputs,
            sent(timestep, prior.device),
            index=index,
            drawn=drawn,
            own_noise=own_noise,
            bank=bank,
            max_batch=settings.max_batch,
        )
        t = timestep[0]
        weight = float(loss_weight(prior.schedule, t))
        if velocities is not None:
            residual = velocities.residual(residual, particles, t)
            weight = velocities.weight(t)
        direction = mixer.direction(index, residual, particles, noisy, t)
        watch.record(iteration, index, residual.flatten(1), direction.flatten(1))
        rate = settings.learning_rate * settings.decay ** (iteration // settings.decay_every)
        step = rate * weight * direction
        canvas.descend(index, step)
        return count

    for iteration in tqdm(range(done, total), **bar):
        index = canvas.draw_batch(randomness)
        if len(index):
            evaluations += advance(iteration, index)
        done, ends = iteration + 1, False
        if done % CHECK_EVERY == 0 or done == total:
            watch.check(total)
            if moves is not None:
                rests = moves.is_below(settings.stop_below, canvas.latent, done)
                # On GPUs the latents of ranks may differ in their last bits.
                ends = ranks_of(prior).any(rests)
        if after_step is not None:
            after_step(total if ends else done, total)
        if ends:
            break
    return evaluations


def _pictures(canvas: Canvas, reference_rows: Rows) -> Iterator[Rows]:
    """What text encoders see that see images: the particles' sources, a few at a time."""
    for index in torch.arange(canvas.size).split(PICTURES_AT_ONCE):
        pictures = canvas.pictures(index)
        yield {**reference_rows, **pictures} if pictures else {}
        if not pictures:
            return


def _bounds_now(settings: EditSettings, bounds: tuple[int, int], iteration: int) -> tuple[int, int]:
    """Lowest and highest timestep that an iteration may draw."""
    # From the iteration's number, so that a resumed run goes on where it was.
    progress = iteration / max(settings.iterations - 1, 1)
    if settings.t_order == "falling-first":
        progress *= 2
    if settings.t_order == "random" or progress > 1:
        return bounds
    return falling_band(*bounds, progress=progress)


def _check_residual(prior: Prior, terms: Terms, name: str, source_prompt: str | None) -> None:
    if terms.needs_image and not prior.source_rows:
        raise ValueError(
            f"The residual {name} needs a prior that sees the source image, got {prior.name!r}, "
            "which sees a text alone; take the residual dds with a source prompt, or another prior."
        )
    if terms.needs_source_text and not (source_prompt or "").strip():
        raise ValueError(
            f"The residual {name} needs a source prompt that says what the source shows, got "
            f"{source_prompt!r}; give one such as 'a photo of a man', and a prompt that describes "
            "the result."
        )


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
