"""Gaussians as .ply files, in the layout that splat viewers read.

The layout is that of the first release of 3D Gaussian Splatting (Kerbl et al. 2023), which
ns-export writes too: one vertex for each Gaussian, with logarithms of scales, logits of opacities
and coefficients of spherical harmonics, those of higher degree channel by channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf.media.files import written_whole
from csd_nerf.methods.csd_edit_splat.model import CSDEditSplatModel

_FAINT = -5.5373
"""The logit of an opacity of 1/255; fainter Gaussians are never seen."""
_GAP = 0.1
"""Distance between two scenes side by side, as a share of their width."""
_OUTLIERS = 0.02
"""Share of the Gaussians at each end that don't count for the width of a scene."""


@dataclass(frozen=True)
class Gaussians:
    """Gaussians by splatfacto's parameters."""

    means: Float[Tensor, "n 3"]
    scales: Float[Tensor, "n 3"]
    """Natural logarithms of standard deviations."""
    quats: Float[Tensor, "n 4"]
    """Rotations as (w, x, y, z), of any length."""
    features_dc: Float[Tensor, "n 3"]
    """The coefficient of degree 0 for each channel."""
    features_rest: Float[Tensor, "n k 3"]
    """The other coefficients."""
    opacities: Float[Tensor, "n 1"]
    """Logits."""

    @classmethod
    def of_state(cls, state: Mapping[str, Any], model: CSDEditSplatModel) -> Gaussians:
        """Take the Gaussians from a pipeline's state; those that can't be seen are left out.

        Args:
            state: The state.
            model: The model of the pipeline, for the meaning of its colours.
        """
        found = cls(
            **{
                spec.name: state[f"_model.gauss_params.{spec.name}"].detach().cpu().float()
                for spec in fields(cls)
            }
        )
        if model.config.sh_degree == 0:
            # Splatfacto's colours are logits then.
            shade01 = found.features_dc.sigmoid()
            found = replace(found, features_dc=(shade01 - 0.5) / _DEGREE_0)
        parts = [getattr(found, spec.name).flatten(1) for spec in fields(cls)]
        seen = torch.cat(parts, dim=1).isfinite().all(1) & (found.opacities[:, 0] >= _FAINT)
        return found.take(seen)

    def take(self, kept: Tensor) -> Gaussians:
        """Those that a mask or indices name."""
        return Gaussians(**{spec.name: getattr(self, spec.name)[kept] for spec in fields(self)})


_DEGREE_0 = 0.28209479177387814
"""The spherical harmonic of degree 0, 1 / (2 sqrt(pi))."""


def side_by_side(first: Gaussians, second: Gaussians) -> Gaussians:
    """Both in one scene, the second moved along x by the width of what most Gaussians fill."""
    both = torch.cat([first.means, second.means])[:, 0]
    if len(both) == 0:
        return first
    low, high = np.quantile(both.numpy(), [_OUTLIERS, 1 - _OUTLIERS])
    shift = torch.tensor([(1 + _GAP) * float(high - low), 0.0, 0.0])
    moved = replace(second, means=second.means + shift)
    return Gaussians(
        **{
            spec.name: torch.cat([getattr(first, spec.name), getattr(moved, spec.name)])
            for spec in fields(Gaussians)
        }
    )


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write a file, whole or not at all."""
    # Late, as it is used once a run.
    from plyfile import PlyData, PlyElement

    g = gaussians
    # By channel, and within it by coefficient.
    rest = g.features_rest.transpose(1, 2).flatten(1)
    columns = {
        **_numbered("{}", g.means, "xyz"),
        **_numbered("n{}", torch.zeros_like(g.means), "xyz"),
        **_numbered("f_dc_{}", g.features_dc),
        **_numbered("f_rest_{}", rest),
        **_numbered("opacity", g.opacities),
        **_numbered("scale_{}", g.scales),
        **_numbered("rot_{}", g.quats),
    }
    table = np.empty(len(g.means), dtype=[(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(temporary))


def _numbered(name: str, values: Float[Tensor, "n k"], axes: str = "") -> dict[str, Tensor]:
    return {name.format(axes[i] if axes else i): values[:, i] for i in range(values.shape[1])}
