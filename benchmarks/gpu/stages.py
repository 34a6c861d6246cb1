"""The stages, in the order of their worth."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu import prior_stages, scene_stages
from benchmarks.gpu.bench import Stage
from benchmarks.gpu.marked_tests import gpu_tests

STAGES = (
    Stage("tests", "Tests that need a GPU", 90, gpu_tests),
    Stage(
        "evaluation-sd15",
        "An evaluation of Stable Diffusion 1.5's size",
        150,
        prior_stages.evaluation_sd15,
    ),
    Stage("iteration", "An iteration against the naive loop", 120, prior_stages.iteration),
    Stage("memory-sd15", "Memory, Stable Diffusion 1.5's size", 15, prior_stages.memory_sd15),
    Stage("vae", "The autoencoder", 10, prior_stages.vae),
    Stage(
        "csd-edit",
        "csd-edit from end to end",
        90,
        partial(scene_stages.scene_edit, method="csd-edit"),
    ),
    Stage(
        "csd-edit-splat",
        "csd-edit-splat from end to end",
        90,
        partial(scene_stages.scene_edit, method="csd-edit-splat"),
    ),
    Stage("splats", "Rendering of Gaussians", 60, scene_stages.splats),
    Stage(
        "evaluation-klein",
        "An evaluation of FLUX.2 [klein]'s size",
        100,
        prior_stages.evaluation_klein,
    ),
    Stage("memory-klein", "Memory, FLUX.2 [klein]'s size", 40, prior_stages.memory_klein),
)
