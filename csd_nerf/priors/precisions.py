"""Precisions in which a prior's parts run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The precisions in which a prior can run."""


def precision(dtype: torch.dtype | str, *, device: torch.device, half: str) -> torch.dtype:
    """The precision that a name means.

    Args:
        dtype: A torch dtype, a key of `DTYPES`, or `auto`: half precision on a GPU, else float32.
        device: Where the model runs.
        half: Its family's half precision, a key of `DTYPES`.

    Raises:
        ValueError: If there is no such precision.
    """
    if dtype == "auto":
        return DTYPES[half] if device.type == "cuda" else torch.float32
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ValueError(f"dtype needs one of auto, {', '.join(DTYPES)}, got {dtype}.")
    return found


def is_half(dtype: torch.dtype | str, *, device: torch.device | str) -> bool:
    """Whether a model runs in half precision, whatever its family; else as `precision`."""
    return precision(dtype, device=torch.device(device), half="float16") != torch.float32


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """A context in which a GPU may round the inputs of float32 products to TF32.

    TF32 has float32's range and float16's 10 bits of mantissa; sums stay in float32. Only a
    network's evaluation may be in such a context: all that the editor computes from it is exact.
    """
    cudnn: Any = torch.backends.cudnn
    products = (torch.backends.cuda.matmul, cudnn.conv)
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "tf32"
        yield
    finally:
        for product, value in zip(products, before, strict=True):
            product.fp32_precision = value
