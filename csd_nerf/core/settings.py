"""The options of an edit, with the paper's variants and ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from csd_nerf.core.guidance import Baseline
from csd_nerf.core.schedules import check_t_range
from csd_nerf.core.stein import Normalize

Mixing = Literal["stein", "none"]
Noise = Literal["shared", "independent"]
KernelOn = Literal["noisy", "clean"]
RepulsionScale = Literal["sigma", "one"]
Distillation = Literal["csd", "sds"]
Kernel = Literal["lpips", "l2"]


@dataclass(frozen=True)
class EditSettings:
    """How an edit is optimised."""

    iterations: int = 200
    """Steps of gradient descent; the paper's video edits take 200 to 500."""
    learning_rate: float = 2.0
    """Step size in latent units; the paper takes 2 for panoramas, 0.25 to 2 for videos."""
    decay: float = 0.9
    """Factor of the learning rate every `decay_every` iterations."""
    decay_every: int = 20
    """Iterations between two decays."""
    text_scale: float = 7.5
    """w_y of Eq. 3: how strongly the instruction is followed; the paper takes 3 to 15."""
    image_scale: float = 1.5
    """w_s of Eq. 3: how closely the source is kept; the paper takes 1.5 to 5."""
    t_range: tuple[float, float] = (0.02, 0.5)
    """First and last timestep, as fractions of the prior's schedule."""
    batch_size: int | None = None
    """Images an iteration, drawn without replacement; None takes all."""
    mixing: Mixing = "stein"
    """Whether residuals are mixed by the kernel, or each image goes by its own."""
    baseline: Baseline = "source"
    """What is subtracted: the source's estimate (CSD-Edit) or the drawn noise (SDS)."""
    noise: Noise = "shared"
    """One noise for all particles (Eq. 8) or one for each (the authors' release)."""
    kernel_on: KernelOn = "noisy"
    """Whether the kernel compares noisy or clean latents."""
    normalize: Normalize = "n"
    """Divide mixed residuals by the number of particles or by the sum of kernel values."""
    repulsion: float = 1.0
    """Weight of the term that pushes particles apart."""
    repulsion_scale: RepulsionScale = "sigma"
    """Scale the repulsion by sigma_t, as the score asks for, or by one, as Eq. 8 prints."""
    max_batch: int | None = None
    """Largest number of model evaluations, or of images to encode or decode, in one call."""

    def __post_init__(self) -> None:
        check_t_range(self.t_range)
        for name in ("iterations", "decay_every", "batch_size", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} needs to be at least 1, got {value}.")
        for name in ("learning_rate", "decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} needs to be positive, got {getattr(self, name)}.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} needs to be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )


@dataclass(frozen=True)
class DistillSettings:
    """How rendered views are distilled from a text-to-image prior (CSD Eq. 8)."""

    text_scale: float = 20.0
    """Classifier-free guidance; the paper takes 20 with DeepFloyd IF (Appendix C.2)."""
    t_range: tuple[float, float] = (0.02, 0.98)
    """First and last timestep, as fractions of the prior's schedule; DreamFusion's."""
    noise: Noise = "shared"
    """One noise for all particles (Eq. 8) or one for each."""
    kernel: Kernel = "lpips"
    """Distance of the kernel: LPIPS between rendered views, as in the paper, or squared L2."""
    normalize: Normalize = "n"
    """Divide mixed residuals by the number of particles or by the sum of kernel values."""
    repulsion: float = 1.0
    """Weight of the term that pushes particles apart. In many dimensions the plain scale moves
    little: several objects want 5 and more."""
    max_batch: int | None = None
    """Largest number of model evaluations in one call."""

    def __post_init__(self) -> None:
        check_t_range(self.t_range)
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch needs to be at least 1, got {self.max_batch}.")
        if self.repulsion < 0:
            raise ValueError(f"repulsion can't be negative, got {self.repulsion}.")
        for name, choices in _DISTILL_CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} needs to be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                )


_DISTILL_CHOICES = {
    "noise": get_args(Noise),
    "kernel": get_args(Kernel),
    "normalize": get_args(Normalize),
}
_CHOICES = {
    "mixing": get_args(Mixing),
    "baseline": get_args(Baseline),
    "noise": get_args(Noise),
    "kernel_on": get_args(KernelOn),
    "normalize": get_args(Normalize),
    "repulsion_scale": get_args(RepulsionScale),
}
