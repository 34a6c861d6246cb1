"""Loads the networks of a model, and refuses weights that don't match them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csd_nerf.priors.halving import is_out_of_memory


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
    try:
        loaded, found = model.from_pretrained(folder, output_loading_info=True, **options)
    # A damaged file is told by an exception of safetensors' own, other shapes by a RuntimeError.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"The weights in {folder} must be a whole {model.__name__}, got {reason}; fetch them "
            "again, or name another model."
        ) from None
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
