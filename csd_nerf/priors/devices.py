"""Names of devices."""

from __future__ import annotations

import torch

from csd_nerf.core.ranks import Ranks


def find_device(name: str | None, *, bundled: bool = False) -> torch.device:
    """Return the device with a name.

    Args:
        name: For example cpu or cuda:0. None means a GPU if there is one, else the CPU.
        bundled: Whether the prior is a bundled one, for which None always means the CPU.

    Raises:
        ValueError: If the name is not a device's, or there is no such GPU.
    """
    name = name or ("cuda" if torch.cuda.is_available() and not bundled else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"A device needs a name such as cpu or cuda:0, got {name!r}.") from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"A device needs to be there, got {name} with {count} GPUs; try cpu.")
    return device


def own_device(device: torch.device, ranks: Ranks) -> torch.device:
    """The device of this rank: if GPUs are asked for, the one with its number on its machine.

    Raises:
        ValueError: If one GPU is named for several ranks, or there are too few.
    """
    if ranks.count == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ValueError(
            f"{ranks.count} ranks need a GPU each, got {device} for all; say cuda, or leave it out."
        )
    found = find_device(f"cuda:{ranks.local}")
    torch.cuda.set_device(found)
    return found
