"""Names of devices."""

from __future__ import annotations

import torch


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
