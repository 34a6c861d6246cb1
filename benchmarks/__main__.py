"""The command `python -m benchmarks`; imports nothing heavy before an experiment runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks.gpu.settings import GpuSettings
from benchmarks.paper.settings import PaperSettings
from benchmarks.profile.settings import ProfileSettings
from benchmarks.regions.settings import RegionsSettings
from benchmarks.scaling.settings import ScalingSettings
from benchmarks.tables import TablesSettings
from benchmarks.text_to_3d.settings import TextTo3dSettings
from benchmarks.truth.settings import TruthSettings
from benchmarks.user_study.settings import UserStudySettings
from csd_nerf.cli import call, launched

COMMANDS: dict[str, type] = {
    "truth": TruthSettings,
    "paper": PaperSettings,
    "profile": ProfileSettings,
    "gpu": GpuSettings,
    "scaling": ScalingSettings,
    "regions": RegionsSettings,
    "user-study": UserStudySettings,
    "text-to-3d": TextTo3dSettings,
    "tables": TablesSettings,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse and run; a user's mistake ends in one line and exit code 1."""
    rank, count = launched()

    def run(command: Any) -> Any:
        if count > 1 and not (isinstance(command, TruthSettings) and not command.tune):
            raise ValueError(
                "torchrun shares the inputs of truth without --tune among processes, got another "
                "experiment; leave torchrun out."
            )
        with _unheard() if rank > 0 else nullcontext():
            return command.run()

    call("python -m benchmarks", COMMANDS, arguments, run=run)


def _unheard() -> AbstractContextManager[None]:
    # Late, as it imports torch.
    from csd_nerf.core.joining import silent

    return silent()


if __name__ == "__main__":
    main()
