"""The mathematics of Collaborative Score Distillation, on plain tensors."""

from csd_nerf.core.kernels import Kernel, median_bandwidth, rbf_kernel, squared_distances
from csd_nerf.core.residuals import Estimate, Terms
from csd_nerf.core.schedules import DiscreteSchedule, FlowSchedule, Schedule, add_noise
from csd_nerf.core.stein import stein_direction
from csd_nerf.core.windows import coverage, cut_windows, window_positions

__all__ = [
    "DiscreteSchedule",
    "Estimate",
    "FlowSchedule",
    "Kernel",
    "Schedule",
    "Terms",
    "add_noise",
    "coverage",
    "cut_windows",
    "median_bandwidth",
    "rbf_kernel",
    "squared_distances",
    "stein_direction",
    "window_positions",
]
