"""The options of an edit, with the paper's variants and ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from csd_nerf.core.residuals import ResidualName
from csd_nerf.core.schedules import check_t_range
from csd_nerf.core.stein import Normalize

Mixing = Literal["stein", "none"]
Noise = Literal["shared", "independent"]
KernelOn = Literal["noisy", "clean"]
RepulsionScale = Literal["sigma", "one"]
Distillation = Literal["csd", "sds"]
KernelDistance = Literal["lpips", "l2"]


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
    residual: ResidualName = "csd"
    """What drives an image: csd subtracts the source's estimate (CSD-Edit, Eq. 9), sds the drawn
    noise; dds (Appendix A) needs a text-to-image model and a description of the source."""
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
        _check_counts(self, "iterations", "decay_every", "batch_size", "max_batch")
        for name in ("learning_rate", "decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} needs to be positive, got {getattr(self, name)}.")
        _check_choices(self)


@dataclass(frozen=True)
class DistillSettings:
    """How rendered views are distilled from a text-to-image prior (CSD Eq. 8)."""

    text_scale: float = 20.0
    """Classifier-free guidance; the paper takes 20 with DeepFloyd IF (Appendix C.2)."""
    t_range: tuple[float, float] = (0.02, 0.98)
    """First and last timestep, as fractions of the prior's schedule; DreamFusion's."""
    noise: Noise = "shared"
    """One noise for all particles (Eq. 8) or one for each."""
    kernel: KernelDistance = "lpips"
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
        _check_counts(self, "max_batch")
        if self.repulsion < 0:
            raise ValueError(f"repulsion can't be negative, got {self.repulsion}.")
        _check_choices(self)


def _check_counts(settings: EditSettings | DistillSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} needs to be at least 1, got {value}.")


def _check_choices(settings: EditSettings | DistillSettings) -> None:
    """Check the fields that take one of a few words."""
    for name, hint in get_type_hints(type(settings)).items():
        value, choices = getattr(settings, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            raise ValueError(f"{name} needs to be one of {', '.join(choices)}, got {value!r}.")
