"""Named rows: what a model is shown beside the noisy latent."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Int
from torch import Tensor

Rows = Mapping[str, Tensor]
"""Tensors by name, each with one row a particle, or with one row for all of them.

Names in use: `text`, `pooled`, `time_ids` (what a text encoder and its model add to a prompt),
`condition`, `reference`, `control` (what a model sees of the source image).
"""


def take_rows(rows: Rows, index: Int[Tensor, "m"] | slice) -> dict[str, Tensor]:
    """The rows of some particles; a single row, which is everyone's, stays as it is."""
    return {name: r if len(r) == 1 else r[_on(r, index)] for name, r in rows.items()}


def check_rows(rows: Rows, n: int) -> None:
    """Check that rows fit n particles.

    Raises:
        ValueError: If a tensor has neither one row nor n.
    """
    for name, tensor in rows.items():
        if len(tensor) not in (1, n):
            raise ValueError(
                f"The rows {name!r} need 1 row or one a particle ({n}), got {len(tensor)}."
            )


def _on(tensor: Tensor, index: Int[Tensor, "m"] | slice) -> Int[Tensor, "m"] | slice:
    return index if isinstance(index, slice) else index.to(tensor.device, non_blocking=True)
