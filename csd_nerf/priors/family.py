"""Base class of the families of priors: evaluates guidance branches in batches.

A family is a subclass of `DiffusersPrior`. It defines its encoders, the inputs of its model
(`model_rows`), the call of the model (`run`), and the conversion of the output to noise
(`noise_of`). `predict` is common to all: it gathers branches into batches, and returns the
estimates by branch. `run` calls its networks by `call`, so that they can be compiled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from csd_nerf.core.copies import sent
from csd_nerf.core.rows import Rows, check_rows, take_rows
from csd_nerf.core.schedules import Schedule
from csd_nerf.priors.base import Branch
from csd_nerf.priors.compilation import Compilation, padded
from csd_nerf.priors.precisions import tf32_allowed


class DiffusersPrior(ABC):
    """Base of the families of priors; subclasses are `Prior`s.

    Attributes:
        name: The name or path under which the prior was loaded.
        device: Where its model runs; its weights may wait elsewhere.
        dtype: Precision of its model's inputs; its weights may be integers.
        schedule: The noise schedule of the model.
    """

    text_rows: tuple[str, ...] = ("text",)
    """Names of the rows that `encode_text` returns."""
    source_rows: tuple[str, ...] = ()
    """Names of the rows that `encode_source` returns."""
    second_rows: tuple[str, ...] = ()
    """Names of rows that a model with two references takes too; see `second_reference`."""

    def __init__(
        self,
        name: str,
        device: torch.device,
        schedule: Schedule,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self.schedule = schedule
        self._compilation: Compilation | None = None

    def compile(self, *, graphs: bool = False, tell: Callable[[str], None] = print) -> None:
        """Compile the networks that evaluate noise, at their first call; see `Compilation`."""
        self._compilation = Compilation(device=self.device, graphs=graphs, tell=tell)

    def call(self, network: nn.Module, /, *inputs: Any, **named: Any) -> Any:
        """Call a network, for `run`; compiled, if `compile` was called."""
        called = network if self._compilation is None else partial(self._compilation.call, network)
        return called(*inputs, **named)

    @abstractmethod
    def encode(self, image01: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Encode images to clean latents; see `Prior.encode`."""

    @torch.no_grad()
    def encode_source(
        self, image01: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Rows]:
        """Encode source images; families of editing models override this to return rows too."""
        return self.encode(image01), {}

    def encoding_tiles(
        self,
        sample01: Float[Tensor, "n 3 H W"],  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Does nothing; families whose encoder uses statistics of the whole input override it."""
        return nullcontext()

    def decoding_tiles(
        self,
        sample: Float[Tensor, "n c h w"],  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Does nothing; families whose decoder uses statistics of the whole input override it."""
        return nullcontext()

    @abstractmethod
    def run(
        self,
        noisy: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, "b"],
        rows: dict[str, Tensor],
    ) -> Float[Tensor, "b _ h w"]:
        """Call the model once.

        Args:
            noisy: Noisy latents, on any device.
            timestep: One per noisy latent.
            rows: The rows that `model_rows` returned, one per noisy latent.

        Returns:
            The model's raw output, float32.
        """

    @abstractmethod
    def noise_of(
        self,
        output: Float[Tensor, "b _ h w"],
        noisy: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, "b"],
    ) -> Float[Tensor, "b c h w"]:
        """Convert the model's raw output to an estimate of the noise e."""

    def model_rows(self, branch: Branch) -> dict[str, Tensor]:
        """All rows that the model needs for a branch; null conditions fill in for missing rows.

        Branches whose rows have the same names and sizes are evaluated in one batch.

        Raises:
            ValueError: If the branch has rows that the model doesn't take.
        """
        known = (*self.text_rows, *self.source_rows, *self.second_rows)
        if unknown := set(branch.rows) - {*known}:
            raise ValueError(
                f"{self.name!r} takes the rows {', '.join(known)}, got "
                f"{', '.join(sorted(unknown))} too: leave them out, or load a prior that sees them."
            )
        return dict(branch.rows)

    @torch.no_grad()
    def predict(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """Estimate the noise by k branches for the same n particles; see `Prior.predict`.

        Args:
            branches: What to evaluate; all hold n particles.
            timestep: One timestep per particle; samplers may use fractional ones.
            max_batch: Largest number of evaluations in one call of the model; None means no limit.

        Raises:
            ValueError: If there is no branch, a tensor of a branch has neither one row nor n, or
                max_batch is not positive.
        """
        return self.evaluate(branches, timestep, self.noise_of, max_batch=max_batch)

    @torch.no_grad()
    def evaluate(
        self,
        branches: Sequence[Branch],
        timestep: Real[Tensor, "n"],
        convert: Callable[..., Tensor],
        *,
        max_batch: int | None = None,
    ) -> Float[Tensor, "k n c h w"]:
        """What `predict` does, with another conversion of the model's output than `noise_of`."""
        if not branches or (max_batch is not None and max_batch < 1):
            raise ValueError(
                "predict needs a branch or more and a positive max_batch (or None), got "
                f"{len(branches)} branches and max_batch {max_batch}."
            )
        parts = [
            _Part.of(k, branch, self.model_rows(branch), timestep)
            for k, branch in enumerate(branches)
        ]
        estimates = branches[0].noisy.new_zeros(len(branches), *branches[0].noisy.shape)
        groups: dict[object, list[_Part]] = {}
        for part in parts:
            groups.setdefault(part.sizes, []).append(part)
        with torch.autocast(self.device.type, enabled=False):
            for group in groups.values():
                found = self._evaluate_group(group, convert, max_batch)
                for part, one in zip(
                    group, found.split([len(part.noisy) for part in group]), strict=True
                ):
                    estimates[part.branch, part.at] = one
        return estimates

    def _evaluate_group(
        self, group: Sequence[_Part], convert: Callable[..., Tensor], max_batch: int | None
    ) -> Float[Tensor, "b c h w"]:
        """Estimates of parts whose rows have the same sizes, one part after the other."""
        noisy = torch.cat([part.noisy for part in group])
        steps = torch.cat([part.timestep for part in group])
        rows = {name: torch.cat([part.rows[name] for part in group]) for name in group[0].rows}
        size = min(max_batch or len(noisy), len(noisy))
        least = 0
        if self._compilation is not None:
            # Calls of one size, so that few rows are padded.
            size = ceil(len(noisy) / ceil(len(noisy) / size))
            kind = (group[0].sizes, noisy.shape[1:])
            least = self._compilation.batch(kind, size, limit=max_batch)
        # Each row has its own timestep, so the batch may be split anywhere.
        with tf32_allowed():
            outputs = [
                self._run_padded(
                    noisy[first : first + size],
                    steps[first : first + size],
                    {name: tensor[first : first + size] for name, tensor in rows.items()},
                    least=least,
                )
                for first in range(0, len(noisy), size)
            ]
        return convert(torch.cat(outputs).to(noisy.device), noisy, steps)

    def _run_padded(
        self,
        noisy: Float[Tensor, "b c h w"],
        timestep: Real[Tensor, "b"],
        rows: dict[str, Tensor],
        *,
        least: int,
    ) -> Float[Tensor, "b _ h w"]:
        """`run` in a batch of `least` evaluations or more."""
        shown = {name: padded(tensor, least) for name, tensor in rows.items()}
        return self.run(padded(noisy, least), padded(timestep, least), shown)[: len(noisy)]


@dataclass(frozen=True)
class _Part:
    """The evaluations of one branch, one row each."""

    branch: int
    """Number of the branch."""
    at: slice | Int[Tensor, "m"]
    """Indices of their particles; a slice where all are evaluated, since it copies nothing."""
    noisy: Float[Tensor, "m c h w"]
    timestep: Real[Tensor, "m"]
    rows: dict[str, Tensor]

    @classmethod
    def of(
        cls, number: int, branch: Branch, shown: dict[str, Tensor], timestep: Real[Tensor, "n"]
    ) -> _Part:
        n = len(timestep)
        check_rows(shown, n)
        at = slice(0, n)
        if branch.particles is not None:
            at = sent(branch.particles, branch.noisy.device)
        noisy = branch.noisy[at]
        rows = {
            name: tensor.expand(len(noisy), *tensor.shape[1:])
            for name, tensor in take_rows(shown, at).items()
        }
        return cls(number, at, noisy, timestep[at], rows)

    @property
    def sizes(self) -> tuple[tuple[str, torch.Size], ...]:
        """Names of the tensors with their shapes, without the first axis."""
        return tuple(sorted((name, tensor.shape[1:]) for name, tensor in self.rows.items()))
