"""The presets of `csd-nerf panorama`, `video` and `image`: a value for each option left open.

Sources of the figures: "paper" is Kim et al. 2023, Appendix B; "release" is the authors' code,
github.com/subin-kim-cv/CSD at 6c53266, whose scripts' defaults we take. A figure without a source
is ours.

This module imports nothing heavy, since the command line needs it for its help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from csd_nerf.bundled import DECAYS, TUNED, TUNED_MIXING, TUNED_PANORAMA, TUNED_SDS, UPDATES

Preset = Literal["full", "small", "release", "tiny"]
PanoramaMethod = Literal["csd", "csd-no-stein", "sds", "ip2p-downsize", "ip2p-windows"]
VideoMethod = Literal["csd", "csd-no-stein", "sds", "ip2p"]
ImageMethod = VideoMethod
ImagePreset = Literal["full", "small", "tiny"]
"""The authors' scripts have none for sets of pictures."""


@dataclass(frozen=True)
class Values:
    """The options that depend on the preset and the method, with their final values."""

    prior: str
    dtype: str
    prior_compile: Literal["auto", "on", "graphs", "off"]
    condition: Literal["raw", "scaled"]
    max_batch: int | None
    batch: int | None
    """None takes all frames."""
    learning_rate: float
    text_scale: float
    image_scale: float
    iterations: int | None
    """None takes as many as `updates` needs."""
    updates: int
    decay: float
    decays: int
    decay_every: int | None
    """Iterations between decays; None spaces `decays` evenly."""
    mixing: Literal["stein", "patch", "none"]
    normalize: Literal["n", "rowsum"]
    t_range: tuple[float, float]
    t_order: Literal["random", "falling", "falling-first"]
    source_share: float
    quantity: Literal["noise", "velocity"]
    shift: float
    source_bank: int
    stop_below: float
    bandwidth: Literal["off-diagonal", "with-diagonal"]
    repulsion: float
    repulsion_scale: Literal["sigma", "one"]
    noise: Literal["shared", "independent"]
    drawing: Literal["balanced", "uniform"]
    taper: int | None
    steps: int
    solver: Literal["ddim", "euler-ancestral"]


_FULL = {
    "prior": "instruct-pix2pix",
    "dtype": "auto",
    "prior_compile": "auto",
    "condition": "raw",
    "max_batch": 40,
    # The paper takes 4 windows a batch; its batch of frames is not given.
    "batch": 4,
    "iterations": None,
    # The release: 0.9 every 20 of 200 iterations.
    "decay": 0.9,
    "decays": 10,
    "decay_every": None,
    "mixing": "stein",
    "normalize": "n",
    # The release: 20 to 500 of 1000.
    "t_range": (0.02, 0.5),
    "t_order": "random",
    "source_share": 1.0,
    "quantity": "noise",
    "shift": 1.0,
    "source_bank": 0,
    "stop_below": 0.0,
    "bandwidth": "off-diagonal",
    "repulsion": 1.0,
    "repulsion_scale": "sigma",
    "noise": "shared",
    "drawing": "balanced",
    "taper": None,
    # The release; the paper takes 3 to 15.
    "text_scale": 7.5,
    # The paper's, for panoramas. The release has 5.0, for a condition that is scaled by 0.18215.
    "image_scale": 1.5,
    "steps": 100,
    "solver": "euler-ancestral",
}
_SMALL = {**_FULL, "max_batch": 10}
# As the release, whose median is of all distances, whose repulsion has no factor sigma_t, and which
# averages overlapping windows without fading.
_RELEASE = {
    **_FULL,
    "dtype": "float32",
    "prior_compile": "off",
    "bandwidth": "with-diagonal",
    "repulsion_scale": "one",
    "noise": "independent",
    "drawing": "uniform",
    "taper": 0,
}
# The release's optimisation; it has one rate for videos and panoramas, with and without Stein.
_RELEASE_STEPS = {
    "condition": "scaled",
    "image_scale": 5.0,
    "learning_rate": 2.0,
    "iterations": 200,
    "decay_every": 20,
}
_TINY = {
    **_FULL,
    **TUNED,
    "prior": "tiny",
    "prior_compile": "off",
    "max_batch": None,
    # Only windows or frames of a batch are mixed, so that a larger one agrees better.
    "batch": 16,
    "updates": UPDATES,
    "decays": DECAYS,
    "steps": 15,
    "solver": "ddim",
}
_TINY_SAMPLED = {"learning_rate": 1.0, "updates": 1, "text_scale": 2.0, "image_scale": 1.5}
_PRESETS: dict[Preset, dict[str, Any]] = {
    "full": _FULL,
    "small": _SMALL,
    "release": _RELEASE,
    "tiny": _TINY,
}


def panorama_values(preset: Preset, method: PanoramaMethod) -> dict[str, Any]:
    """The value of every field of `Values` for a panorama."""
    return {**_PRESETS[preset], **_mixing(method), **_panorama(preset, method)}


def video_values(preset: Preset, method: VideoMethod) -> dict[str, Any]:
    """The value of every field of `Values` for a video."""
    return {**_PRESETS[preset], **_mixing(method), **_video(preset, method)}


def image_values(preset: ImagePreset, method: ImageMethod) -> dict[str, Any]:
    """The value of every field of `Values` for a set of pictures.

    As for a video, but with steps that don't depend on the number of pictures, which may be one.
    """
    values = video_values(preset, method)
    if preset == "tiny":
        return values
    # Divided by the row sum, the step of csd is about that of each picture alone, for which the
    # rate without mixing is meant. 8 frames divided by n move as far at four times this rate.
    alike = {"normalize": "rowsum", "learning_rate": 0.25}
    # All pictures of a group share their scores.
    return {**values, **alike, "batch": None}


def _mixing(method: str) -> dict[str, Any]:
    """Only csd mixes by default."""
    return {} if method == "csd" else {"mixing": "none"}


def _panorama(preset: Preset, method: PanoramaMethod) -> dict[str, Any]:
    if preset == "tiny":
        differ: dict[PanoramaMethod, dict[str, Any]] = {
            "csd": {**TUNED_PANORAMA, **TUNED_MIXING},
            "csd-no-stein": TUNED_PANORAMA,
            "sds": {**TUNED_PANORAMA, "t_order": "falling-first", "learning_rate": 2.0},
        }
        return differ.get(method, _TINY_SAMPLED)
    # The paper's rate and iterations: 200 of 4 windows update a cell of a 1920x512 picture about
    # 213 times. Without mixing, steps at batch 4 are 2.5 times as long, so the rate is lower.
    values = {"learning_rate": 2.0 if method == "csd" else 0.8, "updates": 200}
    if preset == "release" and not method.startswith("ip2p"):
        # Batch: the release's examples and the paper; the script's default is 16.
        return {**values, **_RELEASE_STEPS, "batch": 4}
    return values


def _video(preset: Preset, method: VideoMethod) -> dict[str, Any]:
    if preset == "tiny":
        differ: dict[VideoMethod, dict[str, Any]] = {
            "csd": TUNED_MIXING,
            "csd-no-stein": {"learning_rate": 1.0},
            "sds": {**TUNED_SDS, "learning_rate": 1.0},
        }
        sampled = {**_TINY_SAMPLED, "noise": "independent"}
        return differ.get(method, sampled)
    # The paper gives a rate of 0.25 to 2 and 200 to 500 iterations; the other values are ours.
    rate = 1.0 if method == "csd" else 0.25
    values = {"learning_rate": rate, "updates": 100, "batch": 8}
    if method == "ip2p":
        return {**values, "noise": "independent"}
    return {**values, **_RELEASE_STEPS, "batch": None} if preset == "release" else values
