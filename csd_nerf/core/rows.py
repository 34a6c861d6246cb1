"""Named rows: the inputs of a model other than the noisy latent and the timestep."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor

from csd_nerf.core.copies import sent

Rows = Mapping[str, Tensor]
"""Tensors by name. Each has one row (index along its first axis) per particle, or a single row
that all particles share.

Names for what comes from the prompt: `text`, `pooled`, `time_ids`. Names for what comes from the
source image: `condition`, `reference`, `picture`; and `control`, which is no condition to be guided
by, see `csd_nerf.core.structure`.
"""

PICTURE = "picture"
"""Name of the rows with the source image itself, for models whose text encoder sees it. Its pixels
are packed into channels, so that it is a map of the latent's size, as all rows of the source are.
"""
SECOND = "_2"
"""End of the names of rows of a second image, which the model sees beside the source."""
PICTURES = (PICTURE, PICTURE + SECOND)
"""Names of the rows with images for the text encoder, in the order in which it sees them."""


def without_picture(rows: Rows) -> Rows:
    """All rows but `PICTURE`, which only text encoders see."""
    return {name: tensor for name, tensor in rows.items() if name != PICTURE}


def take_rows(rows: Rows, index: Int[Tensor, "m"] | slice) -> dict[str, Tensor]:
    """Select the rows of some particles; a tensor with a single, shared row stays as it is."""
    return {name: r if len(r) == 1 else r[on_device(r, index)] for name, r in rows.items()}


def check_rows(rows: Rows, n: int) -> None:
    """Check that each tensor has one row or n rows.

    Raises:
        ValueError: If a tensor has neither one row nor n.
    """
    for name, tensor in rows.items():
        if len(tensor) not in (1, n):
            raise ValueError(
                f"The rows {name!r} need 1 row or one a particle ({n}), got {len(tensor)}."
            )


def on_device(tensor: Tensor, index: Int[Tensor, "m"] | slice) -> Int[Tensor, "m"] | slice:
    """An index, which lies on the CPU, on the device of what it selects from."""
    return index if isinstance(index, slice) else sent(index, tensor.device)
