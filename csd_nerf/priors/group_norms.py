"""Group normalisation of tiles with common statistics, as if they were one picture.

A group norm takes mean and variance over its whole input. If each tile of a picture is normalised
by its own statistics, a smooth tile gets as much contrast as a detailed one: the tiles don't fit
together, and dark ones get wrong colours. Here all tiles are normalised by the pooled statistics of
a sample of the tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

Statistics = dict[nn.GroupNorm, tuple[Tensor, Tensor]]
"""Mean and variance of each group, by group-norm layer."""


def pooled_statistics(model: nn.Module, run: Callable[[], object]) -> Statistics:
    """Measure the statistics of every group norm over the whole batch of a forward pass.

    During this pass each layer already normalises by its pooled statistics, so that the statistics
    of the layers after it are exact too.

    Args:
        model: The model whose group norms are measured.
        run: Function that runs the model once, on all tiles of the sample as one batch.
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
    """A context in which these layers normalise by these statistics instead of their input's."""

    def apply(norm: nn.GroupNorm, inputs: tuple[Tensor], _: Tensor) -> Tensor:
        return _normalise(norm, inputs[0], *statistics[norm])

    with ExitStack() as hooks:
        for norm in statistics:
            hooks.enter_context(norm.register_forward_hook(apply))
        yield


def _group_norms(model: nn.Module) -> list[nn.GroupNorm]:
    return [module for module in model.modules() if isinstance(module, nn.GroupNorm)]


def _normalise(norm: nn.GroupNorm, batch: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """A group norm's output with given statistics, in the batch's precision."""
    shape = (1, -1, *[1] * (batch.ndim - 2))
    per_group = norm.num_channels // norm.num_groups
    scale = (variance + norm.eps).rsqrt().repeat_interleave(per_group)
    shift = -mean.repeat_interleave(per_group) * scale
    if norm.affine:
        shift = shift * norm.weight.float() + norm.bias.float()
        scale = scale * norm.weight.float()
    return (batch.float() * scale.view(shape) + shift.view(shape)).to(batch.dtype)
