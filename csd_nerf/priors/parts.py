"""Loads the parts of a model, and refuses weights that don't match them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csd_nerf.priors.halving import is_out_of_memory

_LONGEST_REASON = 200
"""Number of letters of another package's message that is passed on."""


@contextmanager
def reading_part(folder: Path) -> Iterator[None]:
    """Turn what diffusers and transformers raise at damaged files into one line.

    Args:
        folder: The part of a model that the block loads.

    Raises:
        ValueError: If the block fails for another reason than a missing package, file or memory.
    """
    try:
        yield
    # Files of another type, with missing or other fields, raise whatever the class runs into.
    except Exception as error:
        if isinstance(error, (ImportError, MemoryError, PermissionError)):
            raise
        if is_out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:_LONGEST_REASON]
        raise ValueError(
            f"A part of a prior must be whole and of its class, but {folder} can't be loaded "
            f"({type(error).__name__}: {why}); fetch it again, or name another model."
        ) from error


def load_part(model: Any, folder: Path, **options: Any) -> Any:
    """Load a model of diffusers or transformers from its folder.

    Both would leave a parameter without a weight at random values, with no more than a warning.

    Args:
        model: The class; `Any` since diffusers annotates no precise type.
        folder: The folder.
        options: Further options of `from_pretrained`.

    Raises:
        ValueError: If the weights are damaged or don't match the configuration.
    """
    with reading_part(folder):
        loaded, found = model.from_pretrained(folder, output_loading_info=True, **options)
    # Buffers, such as CLIP's position_ids, are made anew.
    parameters = {name for name, _ in loaded.named_parameters()}
    faults = sorted(parameters & {*found["missing_keys"]})
    faults += sorted(str(key) for key in found["mismatched_keys"])
    if faults or found["error_msgs"]:
        told = [*faults, *found["error_msgs"]]
        more = f" and {len(told) - 1} more" if len(told) > 1 else ""
        raise ValueError(
            f"The weights in {folder} must have every parameter of {model.__name__}, got none that "
            f"fits for {told[0]}{more}; name another model, or install the releases of diffusers "
            "and transformers that requirements.lock names."
        )
    return loaded
