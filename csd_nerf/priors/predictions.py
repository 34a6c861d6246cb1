"""Predicts the memory and the work of an edit from the costs of its prior.

Bytes are those that the prior's device must have free, weights included. What the libraries of
torch and CUDA take beside tensors isn't counted but allowed for, by `OVERHEAD_BYTES` and `SLACK`;
both are ours, and not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csd_nerf.core.residuals import Terms
from csd_nerf.priors.placement import Offload, Quantize
from csd_nerf.priors.prior_costs import PartSize, PriorCosts, Size

OVERHEAD_BYTES = 1 << 30
"""What is allowed for the context and the libraries of a device."""
SLACK = 1.15
"""Factor by which activations are taken larger than counted, for workspaces of convolutions and
memory that is free in pieces too small."""
_PICTURES = 3
"""Float32 pictures of every view that an edit holds: source, start and result."""
_LATENTS = 6
"""Float32 latents of every view that an edit holds: current and source, drawn noise, noisy current
and source, and the step."""
_GATHERED = 3
"""Float32 latents of every evaluation that are held while the denoiser is called: its input, its
output, and its place in the result."""
_LANGUAGE_MODEL = 2e9
"""Parameters from which on a text encoder is a language model, which is quantised too."""


@dataclass(frozen=True)
class Edit:
    """An edit of images of one size, all of which take part in every iteration."""

    views: int
    """Number of images."""
    terms: Terms
    """The estimates of the residual."""
    size: Size | None = None
    """Height and width in pixels; None means the model's preferred size."""
    iterations: int = 200
    """Steps of gradient descent."""
    source_bank: int = 0
    """Pairs of timestep and noise for which a latent of each source is kept, in half precision."""

    def size_for(self, costs: PriorCosts) -> Size:
        """Height and width, with a model of these costs."""
        return self.size or (costs.preferred_size, costs.preferred_size)


def edit_flops(costs: PriorCosts, edit: Edit) -> int:
    """Floating-point operations of an edit: iterations, texts, encoding and decoding."""
    size = edit.size_for(costs)
    step = sum(
        edit.views * costs.evaluation(1, size, image=estimate.image).flops
        for estimate in edit.terms.weights
    )
    images = edit.views * (costs.encoding(size).flops + costs.decoding(size).flops)
    texts = len({estimate.text for estimate in edit.terms.weights})
    return edit.iterations * step + images + texts * costs.text().flops


def most_evaluations(costs: PriorCosts, edit: Edit) -> int:
    """Evaluations in one call of the denoiser if their number isn't limited."""
    return max(group.evaluations for group in _groups(costs, edit))


def peak_bytes(
    costs: PriorCosts,
    edit: Edit,
    *,
    max_batch: int | None = None,
    offload: Offload = "none",
    quantize: Quantize = "none",
    denoiser_bytes: int | None = None,
) -> int:
    """Most memory of an edit on the prior's device, from loading it to decoding the result.

    Args:
        costs: Of the prior.
        edit: The edit.
        max_batch: Most evaluations in one call; None means no limit.
        offload: What waits on the CPU. text: the text encoders, each of which comes while it
            encodes. model: the denoiser's layers too, each of which comes for its call.
        quantize: Precision of the linear layers' weights: of the denoiser, and, unless they are
            offloaded, of the text encoders that are language models.
        denoiser_bytes: What the device has of a denoiser that is split; None means all of it.
    """
    size = edit.size_for(costs)
    denoiser, texts = costs.denoiser.kept_as(quantize), costs.text_encoders
    if denoiser_bytes is not None:
        denoiser = denoiser_bytes
    stays = costs.autoencoder_bytes + (denoiser if offload != "model" else 0)
    loading = visits = 0
    if offload == "none":
        stays += sum(_text_bytes(part, quantize) for part in texts)
        if quantize == "none":
            loading = sum(part.loaded_bytes for part in costs.parts.values())
            if denoiser_bytes is not None:
                # The model is loaded to the CPU before it is split.
                loading += denoiser_bytes - costs.denoiser.loaded_bytes
    else:
        visits = max(part.kept_bytes for part in texts)
    layer = costs.denoiser.layer_bytes if offload == "model" else 0
    images = _image_bytes(costs, edit)
    working = max(
        visits + SLACK * costs.text().peak_bytes,
        images + SLACK * costs.encoding(size).peak_bytes,
        images + SLACK * costs.decoding(size).peak_bytes,
        images + layer + _iteration_bytes(costs, edit, max_batch),
    )
    return OVERHEAD_BYTES + max(loading, stays + round(working))


def further_peak_bytes(
    costs: PriorCosts, edit: Edit, denoiser_bytes: int, *, max_batch: int | None = None
) -> int:
    """As `peak_bytes`, on a further device that has this much of a denoiser that is split.

    All activations of a call are taken for its own: its blocks may be those with the largest.
    """
    size = edit.size_for(costs)
    calls = [_call_bytes(costs, group, size, max_batch) for group in _groups(costs, edit)]
    return OVERHEAD_BYTES + denoiser_bytes + round(SLACK * max(calls))


@dataclass(frozen=True)
class _Group:
    """Evaluations that are gathered into one batch."""

    evaluations: int
    image: bool
    """Whether they are conditioned on the source image; any, if it makes no difference."""


def _groups(costs: PriorCosts, edit: Edit) -> Sequence[_Group]:
    size = edit.size_for(costs)
    groups: dict[object, _Group] = {}
    for estimate in edit.terms.weights:
        shapes = costs.inputs(size, image=estimate.image).shapes
        before = groups.get(shapes, _Group(0, estimate.image))
        groups[shapes] = _Group(before.evaluations + edit.views, before.image)
    return list(groups.values())


def _text_bytes(part: PartSize, quantize: Quantize) -> int:
    return part.kept_as(quantize if part.parameters > _LANGUAGE_MODEL else "none")


def _iteration_bytes(costs: PriorCosts, edit: Edit, max_batch: int | None) -> float:
    """Activations and tensors that an iteration holds at most while the denoiser is called."""
    size, most = edit.size_for(costs), 0.0
    latent = costs.latent(size).nbytes
    for group in _groups(costs, edit):
        gathered = _GATHERED * latent + costs.inputs(size, image=group.image).row_bytes
        called = _call_bytes(costs, group, size, max_batch)
        most = max(most, group.evaluations * gathered + SLACK * called)
    # The estimates of all groups.
    return most + edit.views * len(edit.terms.weights) * latent


def _call_bytes(costs: PriorCosts, group: _Group, size: Size, max_batch: int | None) -> float:
    """Activations of one call of the denoiser.

    Every tensor's size is linear in the batch, so that their largest sum is convex: between one
    evaluation and all it is at most what lies between these two.
    """
    all_of_them = group.evaluations
    batch = min(max_batch or all_of_them, all_of_them)
    one = float(costs.evaluation(1, size, image=group.image).peak_bytes)
    if batch == 1:
        return one
    most = costs.evaluation(all_of_them, size, image=group.image).peak_bytes
    return one + (most - one) * (batch - 1) / (all_of_them - 1)


def _image_bytes(costs: PriorCosts, edit: Edit) -> int:
    """Pictures, latents and conditions that are held for all views through an edit."""
    height, width = size = edit.size_for(costs)
    pictures = _PICTURES * 3 * 4 * height * width
    latents = _LATENTS + min(edit.source_bank, edit.iterations) / 2
    held = pictures + round(latents * costs.latent(size).nbytes) + costs.source_bytes(size)
    return edit.views * held
