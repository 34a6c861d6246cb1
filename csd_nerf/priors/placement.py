"""Where the parts of a prior lie, and in which precision they are loaded and run.

diffusers and transformers are imported late.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from csd_nerf.priors.compilation import compile_choice
from csd_nerf.priors.devices import find_device
from csd_nerf.priors.offload import offload_layers
from csd_nerf.priors.parts import load_part
from csd_nerf.priors.splitting import split_blocks

Offload = Literal["none", "text", "model"]
"""What waits on the CPU until it is needed: nothing, the text encoders, or the denoiser's layers
too."""
Quantize = Literal["none", "8bit", "4bit"]
"""Precision of the linear layers' weights: the prior's own, 8-bit integers, or NF4."""

_QUANTIZERS = ("bitsandbytes", "accelerate")


def check_placement(
    *,
    device: torch.device | str,
    offload: str = "none",
    quantize: str = "none",
    compile: str = "off",
    split: Sequence[str] = (),
) -> None:
    """Check that a prior can be placed and compiled so, before anything is fetched.

    See `Placement` and `compile_choice`.

    Raises:
        ValueError: If an option has no such value, weights can't be quantised on the device or
            together with the offloading, what is to be compiled is offloaded or quantised, or a
            split has no device that is there beside the prior's, or is asked for with one of these.
        ImportError: If quantising needs a package that is not installed.
    """
    for name, value, known in (("offload", offload, Offload), ("quantize", quantize, Quantize)):
        if value not in get_args(known):
            raise ValueError(f"{name} needs one of {', '.join(get_args(known))}, got {value}.")
    where = torch.device(device)
    compile_choice(compile, device=where, offload=offload, quantize=quantize, split=bool(split))
    if split:
        _check_split(where, split, offload=offload, quantize=quantize)
    if quantize == "none":
        return
    if torch.device(device).type != "cuda":
        raise ValueError(f"quantize needs a CUDA device, got {quantize} on {device}; take none.")
    if offload == "model":
        raise ValueError(
            f"quantize needs weights that stay on the device, got {quantize} with offload model; "
            "take offload text or none."
        )
    if missing := [name for name in _QUANTIZERS if find_spec(name) is None]:
        raise ImportError(
            f"quantize needs {' and '.join(_QUANTIZERS)}, got {quantize} without "
            f"{' and '.join(missing)}; run `pip install {' '.join(missing)}`."
        )


def _check_split(
    device: torch.device, split: Sequence[str], *, offload: str, quantize: str
) -> None:
    if offload == "model" or quantize != "none":
        raise ValueError(
            f"A split needs weights that stay on their devices as they are, got "
            f"{' '.join(split)} with offload {offload} and quantize {quantize}; take one of them."
        )
    found = [_numbered(one) for one in (device, *map(find_device, split))]
    if len({*found}) < len(found):
        raise ValueError(
            f"A split needs devices beside the prior's own, {device}, each once, got "
            f"{' '.join(split)}; name others, such as cuda:1."
        )


def _numbered(device: torch.device) -> torch.device:
    """A device whose number isn't left open."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


@dataclass(frozen=True)
class Placement:
    """Loads the parts of one prior, each to where it belongs."""

    device: torch.device
    """Where the prior runs."""
    dtype: torch.dtype
    """Precision of the prior: of its weights that are not quantised, and of the inputs of all."""
    variant: str | None = None
    """Variant of the weight files; None means those without a variant in their name."""
    offload: Offload = "none"
    quantize: Quantize = "none"
    split: Sequence[str] = ()
    """Further devices, which take a part of the denoiser's blocks each."""

    def autoencoder(
        self, model: Any, folder: Path, *, tiling: bool = False, dtype: torch.dtype | None = None
    ) -> Any:
        """Load an autoencoder to the device, where it stays.

        It is small, and scene editing takes gradients through it, for which its weights are needed.

        Args:
            model: Its class, of diffusers.
            folder: Its folder.
            tiling: Whether it takes large images in overlapping tiles.
            dtype: Its precision, if not the prior's.

        Raises:
            ValueError: If the weights are damaged or don't match the configuration.
        """
        vae = self._network(model, folder, dtype or self.dtype)
        if tiling:
            vae.enable_tiling()
        return vae.to(self.device)

    def denoiser(self, model: Any, folder: Path) -> Any:
        """Load a denoiser, or another large network of diffusers; else as `autoencoder`.

        Ask neither its device nor its precision later, since its weights may lie on the CPU or be
        integers: its inputs go to `device` in `dtype`.
        """
        if self.quantize != "none":
            import diffusers

            # It is on its device then, and must not be moved.
            return self._network(model, folder, self.dtype, **self._quantized_by(diffusers))
        loaded = self._network(model, folder, self.dtype)
        if self.split:
            split_blocks(loaded, [self.device, *map(torch.device, self.split)])
            return loaded
        if self.offload != "model":
            return loaded.to(self.device)
        offload_layers(loaded.eval().requires_grad_(False), self.device)
        return loaded

    def text_encoder(self, model: Any, folder: Path, *, large: bool = False) -> Any:
        """Load a text encoder; one that waits on the CPU is moved by `TextEncoder`.

        Args:
            model: Its class, of transformers.
            folder: Its folder.
            large: Whether it is a language model, whose weights are quantised too, if it doesn't
                wait on the CPU.
        """
        # The precision is set while loading: transformers then keeps some layers of T5 in float32,
        # which would overflow in half precision.
        options: dict[str, Any] = {"variant": self.variant, "dtype": self.dtype}
        if self.offload != "none":
            return load_part(model, folder, **options)
        if large and self.quantize != "none":
            import transformers

            return load_part(model, folder, **options, **self._quantized_by(transformers))
        return load_part(model, folder, **options).to(self.device)

    def _network(self, model: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
        from diffusers.utils import is_accelerate_available

        return load_part(
            model,
            folder,
            variant=self.variant,
            torch_dtype=dtype,
            # Without accelerate diffusers would fall back to this by itself, with a warning.
            low_cpu_mem_usage=is_accelerate_available(),
            **options,
        )

    def _quantized_by(self, library: Any) -> dict[str, Any]:
        """The options of `from_pretrained` of diffusers or transformers."""
        # Each call of each layer would warn that bfloat16 becomes float16 on its way to 8 bits.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        if self.quantize == "8bit":
            config = library.BitsAndBytesConfig(load_in_8bit=True)
        else:
            config = library.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
            )
        return {"quantization_config": config, "device_map": {"": self.device}}
