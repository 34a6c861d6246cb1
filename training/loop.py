"""A training loop that can be killed at any moment and goes on from its last checkpoint.

Every step draws from a generator seeded by the run's seed and the step's number, so that an
interrupted run sees the same data and noise as one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from csd_nerf.media.files import written_whole

Step = Callable[[int, torch.Generator], torch.Tensor]


def cosine(step: int, *, steps: int, warmup: int = 200) -> float:
    """Learning rate factor: linear warm-up, then half a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Course:
    """How training went, interruptions left out.

    Attributes:
        losses: Mean loss of each interval between checkpoints.
        seconds: Wall-clock time.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Average:
    """Exponential moving average of parameters, with a decay that rises from the start."""

    def __init__(self, parameters: list[torch.nn.Parameter], *, decay: float = 0.999):
        self.decay = decay
        self.values = [p.detach().clone() for p in parameters]

    def update(self, parameters: list[torch.nn.Parameter], step: int) -> None:
        """Move towards the parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)

    def copy_to(self, parameters: list[torch.nn.Parameter]) -> None:
        """Overwrite the parameters with their averages."""
        with torch.no_grad():
            for parameter, value in zip(parameters, self.values, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint."""
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)


def run(
    step: Step,
    state: Mapping[str, Any],
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
    every: int,
    label: str,
) -> Course:
    """Call `step` until `steps` are done.

    Args:
        step: Does step number i with a generator of its own and returns the loss.
        state: Objects with `state_dict` and `load_state_dict`.
        steps: Total number of steps, those of earlier runs counted.
        seed: Of the run.
        checkpoint: File that is replaced, never half-written.
        every: Steps between checkpoints.
        label: For the progress bar.
    """
    first, course = 0, Course()
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, item in state.items():
            item.load_state_dict(saved["state"][name])
        first, course = saved["step"], Course(**saved["course"])
    losses: list[torch.Tensor] = []
    clock = time.perf_counter()
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=label, mininterval=10)
    for index in bar:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        losses.append(step(index, generator).detach())
        if (index + 1) % every == 0 or index + 1 == steps:
            course.losses.append(torch.stack(losses).mean().item())
            losses.clear()
            now = time.perf_counter()
            course.seconds, clock = course.seconds + now - clock, now
            bar.set_postfix(loss=f"{course.losses[-1]:.4f}")
            contents = {name: item.state_dict() for name, item in state.items()}
            saved = {"step": index + 1, "course": vars(course), "state": contents}
            with written_whole(checkpoint) as partial:
                torch.save(saved, partial)
    return course
