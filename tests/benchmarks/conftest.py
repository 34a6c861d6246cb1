from __future__ import annotations

import pytest

from benchmarks.truth import tuned


@pytest.fixture(autouse=True)
def _untuned(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor write the tuned options of the repository."""
    monkeypatch.setattr(tuned, "FOLDER", tmp_path_factory.mktemp("tuned"))
