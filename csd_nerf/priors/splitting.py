"""Spreads the blocks of a denoiser over several devices, if it exceeds the memory of one.

diffusers' `device_map` does this too, by accelerate's hooks. Here a cut lies only between blocks,
where a model's own `forward` hands one block's output to the next; nothing needs to be installed,
and tests see on a CPU what crosses devices.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from csd_nerf.core.copies import sent


def split_blocks(model: nn.Module, devices: Sequence[torch.device]) -> None:
    """Let a model run on several devices, each with a run of its blocks.

    Inputs may be on any device, and outputs are on the first one. Results are those of one device.
    A call goes through the devices in turn, so that it takes as long as on one.

    Args:
        model: Lies on the CPU. Its blocks are the modules of its lists, such as `down_blocks` or
            `transformer_blocks`; all else stays together on the first device.
        devices: Two or more.

    Raises:
        ValueError: If the model has fewer blocks than there are devices.
    """
    first, blocks = devices[0], blocks_of(model)
    if len(blocks) < len(devices):
        raise ValueError(
            f"A split needs a block for each device, got {type(model).__name__} with {len(blocks)} "
            f"blocks for {len(devices)} devices; name fewer."
        )
    rest = [child for child in model.children() if not isinstance(child, nn.ModuleList)]
    rooms = [_room(device) for device in devices]
    sizes, kept = [*map(_bytes, blocks)], sum(map(_bytes, rest))
    places = block_places(sizes, rooms, rest=kept)
    for block, place in zip(blocks, places, strict=True):
        _run_on(block, devices[place])
    for child in rest:
        _run_on(child, first)
    for name, own in model.named_parameters(recurse=False):
        setattr(model, name, nn.Parameter(own.detach().to(first), requires_grad=False))
    for name, own in model.named_buffers(recurse=False):
        setattr(model, name, own.to(first))
    model.register_forward_pre_hook(_brings(first), with_kwargs=True)
    model.register_forward_hook(lambda _, __, output: moved(output, first))


def block_places(
    sizes: Sequence[int], rooms: Sequence[int] | Sequence[float], *, rest: int
) -> list[int]:
    """The number of the device of each block: runs of blocks, in proportion to the devices' room.

    Args:
        sizes: Bytes of each block, in the order of the computation.
        rooms: Free memory of each device, in any unit.
        rest: Bytes of what stays on the first device.
    """
    total = rest + sum(sizes)
    ends = [total * room / sum(rooms) for room in accumulate(rooms)][:-1]
    starts = accumulate(sizes[:-1], initial=rest)
    return [bisect(ends, start + size / 2) for start, size in zip(starts, sizes, strict=True)]


def split_bytes(
    sizes: Sequence[int], rooms: Sequence[int] | Sequence[float], *, rest: int
) -> list[int]:
    """Bytes that each device gets; arguments as for `block_places`."""
    held = [rest, *(0 for _ in rooms[1:])]
    for size, place in zip(sizes, block_places(sizes, rooms, rest=rest), strict=True):
        held[place] += size
    return held


def moved(values: Any, device: torch.device) -> Any:
    """All tensors in arguments or results, on a device."""
    return tree_map_only(Tensor, lambda tensor: sent(tensor, device), values)


def _run_on(module: nn.Module, device: torch.device) -> None:
    module.to(device)
    module.register_forward_pre_hook(_brings(device), with_kwargs=True)


def _brings(device: torch.device) -> Any:
    """A hook that brings a module's arguments to a device."""
    return lambda _, inputs, named: (moved(inputs, device), moved(named, device))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a denoiser, in the order of its computation."""
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList)]
    return [block for one in lists for block in one]


def _bytes(module: nn.Module) -> int:
    return sum(one.nbytes for one in (*module.parameters(), *module.buffers()))


def _room(device: torch.device) -> float:
    """Free bytes of a GPU; 1 for other devices, which are as large as each other."""
    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 1.0
