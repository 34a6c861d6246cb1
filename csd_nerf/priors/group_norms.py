"""Group normalisation of tiles as if they were one picture.

A group norm takes mean and variance over a whole picture. Run on tiles, each by its own, it makes
a smooth tile as contrasty as a busy one: the tiles of one picture don't fit together, and dark
ones come out wrong. Here the statistics are those of a sample of the tiles, pooled, and the same
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

Statistics = dict[nn.GroupNorm, tuple[Tensor, Tensor]]
"""Mean and variance of each group, by layer."""


def pooled_statistics(model: nn.Module, run: Callable[[], object]) -> Statistics:
    """Statistics of every group norm over the whole batch of a forward pass.

    A layer sees what the layers before it make of the batch with their own pooled statistics, so
    that the result is exact for the batch.

    Args:
        model: Whose group norms count.
        run: Runs the model once, on all tiles of the sample.
    """
    statistics: Statistics = {}

    def record(norm: nn.GroupNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        grouped = inputs[0].float().unflatten(1, (norm.num_groups, -1))
        others = [axis for axis in range(grouped.ndim) if axis != 1]
        variance, mean = torch.var_mean(grouped, dim=others, correction=0)
        statistics[norm] = (mean, variance)
        return _normalise(norm, inputs[0], mean, variance)

    with ExitStack() as hooks:
        for norm in _group_norms(model):
            hooks.enter_context(norm.register_forward_hook(record))
        run()
    return statistics


@contextmanager
def normalised_by(statistics: Statistics) -> Iterator[None]:
    """Within it, these layers normalise by these statistics, whatever their input."""

    def apply(norm: nn.GroupNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        return _normalise(norm, inputs[0], *statistics[norm])

    with ExitStack() as hooks:
        for norm in statistics:
            hooks.enter_context(norm.register_forward_hook(apply))
        yield


def _group_norms(model: nn.Module) -> list[nn.GroupNorm]:
    return [module for module in model.modules() if isinstance(module, nn.GroupNorm)]


def _normalise(norm: nn.GroupNorm, batch: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """A group norm's output, by given statistics, in the batch's precision."""
    shape = (1, -1, *[1] * (batch.ndim - 2))
    per_group = norm.num_channels // norm.num_groups
    scale = (variance + norm.eps).rsqrt().repeat_interleave(per_group)
    shift = -mean.repeat_interleave(per_group) * scale
    if norm.affine:
        shift = shift * norm.weight.float() + norm.bias.float()
        scale = scale * norm.weight.float()
    return (batch.float() * scale.view(shape) + shift.view(shape)).to(batch.dtype)
