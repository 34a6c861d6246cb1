"""Problems of this machine and of the priors on it, each with its remedy."""

from __future__ import annotations

from dataclasses import dataclass

from csd_nerf.adapters.machine import Machine
from csd_nerf.adapters.prior_rows import PriorRow
from csd_nerf.priors.memory import Choice


@dataclass(frozen=True)
class Problem:
    """Something that is missing."""

    what: str
    remedy: str
    prior: str | None = None
    """The prior that can't run for it; None if nothing else stops."""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}."


def problems_of(machine: Machine) -> list[Problem]:
    """Problems of the machine itself."""
    return [*_gpu_problems(machine), *_package_problems(machine)]


def problems_of_prior(
    row: PriorRow, machine: Machine, *, at_hand: bool, choice: Choice
) -> list[Problem]:
    """What a prior lacks on this machine.

    Args:
        row: What an edit takes.
        machine: The machine.
        at_hand: Whether its weights are on this machine.
        choice: How the edit fits the memory.
    """
    found = []
    if not at_hand:
        found.append(
            Problem(
                f"the weights of {row.name} are not at hand",
                f"csd-nerf weights {row.name} fetches them",
                row.name,
            )
        )
        # Those that run in bfloat16 are published in it, the others in float32.
        needed = row.parameters * (2 if row.half == "bfloat16" else 4)
        if needed > machine.cache_free_bytes:
            found.append(
                Problem(
                    f"the weights of {row.name} are about {needed / 1e9:.0f} GB, and the volume of "
                    f"{machine.cache} has {machine.cache_free_bytes / 1e9:.0f} GB free",
                    "set HF_HOME to a folder on another volume, or name one with --output",
                    row.name,
                )
            )
    if not choice.fits:
        found.append(
            Problem(
                f"{row.name} takes {choice.peak_bytes / 1e9:.1f} GB at least, and "
                f"{choice.free_bytes / 1e9:.1f} GB are free",
                "take fewer views, a smaller edit size or a smaller model",
                row.name,
            )
        )
    return found


def _gpu_problems(machine: Machine) -> list[Problem]:
    if machine.gpus:
        return []
    if machine.cuda is not None:
        what = f"torch is built for CUDA {machine.cuda}, and no GPU answers"
        remedy = "install NVIDIA's driver, or go on on the CPU with the preset tiny"
    elif machine.has_driver:
        what = "there is a GPU, and torch is built for the CPU alone"
        remedy = "install torch for CUDA, as pytorch.org says"
    else:
        what = "there is no GPU"
        remedy = "take the preset tiny, or csd-edit-tiny, which run on a CPU"
    return [
        Problem(what, remedy),
        Problem(
            "without a GPU csd-edit-splat takes a rasteriser of its own, slower than gsplat's",
            "take csd-edit-splat-tiny",
        ),
    ]


def _package_problems(machine: Machine) -> list[Problem]:
    versions, found = machine.versions, []
    for name in ("nerfstudio", "gsplat", "diffusers", "transformers"):
        if versions[name] is None:
            found.append(Problem(f"{name} is not installed", "install csd_nerf again"))
    if machine.gpus and not machine.has_compiler and versions["gsplat"] is not None:
        found.append(
            Problem(
                "gsplat is not compiled, and there is no nvcc to compile it at its first use",
                "install the CUDA toolkit, or a wheel of gsplat that is compiled, before "
                "csd-edit-splat",
            )
        )
    if machine.gpus and versions["tiny-cuda-nn"] is None:
        found.append(
            Problem(
                "tiny-cuda-nn is not installed, so that csd-edit trains with torch alone, slower",
                "install it as nerfstudio's page on installation says",
            )
        )
    if versions["accelerate"] is None:
        found.append(
            Problem(
                "accelerate is not installed, so that loading a model takes its weights twice in "
                "the CPU's memory",
                "pip install accelerate",
            )
        )
    if machine.gpus and versions["bitsandbytes"] is None:
        found.append(
            Problem("bitsandbytes is not installed: no 8-bit weights", "pip install bitsandbytes")
        )
    return found
