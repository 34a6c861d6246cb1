"""A prior that halves its batches when memory runs out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Real
from torch import Tensor

from csd_nerf.core.rows import Rows
from csd_nerf.priors.base import Branch, Prior
from csd_nerf.priors.estimates import encode_sources

_Result = TypeVar("_Result")

_ALLOCATION = re.compile(
    "DefaultCPUAllocator: can't allocate memory|not enough memory|CUDA error: out of memory"
    "|CU[A-Z]+_STATUS_[A-Z_]*ALLOC(ATION)?_FAILED|CUFFT_ALLOC_FAILED"
)
"""Parts of torch's RuntimeErrors when memory runs out: of its allocators, and of cuBLAS, cuDNN and
their kin, which allocate workspaces of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a GPU or of the CPU has run out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _ALLOCATION.search(str(error)) is not None


def out_of_memory(what: str, device: torch.device) -> MemoryError:
    """The error to raise when even the smallest batch doesn't fit; names remedies."""
    return MemoryError(
        f"The memory must hold {what}, got too little on {device}; lower the size or the batch, "
        "or compute in half precision."
    )


class HalvingPrior:
    """Wraps a prior: a call that runs out of memory is repeated in batches of half the size.

    The size that fitted is remembered for each kind of call. Splitting changes the result by no
    more than rounding.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        max_batch: int | None = None,
        tell: Callable[[str], None] = warnings.warn,
    ) -> None:
        """Wrap a prior.

        Args:
            prior: The prior to wrap.
            max_batch: Largest number of images or evaluations in one call, before any halving; None
                means no limit.
            tell: Called with a line for the user when batches become smaller.
        """
        self.name = prior.name
        self.device = prior.device
        self.schedule = prior.schedule
        self.latent_channels = prior.latent_channels
        self.cell_size = prior.cell_size
        self.preferred_size = prior.preferred_size
        self.size_multiple = prior.size_multiple
        self.source_rows = prior.source_rows
        self._prior = prior
        self._max_batch = max_batch
        self._tell = tell
        self._fitting: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        """Look up other attributes in the wrapped prior."""
        return getattr(self._prior, name)

    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """As the prior does."""
        return self._in_parts("images to encode", self._prior.encode, image01)

    def decode(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """As the prior does."""
        return self._in_parts("images to decode", self._prior.decode, latent)

    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """As the prior does."""

        def call(size: int) -> tuple[Tensor, Rows]:
            return encode_sources(self._prior, image01, max_batch=size)

        return self._fit("images to encode", call, len(image01))

    def encoding_tiles(self, sample01: Float[Tensor, "n 3 H W"]) -> AbstractContextManager[Any]:
        """As the prior does; if memory runs out, with fewer tiles in the sample."""
        return self._enter(self._prior.encoding_tiles, sample01)

    def decoding_tiles(self, sample: Float[Tensor, "n c h w"]) -> AbstractContextManager[Any]:
        """As the prior does; if memory runs out, with fewer tiles in the sample."""
        return self._enter(self._prior.decoding_tiles, sample)

    def encode_text(self, prompts: Sequence[str], image_rows: Rows | None = None) -> Rows:
        """As the prior does."""
        return self._prior.encode_text(prompts, image_rows)

    def free_text_encoder(self) -> None:
        """As the prior does."""
        self._prior.free_text_encoder()

    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """As the prior does; halving starts at `max_batch`."""
        return self._predicted(self._prior.predict, branches, timestep, max_batch)

    def predict_velocity(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """As the prior of a flow does; halving starts at `max_batch`."""
        flow: Any = self._prior
        return self._predicted(flow.predict_velocity, branches, timestep, max_batch)

    def _predicted(
        self,
        function: Callable[..., Tensor],
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        max_batch: int | None,
    ) -> Float[Tensor, "k n c h w"]:
        def call(size: int) -> Float[Tensor, "k n c h w"]:
            return function(branches, timestep, max_batch=size)

        count = sum(branch.evaluations for branch in branches)
        return self._fit("model evaluations", call, max(1, count), max_batch)

    def _enter(
        self,
        tiles_of: Callable[[Tensor], AbstractContextManager[None]],
        sample: Float[Tensor, "n c h w"],
    ) -> ExitStack:
        def enter(size: int) -> ExitStack:
            spread = torch.linspace(0, len(sample) - 1, size).round().long()
            entered = ExitStack()
            entered.enter_context(tiles_of(sample[spread]))
            return entered

        return self._fit("tiles of a sample", enter, len(sample), len(sample))

    def _in_parts(
        self, what: str, function: Callable[[Tensor], Tensor], batch: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n _ _ _"]:
        return self._fit(
            what, lambda size: torch.cat([function(part) for part in batch.split(size)]), len(batch)
        )

    def _fit(
        self, what: str, call: Callable[[int], _Result], count: int, limit: int | None = None
    ) -> _Result:
        """Call with the largest size that may fit; halve it while memory runs out.

        Args:
            what: The kind of call, as a phrase for messages.
            call: Function of the largest size of a batch.
            count: Total number of items.
            limit: The caller's limit on the size of a batch.
        """
        limits = (limit, self._max_batch, self._fitting.get(what))
        first = size = min([count, *(number for number in limits if number is not None)])
        while (result := _attempt(call, size)) is None:
            if size <= 1:
                raise out_of_memory(f"one at a time of the {what}", self.device)
            size //= 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if size < first:
            self._fitting[what] = size
            self._tell(
                f"The memory was not enough for {first} {what} at a time; from now on it is {size}."
            )
        return result


def _attempt(call: Callable[[int], _Result], size: int) -> _Result | None:
    """Call; None if memory ran out. A function of its own, so that failed tensors are freed."""
    try:
        return call(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
