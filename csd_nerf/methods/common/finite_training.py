"""Stops a run of nerfstudio whose numbers are no longer finite, before it saves them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from csd_nerf.core.finite import LossWatch

LEAST_SCALE = 1e-3
"""Scale of mixed precision below which its gradients overflow at every scale."""
_EVERY = 50
"""Steps between checks on a GPU, where each waits for the device."""


@runtime_checkable
class Scaler(Protocol):
    """What is used of torch's GradScaler."""

    def is_enabled(self) -> bool:
        """Whether the run has mixed precision."""
        ...

    def get_scale(self) -> float:
        """Factor of the loss, halved whenever gradients overflow."""
        ...


class FiniteTraining:
    """Watches the losses, gradients and parameters of a run."""

    def __init__(self) -> None:
        self._losses = LossWatch()

    def after_step(self, step: int, loss: Float[Tensor, ""], scaler: Scaler) -> None:
        """Look at a step that was taken.

        Args:
            step: The step.
            loss: Its loss.
            scaler: The scaler of mixed precision.

        Raises:
            FloatingPointError: If a loss was not finite, or gradients always overflow, for which
                mixed precision would skip all steps.
        """
        self._losses.record(step, loss)
        if loss.device.type == "cpu" or step % _EVERY == 0:
            self._losses.check()
        if scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE:
            raise FloatingPointError(
                f"Gradients need to be finite, got overflow at every scale by step {step}; add "
                "--mixed-precision False, or --pipeline.prior-dtype float32."
            )

    def before_saving(self, step: int, model: nn.Module) -> None:
        """Look at the parameters that a checkpoint after this step would hold.

        Raises:
            FloatingPointError: If a loss was not finite, or a parameter isn't.
        """
        self._losses.check()
        for name, values in model.named_parameters():
            if not bool(values.isfinite().all()):
                raise FloatingPointError(
                    f"Parameters need to be finite, got inf or nan in {name} after step {step}; go "
                    "on from the last checkpoint, which was finite, with lower learning rates "
                    "(--optimizers) or --mixed-precision False."
                )
