"""The benchmark on videos with the prior shown as a rectified flow: residuals of flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from benchmarks.engine.trials import Store
from benchmarks.truth.domains import Arm, Job
from benchmarks.truth.flow_view import FlowView
from benchmarks.truth.media import Input
from benchmarks.truth.videos import VideoDomain
from csd_nerf.priors.base import Prior

UPDATES = 20
"""Mean number of updates of a frame by csd."""
_PATCH = {"mixing": "patch", "noise": "independent"}
_WHOLE = {"source_share": 1.0}
_VELOCITY = {"quantity": "velocity"}


class FlowVideoDomain(VideoDomain):
    """Videos, edited by the prior's `FlowView` with the preset's mixing."""

    arms = (
        Arm("source", None),
        Arm("autoencoder", None),
        Arm("noise", "csd", {**_PATCH, **_WHOLE}),
        Arm("velocity-no-shift", "csd", {**_PATCH, **_WHOLE, **_VELOCITY, "shift": 0.0}),
        Arm("velocity", "csd", {**_PATCH, **_WHOLE, **_VELOCITY}),
        # share: with the share of the source's estimate that is best on validation inputs.
        Arm("noise-share", "csd", _PATCH),
        Arm("velocity-share", "csd", {**_PATCH, **_VELOCITY}),
        Arm("sds", "sds", _PATCH),
    )
    ablations = ()
    baseline = "noise"

    def __init__(self, prior: Prior, options: Mapping[str, Any], store: Store) -> None:
        """Take a prior that predicts noise, and options that replace those of all arms."""
        super().__init__(cast(Prior, FlowView(prior)), {"updates": UPDATES, **options}, store)

    def decides(self, job: Job, given: Input) -> dict[str, Any]:
        """As for videos; the same options mean other noise levels there."""
        return {**super().decides(job, given), "schedule": "flow"}
