"""The command `python -m benchmarks`; imports nothing heavy before an experiment runs."""

from __future__ import annotations

from benchmarks.gpu.settings import GpuSettings
from benchmarks.paper.settings import PaperSettings
from benchmarks.profile.settings import ProfileSettings
from benchmarks.regions.settings import RegionsSettings
from benchmarks.scaling.settings import ScalingSettings
from benchmarks.tables import TablesSettings
from benchmarks.text_to_3d.settings import TextTo3dSettings
from benchmarks.truth.settings import TruthSettings
from benchmarks.user_study.settings import UserStudySettings
from csd_nerf.cli import call

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
    call("python -m benchmarks", COMMANDS, arguments)


if __name__ == "__main__":
    main()
