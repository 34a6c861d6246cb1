"""The paper's optimizer and learning-rate schedule, as nerfstudio configs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def _adan(params: Any, **options: Any) -> Optimizer:
    # Late: importing the package takes seconds.
    from pytorch_optimizer import Adan

    return Adan(params, **options)


@dataclass
class AdanOptimizerConfig(OptimizerConfig):
    """Adan (Xie et al. 2022), as implemented by pytorch-optimizer."""

    # A function, so that the class is imported late; hidden from the command line.
    _target: Annotated[Any, tyro.conf.Suppress] = field(default_factory=lambda: _adan)
    lr: float = 2e-3
    """Highest learning rate."""
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99)
    """Decay rates of Adan's moments."""
    weight_decay: float = 0.0
    """Weight decay."""


def warmup_cosine(
    step: int, *, lr: float, lr_start: float, lr_final: float, warmup: int, steps: int
) -> float:
    """Learning rate: linear from `lr_start` to `lr` over `warmup` steps, then cosine decay."""
    if step < warmup:
        return lr_start + (lr - lr_start) * step / warmup
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return lr_final + (lr - lr_final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class WarmupCosineConfig(SchedulerConfig):
    """Warm-up and cosine decay of the learning rate; CSD Appendix C.2."""

    _target: type = field(default_factory=lambda: WarmupCosine)
    lr_start: float = 1e-9
    """Learning rate of the first step."""
    lr_final: float = 1e-6
    """Learning rate after the last step."""
    warmup_steps: int = 2000
    """Steps until the learning rate reaches the optimizer's `lr`."""
    max_steps: int = 10000
    """Steps, counted from the beginning, until the learning rate reaches `lr_final`."""


class WarmupCosine(Scheduler):
    """nerfstudio's builder of the schedule."""

    config: WarmupCosineConfig

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """The schedule, in factors of `lr_init`."""
        c = self.config

        def factor(step: int) -> float:
            rate = warmup_cosine(
                step,
                lr=lr_init,
                lr_start=c.lr_start,
                lr_final=c.lr_final,
                warmup=c.warmup_steps,
                steps=c.max_steps,
            )
            return rate / lr_init

        return LambdaLR(optimizer, factor)
