"""Gaussians as .ply files, in the layout that splat viewers read and trainers write.

The layout is that of the first release of 3D Gaussian Splatting (Kerbl et al. 2023), which
ns-export writes too: one vertex for each Gaussian, with logarithms of scales, logits of opacities
and coefficients of spherical harmonics, those of higher degree channel by channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd_nerf.media.vertices import write_vertices
from csd_nerf.methods.csd_edit_splat.model import CSDEditSplatModel

_FAINT = -5.5373
"""The logit of an opacity of 1/255; fainter Gaussians are never seen."""
_GAP = 0.1
"""Distance between two scenes side by side, as a share of their width."""
_OUTLIERS = 0.02
"""Share of the Gaussians at each end that don't count for the width of a scene."""
_DARKEST = 1e-4
"""How near colours come to 0 and 1 where they are logits."""
_DEGREES = {0: 0, 3: 1, 8: 2, 15: 3}
"""Degree of spherical harmonics by the number of their coefficients, without the first."""


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
        return found.take(found.is_finite & (found.opacities[:, 0] >= _FAINT))

    @property
    def is_finite(self) -> Bool[Tensor, "n"]:
        """Which Gaussians have finite numbers alone."""
        parts = [getattr(self, spec.name).flatten(1) for spec in fields(self)]
        return torch.cat(parts, dim=1).isfinite().all(1)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return _DEGREES[self.features_rest.shape[1]]

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Splatfacto's parameters of these Gaussians, for a model of the same `sh_degree`.

        With degree 0 splatfacto's colours are logits: those outside [0, 1] become its ends.
        """
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        if self.sh_degree == 0:
            shade01 = 0.5 + _DEGREE_0 * self.features_dc
            values["features_dc"] = shade01.logit(eps=_DARKEST)
        return {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}

    def take(self, kept: Tensor) -> Gaussians:
        """Those that a mask or indices name."""
        return Gaussians(**{spec.name: getattr(self, spec.name)[kept] for spec in fields(self)})


_DEGREE_0 = 0.28209479177387814
"""The spherical harmonic of degree 0, 1 / (2 sqrt(pi))."""


_COLUMNS = {
    "means": ("x", "y", "z"),
    "scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
    "features_dc": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacities": ("opacity",),
}
"""Properties of a file by splatfacto's parameters; the other coefficients have numbers."""
_WANTED = "x y z, f_dc_*, f_rest_*, opacity, scale_* and rot_*"


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


def read_ply(path: Path) -> tuple[Gaussians, list[str]]:
    """Read the Gaussians of a file, with notices of what in it is not used.

    Properties may have any order and any type of number, and normals may be missing, as in files of
    gsplat, of Inria's code, of nerfstudio and of SuperSplat.

    Raises:
        ValueError: If it is no file of Gaussians, is damaged, or holds none.
    """
    from plyfile import PlyData, PlyHeaderParseError, PlyParseError

    def refused(what: str, remedy: str) -> ValueError:
        return ValueError(f"A splat must be a .ply with {_WANTED}, got {path} {what}; {remedy}.")

    try:
        content = PlyData.read(str(path), mmap=False)  # pyright: ignore[reportArgumentType]
    except (PlyHeaderParseError, UnicodeDecodeError) as error:
        raise refused(f"which is no .ply ({error})", "export it as an uncompressed .ply") from None
    except (PlyParseError, ValueError, EOFError, MemoryError) as error:
        raise refused(f"which breaks off ({error})", "copy or export it again") from None
    if "vertex" not in content:
        raise refused("without the element vertex", "export it as .ply of Gaussians")
    if "chunk" in content or "packed_position" in content["vertex"].data.dtype.names:
        raise refused("which is compressed", "export it as an uncompressed .ply")
    vertex = content["vertex"].data
    names = [name for name in vertex.dtype.names if vertex.dtype[name].kind in "fiu"]
    rest = [name for name in names if name.startswith("f_rest_")]
    missing = [name for group in _COLUMNS.values() for name in group if name not in names]
    if missing:
        raise refused(f"without {', '.join(missing)}", "export it as .ply of 3D Gaussians")
    if len(rest) % 3 or len(rest) // 3 not in _DEGREES:
        counts = ", ".join(str(3 * count) for count in _DEGREES)
        raise refused(f"with {len(rest)} properties f_rest, instead of {counts}", "export it again")
    per_channel = len(rest) // 3

    def columns(wanted: Sequence[str]) -> Tensor:
        table = [np.asarray(vertex[name], dtype=np.float32) for name in wanted]
        return torch.from_numpy(np.stack(table, axis=1)) if table else torch.zeros(len(vertex), 0)

    harmonics = columns([f"f_rest_{i}" for i in range(len(rest))])
    found = Gaussians(
        **{name: columns(wanted) for name, wanted in _COLUMNS.items()},
        features_rest=harmonics.reshape(len(vertex), 3, per_channel).transpose(1, 2).contiguous(),
    )
    notices = []
    usable = found.is_finite & (found.quats.norm(dim=1) > 0)
    if not usable.any():
        raise refused("with no usable Gaussian", "export it again")
    if (lost := int((~usable).sum())) > 0:
        notices.append(
            f"{lost} of {len(usable)} Gaussians of {path.name} are left out: not finite, or "
            "without a rotation"
        )
        found = found.take(usable)
    known = {*rest, "nx", "ny", "nz", *(name for group in _COLUMNS.values() for name in group)}
    if others := [name for name in vertex.dtype.names if name not in known]:
        notices.append(f"properties of {path.name} that are not used: {', '.join(others)}")
    return found, notices


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write a file, whole or not at all."""
    g = gaussians
    # By channel, and within it by coefficient.
    rest = g.features_rest.transpose(1, 2).flatten(1)
    columns = {
        **_named("means", g),
        **dict.fromkeys(("nx", "ny", "nz"), torch.zeros(len(g.means))),
        **_named("features_dc", g),
        **{f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])},
        **_named("opacities", g),
        **_named("scales", g),
        **_named("quats", g),
    }
    write_vertices(path, {name: values.float().numpy() for name, values in columns.items()})


def _named(parameter: str, gaussians: Gaussians) -> dict[str, Tensor]:
    return dict(zip(_COLUMNS[parameter], getattr(gaussians, parameter).unbind(1), strict=True))
