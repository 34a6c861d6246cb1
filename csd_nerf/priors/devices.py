"""Where models run."""

from __future__ import annotations

import torch


def find_device(name: str | None, *, bundled: bool = False) -> torch.device:
    """The device of a name.

    Args:
        name: Such as cpu or cuda:0; None means a GPU if there is one.
        bundled: Whether a bundled prior is to run, for which None means the CPU.

    Raises:
        ValueError: If it isn't a device's name, or not there.
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
