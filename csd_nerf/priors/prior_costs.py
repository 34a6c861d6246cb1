"""The costs of one prior: of its weights, and of each thing that it computes.

The prior is the real one, without weights (`csd_nerf.priors.skeletons`), so that everything it does
with its inputs is counted too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csd_nerf.priors.architectures import configurations
from csd_nerf.priors.base import Branch
from csd_nerf.priors.costs import Cost, LikeAGPU, count
from csd_nerf.priors.placement import Quantize
from csd_nerf.priors.splitting import blocks_of

_BYTES_PER_WEIGHT = {"8bit": 1 + 1 / 128, "4bit": 0.5 + 4 / 64}
"""Of bitsandbytes: 8-bit integers with a scale for each row; NF4 with a float32 for 64 weights."""

Size = tuple[int, int]
"""Height and width of an image in pixels."""


@dataclass(frozen=True)
class PartSize:
    """The weights of one part of a prior."""

    parameters: int
    """As its file has them."""
    loaded_bytes: int
    """In its precision, as it is loaded."""
    kept_bytes: int
    """Without the layers that the prior drops after loading."""
    linear_bytes: int
    """Of `kept_bytes`, the weights of linear layers, which can be quantised."""
    linear_weights: int
    """Number of these weights."""
    layer_bytes: int
    """The largest layer's."""
    block_bytes: tuple[int, ...]
    """Of the blocks that a split spreads over devices, in their order."""

    def kept_as(self, quantize: Quantize) -> int:
        """Bytes with the linear layers' weights in this precision."""
        if quantize == "none":
            return self.kept_bytes
        others = self.kept_bytes - self.linear_bytes
        return others + round(_BYTES_PER_WEIGHT[quantize] * self.linear_weights)


@dataclass(frozen=True)
class Inputs:
    """The inputs of the denoiser for one evaluation, on the meta device."""

    noisy: Tensor
    rows: dict[str, Tensor]

    @property
    def row_bytes(self) -> int:
        """Bytes of the rows."""
        return sum(row.nbytes for row in self.rows.values())

    @property
    def shapes(self) -> tuple[object, ...]:
        """What evaluations need to have in common to be computed in one batch."""
        return tuple(sorted((name, row.shape) for name, row in self.rows.items()))


class PriorCosts:
    """The costs of one prior in one precision; each is counted once.

    Attributes:
        name: Its name.
        dtype: Its precision.
        family: Its family.
        parts: Sizes of its parts, by the names of their subfolders.
        preferred_size: Edge in pixels of the images that it was trained on.
        cell_size: Pixels along one edge of a latent cell.
        size_multiple: Heights and widths in pixels must be multiples of this.
    """

    def __init__(self, name_or_path: str | Path, dtype: torch.dtype) -> None:
        """Make the prior, without weights.

        Args:
            name_or_path: A short name, a hub id or a folder.
            dtype: Its precision.

        Raises:
            ValueError: If its architecture isn't known, or can't be built.
        """
        # Late: it imports diffusers and transformers.
        from csd_nerf.priors.skeletons import skeleton, skeleton_parts

        self.name, self.dtype = str(name_or_path), dtype
        configs, self.family = configurations(name_or_path)
        modules = skeleton_parts(configs, self.family, dtype=dtype)
        loaded = {place: _weights_of(module) for place, module in modules.items()}
        self._prior: Any = skeleton(modules, self.family, name=self.name)
        self.preferred_size: int = self._prior.preferred_size
        self.cell_size: int = self._prior.cell_size
        self.size_multiple: int = self._prior.size_multiple
        self.parts = {place: _size_of(module, loaded[place]) for place, module in modules.items()}
        self._weights = [t for module in modules.values() for t in _weights_of(module)]
        self._counted: dict[tuple[object, ...], Cost] = {}
        self._inputs: dict[tuple[Size, bool], Inputs] = {}
        self._sources: dict[Size, dict[str, Tensor]] = {}

    @property
    def denoiser(self) -> PartSize:
        """The U-Net or transformer."""
        return self.parts["transformer" if "transformer" in self.parts else "unet"]

    @property
    def autoencoder_bytes(self) -> int:
        """Weights of the autoencoder; 0 for a model of pixels."""
        return self.parts["vae"].kept_bytes if "vae" in self.parts else 0

    @property
    def text_encoders(self) -> list[PartSize]:
        """All text encoders."""
        return [part for place, part in self.parts.items() if place.startswith("text_encoder")]

    def source_bytes(self, size: Size) -> int:
        """Bytes of the rows that one source image gives."""
        return sum(row.nbytes for row in self._source_rows(size).values())

    def _source_rows(self, size: Size) -> dict[str, Tensor]:
        if size not in self._sources:
            with torch.no_grad(), LikeAGPU():
                image = torch.empty(1, 3, *size, device="meta")
                self._sources[size] = self._prior.encode_source(image)[1]
        return self._sources[size]

    @property
    def text_rows(self) -> dict[str, torch.Size]:
        """Shapes of the rows of one text that has seen no picture."""
        with torch.no_grad(), LikeAGPU():
            return {name: row.shape for name, row in self._prior.encode_text(["text"]).items()}

    def text(self) -> Cost:
        """Encoding one text, by all text encoders."""
        return self._count(("text",), lambda: self._prior.encode_text(["text"]))

    def encoding(self, size: Size) -> Cost:
        """Encoding one source image."""
        image = torch.empty(1, 3, *size, device="meta")
        return self._count(("encode", size), lambda: self._prior.encode_source(image), image)

    def decoding(self, size: Size) -> Cost:
        """Decoding one image."""
        latent = self.latent(size)
        return self._count(("decode", size), lambda: self._prior.decode(latent), latent)

    def evaluation(self, batch: int, size: Size, *, image: bool) -> Cost:
        """One call of the denoiser.

        Args:
            batch: Number of evaluations in the call.
            size: Of the images.
            image: Whether the evaluations are conditioned on the source image.
        """
        one = self.inputs(size, image=image)
        noisy = one.noisy.new_empty(batch, *one.noisy.shape[1:])
        rows = {name: row.new_empty(batch, *row.shape[1:]) for name, row in one.rows.items()}
        timestep = torch.ones(batch, device="meta")
        return self._count(
            ("evaluate", batch, size, image),
            lambda: self._prior.run(noisy, timestep, rows),
            *(noisy, timestep, *rows.values()),
        )

    def inputs(self, size: Size, *, image: bool) -> Inputs:
        """The inputs of the denoiser for one image of a size; `image` is as for `evaluation`."""
        if (size, image) not in self._inputs:
            with torch.no_grad(), LikeAGPU():
                shown = self._source_rows(size) if image else {}
                rows = {**self._prior.encode_text(["text"], shown or None), **shown}
            noisy = self.latent(size)
            self._inputs[size, image] = Inputs(noisy, self._prior.model_rows(Branch(noisy, rows)))
        return self._inputs[size, image]

    def latent(self, size: Size) -> Tensor:
        """The latent of one image, on the meta device."""
        height, width = (edge // self.cell_size for edge in size)
        return torch.empty(1, self._prior.latent_channels, height, width, device="meta")

    def _count(
        self, key: tuple[object, ...], function: Callable[[], object], *inputs: Tensor
    ) -> Cost:
        if key not in self._counted:
            self._counted[key] = count(function, outside=[*self._weights, *inputs])
        return self._counted[key]


@cache
def prior_costs(name_or_path: str | Path, dtype: torch.dtype) -> PriorCosts:
    """The costs of a prior, made once in a process; arguments and errors as `PriorCosts`."""
    return PriorCosts(name_or_path, dtype)


def _weights_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _size_of(module: nn.Module, loaded: list[Tensor]) -> PartSize:
    linear = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    layers = [
        [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        for layer in module.modules()
    ]
    return PartSize(
        parameters=sum(tensor.numel() for tensor in loaded if isinstance(tensor, nn.Parameter)),
        loaded_bytes=_bytes(loaded),
        kept_bytes=_bytes(_weights_of(module)),
        linear_bytes=_bytes(linear),
        linear_weights=sum(weight.numel() for weight in linear),
        layer_bytes=max(map(_bytes, layers)),
        block_bytes=tuple(_bytes(_weights_of(block)) for block in blocks_of(module)),
    )


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
