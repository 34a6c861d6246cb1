"""The residual of a rectified flow between velocities: delta rectified flow sampling (DRFS).

Source: Beaudouin et al. 2025, arXiv 2509.05342; with the shift 1 its noisy latents are those of
FlowEdit (Kulikov et al. 2024, arXiv 2412.08629).

Symbols, beside those of `FlowSchedule`: x, x~, clean latents of target and source; d = x - x~; e,
the drawn noise; eta, the shift, from 0 to 1; c = eta s; v, v~, guided velocities of target and
source; q, the share of the source's estimate (`csd_nerf.core.residuals.baseline`). The noisy
latents in the flow's own scale are

    y~ = (1 - s) x~ + s e,    y = (1 - s) x + s e' = (1 - s) x + s e + c d,    e' = e + eta d,

so that y - y~ = (1 - s + c) d. The target's own noise e' is its drawn noise too; its velocity is
e' - x. From the estimates of the noise, y + (1 - s) v and y~ + (1 - s) v~, come the residuals

    between noises:      r = [y + (1 - s) v] - q [y~ + (1 - s) v~] - (1 - q) e',
    between velocities:  (1 - s) [v - q v~ - (1 - q) (e' - x)] = r - q (1 - s + c) d,

since e' = y + (1 - s) (e' - x). So r contains a pull back to the source that the residual between
velocities lacks. Where x = x~, and for q = 0 (SDS), the two are equal. The factor 1 - s leaves r
its units, so that the repulsion of Stein mixing means for one what it means for the other. At
s = 1 an estimate of the noise says nothing of the velocity: both sides are 0, and so is the step.

Weight: a step is the learning rate times ds times the difference of velocities. Here ds is the
range of levels divided by the number of updates of a particle. With the learning rate 1, no decay
and falling levels an edit is one pass of Euler steps along the flow's differential equation. It has
to be one pass, since the difference of velocities has no fixed point at the answer in general. Let
the model know the exact velocities of Gaussians, of N(m, D^2) where it is asked for the edit and of
N(x~, D^2) for the source, so that m is the answer. With M = m - x~, S = s^2 + (1 - s)^2 D^2 and
u = s - (1 - s) D^2, the means over e are

    r = (1 - s) s (d - M) / S    for eta = 0 and all q,
    v - q v~ - (1 - q) (e' - x) = [u (1 - s + c) / S + (1 - q) (1 - eta)] d - s M / S.

The first is zero at the answer at every level. The second is zero beyond the answer, at another
place at every level, and for q = 1 drives x away from there at little noise, where u < 0. It is
zero at the answer only if eta = 1 and D = 0, or if q = eta = 0. But for eta = 1 and all q the pass
from d = 0 at s = 1 to s = 0 ends at the answer, since d = (1 - s) M solves d' = (u d - s M) / S. A
pass that begins at d ends at M + D d, so that passes one after another tend to M / (1 - D).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from csd_nerf.core.canvas import Particles
from csd_nerf.core.schedules import FlowSchedule, Schedule
from csd_nerf.core.settings import EditSettings


@dataclass(frozen=True)
class Velocities:
    """Turns the residuals of a batch between estimates of the noise into those between velocities.

    An edit descends by the learning rate times `weight` times `residual`, that is by the learning
    rate times `levels_per_update` times the difference of velocities.
    """

    flow: FlowSchedule
    shift: float
    """eta, from 0 to 1."""
    source_share: float
    """q, from 0 to 1."""
    levels_per_update: float
    """Range of the levels s divided by the number of updates of a particle."""

    @classmethod
    def of(
        cls,
        settings: EditSettings,
        schedule: Schedule,
        *,
        name: str,
        source_share: float,
        iterations_per_update: float,
    ) -> Velocities:
        """For an edit with these settings.

        Args:
            settings: Options of the edit.
            schedule: The prior's.
            name: The prior's, for the message.
            source_share: q of the terms that are evaluated.
            iterations_per_update: See `Canvas.iterations_per_update`.

        Raises:
            ValueError: If the schedule is not a flow's.
        """
        if not isinstance(schedule, FlowSchedule):
            raise ValueError(
                f"The quantity velocity needs a flow model, got {name!r}, which predicts noise; "
                "take the quantity noise, or another prior."
            )
        low, high = settings.t_range
        updates = settings.iterations / iterations_per_update
        return cls(schedule, settings.shift, source_share, (high - low) / updates)

    def own_noise(
        self, noise: Float[Tensor, "n c h w"], particles: Particles
    ) -> Float[Tensor, "n c h w"]:
        """The targets' noise e' = e + eta (x - x~), whose sources have the noise e."""
        return noise + self.shift * (particles.latent - particles.source)

    def residual(
        self, residual: Float[Tensor, "n c h w"], particles: Particles, timestep: Int[Tensor, ""]
    ) -> Float[Tensor, "n c h w"]:
        """The residual between velocities times 1 - s, in units of the noise.

        Args:
            residual: r, in which the targets' own noise also is the drawn noise.
            particles: Clean latents x and sources x~.
            timestep: The timestep of the batch.
        """
        level = float(self.flow.level(timestep))
        pull = self.source_share * (1 - level + self.shift * level)
        return residual - pull * (particles.latent - particles.source)

    def weight(self, timestep: Int[Tensor, ""]) -> float:
        """`levels_per_update` / (1 - s); 0 at s = 1, where the residual is 0."""
        level = float(self.flow.level(timestep))
        return self.levels_per_update / (1 - level) if level < 1 else 0.0
