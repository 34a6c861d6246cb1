from __future__ import annotations

from typing import Any

import pytest

from csd_nerf.core import mixing
from csd_nerf.core.patches import PatchKernel, patch_kernel


@pytest.fixture
def coarse_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of at most 256 cells: where the latents are pixels, the kernel is most of the work.

    What fineness does is tested with the kernel itself; that it arrives, with the editor.
    """

    def coarse(*arguments: Any, max_cells: int, **options: Any) -> PatchKernel:
        return patch_kernel(*arguments, max_cells=min(max_cells, 256), **options)

    monkeypatch.setattr(mixing, "patch_kernel", coarse)
