"""One step of text-to-3D: the gradient of rendered views by a text-to-image prior.

The renders x are encoded to latents (or scaled pixels), noised at one timestep, and evaluated by
the prior with and without their text. The residuals r = e_cfg(z) - e (CSD Eq. 8) give a direction
g, which the chain rule passes through the encoder to the renders. No autograd graph passes through
the diffusion model.

With one object, each of its views is a particle. With several objects, each object is a particle,
made of all its views; all objects are rendered from the same cameras.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.core.kernels import Features, Kernel, rbf_kernel
from csd_nerf.core.randomness import Randomness
from csd_nerf.core.residuals import generation
from csd_nerf.core.schedules import add_noise, loss_weight
from csd_nerf.core.settings import Distillation, DistillSettings
from csd_nerf.core.stein import mixed_residuals, repulsion_step
from csd_nerf.priors.base import Prior
from csd_nerf.priors.estimates import ModelInputs, Texts, weighted_sum


@dataclass(frozen=True)
class Distilled:
    """Outcome of `distill`."""

    loss: Float[Tensor, ""]
    """Scalar to call `backward` on. Only its gradient is meaningful, not its value."""
    residual: Float[Tensor, ""]
    """Root mean square of the residuals over all elements."""
    timestep: int
    """The timestep that was drawn."""


def distill(
    prior: Prior,
    image01: Float[Tensor, "objects views 3 h w"],
    *,
    texts: Texts,
    settings: DistillSettings,
    randomness: Randomness,
    distillation: Distillation = "csd",
    features: Features | None = None,
) -> Distilled:
    """A loss whose gradient with respect to the renders is CSD's direction (Eq. 8), or SDS's.

    With SDS, or with one particle, the direction is w(t) r; w(t) = sigma_t^2. With CSD it is
    w(t)/N sum_j [k(x_j, x_i) r_j - repulsion sigma_t grad_{x_j} k(x_j, x_i)], where the kernel
    compares clean renders. As in DreamFusion, the factor alpha_t of the chain rule is left out (it
    counts as part of w(t)). The loss is averaged over views and summed over objects.

    Args:
        prior: The diffusion model.
        image01: Rendered views, attached to the autograd graph of their renderer. Views of another
            size than `prior.preferred_size` are resized to it.
        texts: One prompt with a row per view, or one row for all; and the empty or negative text.
        settings: Options of the distillation.
        randomness: Source of the timestep and the noise, in this order.
        distillation: csd mixes residuals and pushes particles apart; sds lets each particle follow
            its own residual.
        features: Feature map of the kernel on flattened renders, (n, 3 h w) -> (n, f), whose
            squared distance is LPIPS, for the kernel `lpips`; None means L2 between pixels.

    Raises:
        FloatingPointError: If a render or a residual isn't finite.
    """
    objects, views = image01.shape[:2]
    flat01 = image01.flatten(0, 1)
    latent = prior.encode(_at_size(flat01, prior.preferred_size))
    low, high = prior.schedule.timestep_bounds(settings.t_range)
    step = randomness.timestep(low, high)
    noise = _draw_noise(latent, randomness, settings, views=views, objects=objects)
    residual = _residual(prior, latent.detach(), noise, step, texts, settings)
    if not bool(residual.isfinite().all()):
        raise FloatingPointError(
            "Residuals need to be finite, got inf or nan from the prior or the renders; lower the "
            "learning rate or the guidance scale, or run the prior in float32."
        )
    t = torch.tensor(step)
    weight, sigma = float(loss_weight(prior.schedule, t)), float(prior.schedule.sigma(t))
    count = views if objects == 1 else objects
    if distillation == "sds" or count == 1:
        loss = (latent * residual).sum()
    else:
        points = image01.detach().reshape(count, -1)
        kernel = _kernel(points, features, image01.shape[2:], settings)
        how = settings.normalize
        mixed = mixed_residuals(kernel, residual.reshape(count, -1), normalize=how)
        apart = repulsion_step(kernel, repulsion=settings.repulsion * sigma, normalize=how)
        loss = (latent.reshape(count, -1) * mixed).sum()
        loss = loss + (image01.reshape(count, -1) * apart).sum()
    return Distilled(weight / views * loss, residual.square().mean().sqrt(), step)


def _at_size(image01: Float[Tensor, "n 3 h w"], edge: int) -> Float[Tensor, "n 3 h2 w2"]:
    """Resize renders to the size that the prior was trained on."""
    if image01.shape[-2:] == (edge, edge):
        return image01
    return torch.nn.functional.interpolate(
        image01, (edge, edge), mode="bilinear", antialias=edge < image01.shape[-1]
    )


def _draw_noise(
    latent: Float[Tensor, "n c h w"],
    randomness: Randomness,
    settings: DistillSettings,
    *,
    views: int,
    objects: int,
) -> Float[Tensor, "n c h w"]:
    """Unit noise. If shared: one for all views of one object, or per view one for all objects."""
    shape = latent.shape[1:]
    if settings.noise == "independent":
        return randomness.normal((objects * views, *shape)).to(latent)
    own = 1 if objects == 1 else views
    noise = randomness.normal((own, *shape)).to(latent)
    return noise.expand(views, *shape).repeat(objects, 1, 1, 1)


@torch.no_grad()
def _residual(
    prior: Prior,
    clean: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    step: int,
    texts: Texts,
    settings: DistillSettings,
) -> Float[Tensor, "n c h w"]:
    """CSD Eq. 8's residual of every view; the views are sorted by object."""
    n = len(clean)
    timestep = torch.full((n,), step)
    noisy = add_noise(prior.schedule, clean, noise, timestep)
    (prompt,) = texts.prompts
    of_views = {
        name: row.repeat(n // len(row), *[1] * (row.ndim - 1)) for name, row in prompt.items()
    }
    inputs = ModelInputs(
        {"target": noisy}, {}, replace(texts, prompts=[of_views]), torch.ones(n, 1)
    )
    return weighted_sum(
        prior,
        generation(text_scale=settings.text_scale),
        inputs,
        timestep.to(prior.device),
        drawn=noise,
        max_batch=settings.max_batch,
    )[0]


def _kernel(
    points: Float[Tensor, "n d"],
    features: Features | None,
    shape: torch.Size,
    settings: DistillSettings,
) -> Kernel:
    """The kernel on renders, with the bandwidth of CSD's Appendix C.2: median(d^2) / log N."""
    # log 1 is zero; a single particle has no pairs, so its divisor has no effect.
    divisor = log(max(len(points), 2))
    if settings.kernel == "l2" or features is None:
        return rbf_kernel(points, divisor=divisor)

    def embed(flat: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        views = features(flat.reshape(-1, *shape).flatten(1))
        return views.reshape(len(flat), -1)

    return rbf_kernel(points, embed, divisor=divisor, exponent=2)
