"""The mathematics of Collaborative Score Distillation, on plain tensors."""

from csd_nerf.core.guidance import (
    classifier_free,
    composed_noise,
    dds_residual,
    edit_residual,
    generation_residual,
    guided_noise,
)
from csd_nerf.core.kernels import median_bandwidth, rbf, squared_distances
from csd_nerf.core.schedules import NoiseSchedule
from csd_nerf.core.stein import stein_direction
from csd_nerf.core.windows import coverage, cut_windows, paste_windows, window_positions

__all__ = [
    "NoiseSchedule",
    "classifier_free",
    "composed_noise",
    "coverage",
    "cut_windows",
    "dds_residual",
    "edit_residual",
    "generation_residual",
    "guided_noise",
    "median_bandwidth",
    "paste_windows",
    "rbf",
    "squared_distances",
    "stein_direction",
    "window_positions",
]
