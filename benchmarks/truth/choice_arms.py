"""The arms of the benchmark of choices: what each does, and how one is run on a set of images.

All arms get `UPDATES` times the U-Net evaluations of one update of CSD-Edit for every image. In a
panorama an image is a window; what counts is the number of windows that update every cell once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from benchmarks.truth.budgets import rate_at, sampling_branches, update_branches
from benchmarks.truth.domains import Arm, Job, banked
from benchmarks.worlds.choices import ChoiceSet, cut_tiles, join_tiles
from csd_nerf.adapters.tiles import decode_tiled, encode_tiled
from csd_nerf.bundled import TUNED
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import window_positions
from csd_nerf.editor import edit, edit_images
from csd_nerf.media.pixels import to_01, to_bytes
from csd_nerf.priors.base import Prior

UPDATES = 15
DECAYS = 5
"""Number of decays of the learning rate in a run."""
OPTIMISED: dict[str, Any] = {
    **TUNED,
    # An instruction that leaves the answer open needs a stronger push.
    "text_scale": 3.0,
    # An image decides for an answer at high noise levels.
    "t_range": (0.02, 0.95),
    "t_order": "falling",
    # The windows of a sweep over a panorama are mixed cell by cell.
    "patch_cells": 8192,
}
"""Options of the arms that optimise, which are fields of `EditSettings`; the start of their
tuning."""
EXACT_OPTIONS: dict[str, Any] = {
    "text_scale": 1.0,
    "image_scale": 1.0,
    "t_range": TUNED["t_range"],
}
"""Options of all arms with the exact prior, whose answers need no guidance, in place of tuned
ones."""
SAMPLED: dict[str, Any] = {"text_scale": 2.0, "image_scale": 1.5, "noise": "independent"}
"""Options of the arms that sample; the start of their tuning."""
WINDOWS, STRIDE = 18, 4
"""Windows an iteration, and cells between windows, of arms that optimise a panorama. They are all
windows of a sweep, so that all of them are mixed."""
SAMPLED_STRIDE = 8
"""Cells between windows for sampling: with more windows, the budget pays for too few steps."""
_SHARED, _OWN = {"noise": "shared"}, {"noise": "independent"}
_METHODS: dict[str, dict[str, Any]] = {
    "none": {"mixing": "none"},
    "stein": {"mixing": "stein"},
    "patch": {"mixing": "patch"},
}
CHOICE_ARMS = (
    Arm("source", None),
    Arm("autoencoder", None),
    *(
        Arm(f"{name}-{noise}", "edit", {**options, **drawn})
        for name, options in _METHODS.items()
        for noise, drawn in (("own-noise", _OWN), ("shared-noise", _SHARED))
    ),
    # With the share of the source's estimate that is best on validation inputs.
    Arm("patch-share-own-noise", "edit", {"mixing": "patch", **_OWN}),
    Arm("sds-shared-noise", "edit", {"mixing": "none", "residual": "sds", **_SHARED}),
    Arm("sds-patch-own-noise", "edit", {"mixing": "patch", "residual": "sds", **_OWN}),
    Arm("ip2p-own-noise", "ip2p", _OWN),
    Arm("ip2p-shared-noise", "ip2p", _SHARED),
)
"""none: every image follows its own residual. stein: CSD-Edit; with shared noise as printed in the
paper, with a noise for each image as in the authors' release. patch: mixing by patches of the
source; share: with the drawn noise in place of a part of the source's estimate. sds: SDS, which
subtracts the drawn noise alone. ip2p: InstructPix2Pix; in panoramas, own noise
means tiles that are sampled each for itself, shared noise means overlapping windows on one canvas.
Of the references, source is the unedited set, and autoencoder the first answer encoded and decoded.
"""

_SHARE = "patch-share-own-noise"
CHOICE_ABLATIONS = banked(f"{_SHARE}-bank", "edit", {"mixing": "patch", **_OWN}, tuned_as=_SHARE)
"""With a bank of pairs of a timestep and a noise."""


@dataclass(frozen=True)
class Edited:
    """An edited set, and the number of U-Net evaluations that it took."""

    image01: Float[Tensor, "n 3 h w"]
    evaluations: int


def arm_options(job: Job, given: Mapping[str, Any], *, exact: bool = False) -> dict[str, Any]:
    """The options of a job: the user's first, then those of the arm, then the base's.

    Tuned options are among the arm's, see `tuned.tuned_arm`.

    `evaluations` is the budget of each image; the learning rate follows from the budget.

    Args:
        job: The job.
        given: The user's options, for all arms.
        exact: Whether they are for the exact prior; see `EXACT_OPTIONS`.
    """
    base = {"edit": OPTIMISED, "ip2p": SAMPLED}[job.arm.method or ""]
    user = {key: value for key, value in given.items() if key != "updates"}
    if job.arm.method == "ip2p":
        user.pop("learning_rate", None)
    options = {**base, **(EXACT_OPTIONS if exact else {}), **job.arm.options, **user}
    once = update_branches(
        "csd", image_scale=OPTIMISED["image_scale"], text_scale=OPTIMISED["text_scale"]
    )
    options["evaluations"] = job.budget * once * given.get("updates", UPDATES)
    if job.arm.method == "edit":
        options["learning_rate"] = rate_at(job.budget, options["learning_rate"])
    return options


def run_arm(prior: Prior, given: ChoiceSet, job: Job, options: Mapping[str, Any]) -> Edited:
    """Edit a set by a method, with options from `arm_options`."""
    generator = torch.Generator().manual_seed(job.seed)
    panorama = given.medium == "panorama"
    if job.arm.method == "edit":
        run = _optimise_panorama if panorama else _optimise
    else:
        run = _sample_panorama if panorama else _sample
    return run(prior, given, options, generator)


def _optimise(
    prior: Prior, given: ChoiceSet, options: Mapping[str, Any], generator: torch.Generator
) -> Edited:
    result = edit_images(
        prior,
        given.source01,
        prompt=given.choice.instructions[0],
        settings=_edit_settings(options, _updates(options)),
        generator=generator,
    )
    return Edited(result.image01, result.evaluations)


def _sample(
    prior: Prior, given: ChoiceSet, options: Mapping[str, Any], generator: torch.Generator
) -> Edited:
    # diffusers is slow to import.
    from csd_nerf.priors.sampling import sample_edit

    count, height, width = given.source.shape[:3]
    shape = (prior.latent_channels, height // prior.cell_size, width // prior.cell_size)
    drawn = 1 if options["noise"] == "shared" else count
    noise = torch.randn(drawn, *shape, generator=generator)
    scales, steps, branches = _sampling(options, options["evaluations"])
    edited01 = sample_edit(
        prior,
        given.source01,
        given.choice.instructions[0],
        **scales,
        steps=steps,
        noise=noise.expand(count, *shape),
    )
    return Edited(edited01, branches * steps * count)


def _optimise_panorama(
    prior: Prior, given: ChoiceSet, options: Mapping[str, Any], generator: torch.Generator
) -> Edited:
    source, image_rows = encode_tiled(prior, _strip(given))
    canvas = _canvas(prior, source, image_rows)
    evaluations = edit(
        prior,
        canvas,
        prompts=[given.choice.instructions[0]],
        settings=_edit_settings(options, canvas.iterations_for(_updates(options))),
        randomness=SeededRandomness(generator),
    )
    return Edited(_tiles(prior, canvas.latent), evaluations)


def _sample_panorama(
    prior: Prior, given: ChoiceSet, options: Mapping[str, Any], generator: torch.Generator
) -> Edited:
    from csd_nerf.priors.sampling import sample_windows

    source, image_rows = encode_tiled(prior, _strip(given))
    canvas = _canvas(prior, source, image_rows)
    positions = _sampled_positions(canvas, shared=options["noise"] == "shared")
    windows = canvas.windows_per_iteration * canvas.iterations_for(100) / 100
    scales, steps, branches = _sampling(options, options["evaluations"] * windows / len(positions))
    latent = sample_windows(
        prior,
        image_rows,
        [given.choice.instructions[0]],
        torch.ones(len(positions), 1),
        positions=positions,
        window=canvas.window,
        **scales,
        steps=steps,
        noise=torch.randn(source.shape, generator=generator),
    )
    return Edited(_tiles(prior, latent), branches * steps * len(positions))


def _updates(options: Mapping[str, Any]) -> int:
    scales = {key: options[key] for key in ("image_scale", "text_scale")}
    scales["source_share"] = options.get("source_share", 1.0)
    branches = update_branches(options.get("residual", "csd"), **scales)
    return max(1, round(options["evaluations"] / branches))


def _edit_settings(options: Mapping[str, Any], iterations: int) -> EditSettings:
    names = {field.name for field in fields(EditSettings)}
    chosen: dict[str, Any] = {key: value for key, value in options.items() if key in names}
    decay_every = math.ceil(iterations / DECAYS)
    return EditSettings(**chosen, iterations=iterations, decay_every=decay_every)


def _sampling(options: Mapping[str, Any], evaluations: float) -> tuple[dict[str, Any], int, int]:
    """Guidance scales, number of steps, and estimates of one step of one image."""
    scales = {key: options[key] for key in ("image_scale", "text_scale")}
    branches = sampling_branches(**scales)
    return scales, max(1, round(evaluations / branches)), branches


def _strip(given: ChoiceSet) -> UInt8[Tensor, "H W 3"]:
    return to_bytes(join_tiles(given.source01)[0])


def _tiles(prior: Prior, latent: Float[Tensor, "c h w"]) -> Float[Tensor, "n 3 H W"]:
    return cut_tiles(to_01(decode_tiled(prior, latent)[None]))


def _canvas(
    prior: Prior, source: Float[Tensor, "c H W"], image_rows: Mapping[str, Tensor]
) -> WindowCanvas:
    edge = prior.preferred_size // prior.cell_size
    return WindowCanvas(source.clone(), source, {**image_rows}, (edge, edge), STRIDE, WINDOWS)


def _sampled_positions(canvas: WindowCanvas, *, shared: bool) -> Int[Tensor, "m 2"]:
    """Overlapping windows, or tiles side by side, which have a part of the noise each."""
    size = (canvas.latent.shape[1], canvas.latent.shape[2])
    stride = SAMPLED_STRIDE if shared else min(canvas.window)
    return window_positions(size, canvas.window, stride=stride)
