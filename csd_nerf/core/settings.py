"""The options of an edit and of text-to-3D, with the paper's variants and ablations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from csd_nerf.core.kernels import Median
from csd_nerf.core.residuals import ResidualName
from csd_nerf.core.schedules import check_t_range
from csd_nerf.core.stein import Normalize
from csd_nerf.numbers import non_finite_fields

Mixing = Literal["stein", "patch", "none"]
Noise = Literal["shared", "independent"]
Quantity = Literal["noise", "velocity"]
TOrder = Literal["random", "falling", "falling-first"]
KernelOn = Literal["noisy", "clean"]
RepulsionScale = Literal["sigma", "one"]
Distillation = Literal["csd", "sds"]
KernelDistance = Literal["lpips", "l2"]


@dataclass(frozen=True)
class EditSettings:
    """How an edit is optimised."""

    iterations: int = 200
    """Steps of gradient descent; the paper takes 200 to 500 for videos."""
    learning_rate: float = 2.0
    """Step size in latent units; the paper takes 2 for panoramas, 0.25 to 2 for videos."""
    decay: float = 0.9
    """Factor by which the learning rate is multiplied every `decay_every` iterations."""
    decay_every: int = 20
    """Iterations between two decays."""
    text_scale: float = 7.5
    """w_y of Eq. 3: how strongly the instruction is followed; the paper takes 3 to 15."""
    image_scale: float = 1.5
    """w_s of Eq. 3: how closely the source is kept; the paper takes 1.5 to 5."""
    t_range: tuple[float, float] = (0.02, 0.5)
    """Lowest and highest timestep that is drawn, as fractions of the prior's schedule (0 is
    clean)."""
    t_order: TOrder = "random"
    """random: timesteps are drawn from the whole t_range at every step, as in the paper. falling:
    from a band that moves from the top of t_range to its bottom over the run. falling-first: the
    same over the first half of the run, then random."""
    batch_size: int | None = None
    """Images per iteration, drawn without replacement; None takes all."""
    mixing: Mixing = "stein"
    """stein: average residuals over similar images and push images apart (CSD, Eq. 8). patch:
    average residuals over similar patches of the source images, without repulsion; kernel_on,
    normalize and repulsion have no effect. none: each image follows its own residual."""
    patch_bandwidth: float = 0.1
    """Bandwidth of mixing by patches, as a fraction of the median squared distance of patches."""
    patch_cells: int = 4096
    """Largest number of latent cells of a batch that mixing by patches compares with each other;
    larger latents are mixed at a lower resolution. Memory grows with the square: 67 MB at 4096."""
    residual: ResidualName = "csd"
    """What is subtracted from the guided noise estimate. csd: the estimate for the noisy source
    (CSD-Edit, Eq. 9); sds: the drawn noise; dds: the source's estimate guided by a description of
    the source (Appendix A), which is meant for text-to-image models."""
    source_share: float = 1.0
    """s, from 0 to 1: how much of the source's estimate is subtracted; the rest, 1 - s, is drawn
    noise. 1: CSD-Edit or dds as in the paper; 0: SDS. Has no effect on the residual sds."""
    quantity: Quantity = "noise"
    """Between which estimates of the model the residual is. noise: of the noise, as in the paper.
    velocity: for flow models, of the velocity (delta rectified flow sampling), in steps of
    learning_rate times the range of levels divided by the number of updates; it needs other
    numbers, see VELOCITY."""
    shift: float = 1.0
    """Of the quantity velocity, from 0 to 1: how far the target's noise follows the edit. 0: target
    and source have the same noise; 1: their noises differ as their latents do, as in FlowEdit."""
    noise: Noise = "shared"
    """shared: one noise for all particles (Eq. 8); independent: one for each (the authors'
    release)."""
    kernel_on: KernelOn = "noisy"
    """Which latents the kernel compares: noisy (z_t) or clean (x)."""
    bandwidth: Median = "off-diagonal"
    """Of which squared distances the kernel's bandwidth takes the median: off-diagonal, those of
    different images, or with-diagonal, also the zeros of each image to itself (the authors'
    release)."""
    normalize: Normalize = "n"
    """What the mixed residuals are divided by: n, the number of particles, or rowsum, the sum of a
    particle's kernel values."""
    repulsion: float = 1.0
    """Weight of the term that pushes particles apart."""
    repulsion_scale: RepulsionScale = "sigma"
    """Further factor of the repulsion: sigma, which is sigma_t and follows from the scale of the
    score, or one, as Eq. 8 prints it."""
    source_bank: int = 0
    """K: the edit has only K pairs of timestep and noise, and the source's estimates are computed
    once for each and kept, which saves up to two of five evaluations; see `csd_nerf.core.bank`.
    0 draws timestep and noise anew at every iteration, as in the paper."""
    stop_below: float = 0.0
    """The edit ends when its mean step over 10 iterations has a rms below this, in latent units; 0
    does all iterations, as in the paper."""
    max_batch: int | None = None
    """Largest number of model evaluations, or of images to encode or decode, in one call; None
    means no limit."""

    def __post_init__(self) -> None:
        _check_finite(self)
        check_t_range(self.t_range)
        _check_counts(self, "iterations", "decay_every", "batch_size", "max_batch", "patch_cells")
        for name in ("source_bank", "stop_below"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} can't be negative, got {getattr(self, name)}.")
        for name in ("learning_rate", "decay", "patch_bandwidth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} needs to be positive, got {getattr(self, name)}.")
        if not 0 <= self.source_share <= 1:
            raise ValueError(
                "source_share needs 0 <= source_share <= 1 (0 is SDS, 1 is CSD-Edit), got "
                f"{self.source_share}."
            )
        if self.source_bank and (self.residual == "sds" or self.source_share == 0):
            raise ValueError(
                f"source_bank keeps estimates for the source, got {self.source_bank} with the "
                f"residual {self.residual} and a source_share of {self.source_share:g}, which take "
                "none; leave it out."
            )
        if not 0 <= self.shift <= 1:
            raise ValueError(f"shift needs 0 <= shift <= 1, got {self.shift}.")
        _check_choices(self)


VELOCITY: dict[str, Any] = {
    "learning_rate": 1.0,
    "decay": 1.0,
    "t_order": "falling",
    "normalize": "rowsum",
}
"""Fields of `EditSettings` with which the quantity velocity is one pass of the flow's differential
equation: falling levels, and steps whose sum is the range of levels. See
`csd_nerf.core.velocities`."""


@dataclass(frozen=True)
class DistillSettings:
    """How the gradient of rendered views is computed with a text-to-image prior (CSD Eq. 8)."""

    text_scale: float = 20.0
    """Scale of classifier-free guidance; the paper takes 20 with DeepFloyd IF (Appendix C.2)."""
    t_range: tuple[float, float] = (0.02, 0.98)
    """Lowest and highest timestep that is drawn, as fractions of the prior's schedule (0 is clean);
    the default is DreamFusion's."""
    noise: Noise = "shared"
    """shared: one noise for all particles (Eq. 8); independent: one for each."""
    kernel: KernelDistance = "lpips"
    """Distance of the kernel: lpips between rendered views, as in the paper, or l2 between
    pixels."""
    normalize: Normalize = "n"
    """What the mixed residuals are divided by: n, the number of particles, or rowsum, the sum of a
    particle's kernel values."""
    repulsion: float = 1.0
    """Weight of the term that pushes particles apart. At 1 it has little effect on large renders;
    use 5 or more to keep several objects apart."""
    max_batch: int | None = None
    """Largest number of model evaluations in one call; None means no limit."""

    def __post_init__(self) -> None:
        _check_finite(self)
        check_t_range(self.t_range)
        _check_counts(self, "max_batch")
        if self.repulsion < 0:
            raise ValueError(f"repulsion can't be negative, got {self.repulsion}.")
        _check_choices(self)


def _check_finite(settings: EditSettings | DistillSettings) -> None:
    for name, value in non_finite_fields(settings):
        raise ValueError(f"{name} needs to be finite, got {value}.")


def _check_counts(settings: EditSettings | DistillSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} needs to be at least 1, got {value}.")


def _check_choices(settings: EditSettings | DistillSettings) -> None:
    """Check the fields whose type is a Literal."""
    for name, hint in get_type_hints(type(settings)).items():
        value, choices = getattr(settings, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            raise ValueError(f"{name} needs to be one of {', '.join(choices)}, got {value!r}.")
