"""A small analytic prior, and CSD-Edit by slow loops in float64, which share no code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import median

import torch
from slow_patches import slow_mix

from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.schedules import DiscreteSchedule

TEXTS = {"": 0.0, "a day": 0.25, "blurry": -0.5, "make it night": 0.75, "make it snow": -0.875}


def estimate_noise(noisy, text, condition, timestep):
    """An arbitrary smooth model of one particle, in which every input matters."""
    seen = 0.0 if condition is None else 0.3 * condition + 0.2
    return (
        torch.tanh(noisy + 0.5 * text)
        + torch.sin(3 * noisy) * text * 0.2
        + seen * (1 + timestep / 1000)
    )


@dataclass
class AnalyticPrior:
    """A prior whose latents are the pixels, doubled; records what it is asked."""

    name: str = "analytic"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    schedule: DiscreteSchedule = field(default_factory=DiscreteSchedule.scaled_linear)
    latent_channels: int = 3
    cell_size: int = 1
    preferred_size: int = 8
    size_multiple: int = 2
    source_rows: tuple[str, ...] = ("condition",)
    poison: dict[int, int] = field(default_factory=dict)
    """Particle's place in the batch, by call, whose estimate becomes NaN."""
    calls: list[list[tuple[float, bool]]] = field(default_factory=list)
    evaluations: int = 0
    largest_batch: int = 0
    largest_coding: int = 0
    max_batches: list[int | None] = field(default_factory=list)

    def encode(self, image01):
        self.largest_coding = max(self.largest_coding, len(image01))
        return 2 * image01

    def decode(self, latent):
        self.largest_coding = max(self.largest_coding, len(latent))
        return (latent / 2).clamp(0, 1)

    def encoding_tiles(self, sample01):
        return nullcontext()

    def decoding_tiles(self, sample):
        return nullcontext()

    def encode_source(self, image01):
        rows = {"condition": image01 - 0.5} if self.source_rows else {}
        return self.encode(image01), rows

    def encode_text(self, prompts: Sequence[str], image_rows=None):
        return {"text": torch.tensor([TEXTS[prompt] for prompt in prompts])}

    def free_text_encoder(self):
        pass

    def predict(self, branches, timestep, *, max_batch=None):
        shapes = {tuple(branch.noisy.shape) for branch in branches}
        assert shapes == {(len(timestep), *branches[0].noisy.shape[1:])}
        todo = [
            (b.noisy[i], b.rows["text"][0], condition_of(b, i), timestep[i])
            for b in branches
            for i in range_of(b, len(timestep))
        ]
        size = max_batch or len(todo)
        estimates = []
        for start in range(0, len(todo), size):
            part = [estimate_noise(*item) for item in todo[start : start + size]]
            self.largest_batch = max(self.largest_batch, len(part))
            estimates += part
        result = torch.zeros(len(branches), *branches[0].noisy.shape)
        places = [(k, i) for k, b in enumerate(branches) for i in range_of(b, len(timestep))]
        for place, estimate in zip(places, estimates, strict=True):
            result[place] = estimate
        if len(self.calls) in self.poison:
            result[0, self.poison[len(self.calls)], 0, 0, 0] = math.nan
        shown = [(float(b.rows["text"][0]), "condition" in b.rows) for b in branches]
        self.calls.append(shown)
        self.evaluations += len(todo)
        return result


def range_of(branch, n):
    return range(n) if branch.particles is None else branch.particles.tolist()


def condition_of(branch, particle):
    return branch.rows["condition"][particle] if "condition" in branch.rows else None


def images(n, *, height=4, width=6, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


# The reference.


@dataclass
class RecordedRandomness:
    """Hands on another source's numbers and keeps them."""

    source: SeededRandomness
    batches: list[list[int]] = field(default_factory=list)
    timesteps: list[int] = field(default_factory=list)
    noises: list[torch.Tensor] = field(default_factory=list)

    def choice(self, total, count):
        batch = self.source.choice(total, count)
        self.batches.append(batch.tolist())
        return batch

    def pick(self, weights):
        return self.source.pick(weights)

    def timestep(self, low, high):
        self.timesteps.append(self.source.timestep(low, high))
        return self.timesteps[-1]

    def normal(self, shape):
        self.noises.append(self.source.normal(shape))
        return self.noises[-1]


def slow_residual(z, z_source, noise, condition, t, prompts, shares, negative, settings):
    """Eq. 3 composed by C.1, less the baseline of Eq. 9 (or the noise), as they are printed."""
    if settings.residual == "dds":
        return slow_dds(z, z_source, noise, t, prompts, shares, negative, settings)
    guided = torch.zeros_like(z)
    for prompt, share in zip(prompts, shares, strict=True):
        null = estimate_noise(z, negative, None, t)
        image = estimate_noise(z, negative, condition, t)
        text = estimate_noise(z, prompt, condition, t)
        guided += share * (
            null + settings.image_scale * (image - null) + settings.text_scale * (text - image)
        )
    if settings.residual == "sds":
        return guided - noise
    null = estimate_noise(z_source, negative, None, t)
    image = estimate_noise(z_source, negative, condition, t)
    source = null + settings.image_scale * (image - null)
    return guided - settings.source_share * source - (1 - settings.source_share) * noise


def slow_dds(z, z_source, noise, t, prompts, shares, negative, settings):
    """Appendix A: both sides guided by the same scale, the source by its own text."""
    scale, part = settings.text_scale, settings.source_share
    null, null_source = (estimate_noise(x, negative, None, t) for x in (z, z_source))
    source = null_source + scale * (estimate_noise(z_source, TEXTS["a day"], None, t) - null_source)
    guided = torch.zeros_like(z)
    for prompt, share in zip(prompts, shares, strict=True):
        guided += share * (null + scale * (estimate_noise(z, prompt, None, t) - null))
    return guided - part * source - (1 - part) * noise


def slow_mixing(points, residuals, factor, normalize):
    """Eq. 8 in descent form by a double loop, with the kernel's gradient by autograd."""
    n = len(points)
    squares = [float((points[i] - points[j]).square().sum()) for i in range(n) for j in range(i)]
    bandwidth = median(squares) / math.log(n + 1)
    directions = []
    for anchor in points:
        total, kernel_sum = torch.zeros_like(anchor), 0.0
        for point, residual in zip(points, residuals, strict=True):
            with torch.enable_grad():
                moving = point.clone().requires_grad_()
                k = torch.exp(-(moving - anchor).square().sum() / bandwidth)
                (gradient,) = torch.autograd.grad(k, moving)
            total += k.detach() * residual - factor * gradient
            kernel_sum += k.item()
        directions.append(total / (n if normalize == "n" else kernel_sum))
    return directions


def slow_edit(
    source01, settings, record, *, prompts, shares, negative, factors=None
) -> Iterator[torch.Tensor]:
    """The latents after every iteration, in float64, one particle at a time."""
    table = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    table = (1 - table).cumprod(0)
    source, condition = 2 * source01.double(), source01.double() - 0.5
    latent = source.clone()
    for step, (t, noises) in enumerate(zip(record.timesteps, record.noises, strict=True)):
        alpha, sigma = math.sqrt(table[t]), math.sqrt(1 - table[t])
        batch = record.batches[step] if record.batches else list(range(len(latent)))
        noises = [noises[k if len(noises) > 1 else 0].double() for k in range(len(batch))]
        noisy = [alpha * latent[i] + sigma * e for i, e in zip(batch, noises, strict=True)]
        residuals = [
            slow_residual(
                z, alpha * source[i] + sigma * e, e, condition[i], t, prompts, shares[i],
                negative, settings,
            )
            for z, i, e in zip(noisy, batch, noises, strict=True)
        ]  # fmt: skip
        directions = residuals
        if settings.mixing == "stein":
            factor = settings.repulsion * (sigma if settings.repulsion_scale == "sigma" else 1)
            points = noisy
            if settings.kernel_on == "clean":
                points, factor = [latent[i] for i in batch], factor / alpha
            directions = slow_mixing(points, residuals, factor, settings.normalize)
        if settings.mixing == "patch":
            sources = torch.stack([source[i] for i in batch])
            directions = slow_mix(sources, torch.stack(residuals), settings.patch_bandwidth)
        rate = settings.learning_rate
        for _ in range(step // settings.decay_every):
            rate *= settings.decay
        for i, direction in zip(batch, directions, strict=True):
            factor = 1 if factors is None else factors[i].double()
            latent[i] -= rate * sigma**2 * direction * factor
        yield latent.clone()


def make_stack(prior, source01, settings, **options):
    source = prior.encode(source01)
    image_rows = prior.encode_source(source01)[1]
    return ImageStack(source.clone(), source, image_rows, settings.batch_size, **options)
