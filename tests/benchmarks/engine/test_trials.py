from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.engine.identity import files_digest, plain, weights_digest
from benchmarks.engine.trials import Store, Trial
from csd_nerf import priors


@dataclasses.dataclass(frozen=True)
class Options:
    rate: float = 0.5
    t_range: tuple[float, float] = (0.02, 0.5)
    device: str = "cpu"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "model.safetensors").write_bytes(bytes(range(100)))
    return folder


def trial(weights: Path, *, image: torch.Tensor | None = None, **options: Any) -> Trial:
    decides = {
        "options": plain(Options(**options), leave_out=("device",)),
        "input": torch.zeros(2, 4, 4, 3, dtype=torch.uint8) if image is None else image,
        "weights": files_digest(weights),
    }
    return Trial({"input": "black", "arm": "csd", "seed": 0}, decides)


def asked_again(store: Store, one: Trial) -> bool:
    """Whether a trial that is asked for is run."""
    calls = []
    row = store.run(one, lambda folder: calls.append(folder) or {"psnr": 2.0})
    psnr = 2.0 if calls else 1.0
    assert row == {"input": "black", "arm": "csd", "seed": 0, "psnr": psnr, "trial": one.id}
    return bool(calls)


@pytest.fixture
def store(tmp_path: Path, weights: Path) -> Store:
    """With one trial that is finished."""
    store = Store(tmp_path / "out")
    store.run(trial(weights), lambda folder: {"psnr": 1.0})
    return store


def test_equal_trials_are_run_once(store, weights):
    assert not asked_again(store, trial(weights))
    assert not asked_again(Store(store.output), trial(weights))
    assert not asked_again(store, trial(weights, device="cuda"))


@pytest.mark.parametrize("change", [{"rate": 0.25}, {"t_range": (0.02, 0.6)}])
def test_another_option_is_another_trial(store, weights, change):
    assert store.row(trial(weights, **change)) is None
    assert asked_again(store, trial(weights, **change))
    assert not asked_again(store, trial(weights))


def test_another_input_is_another_trial(store, weights):
    other = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    other[1, 2, 3, 0] = 1
    assert asked_again(store, trial(weights, image=other))
    assert asked_again(store, trial(weights, image=torch.zeros(4, 2, 4, 3, dtype=torch.uint8)))


def test_other_weights_under_the_same_name_are_another_trial(store, weights):
    path = weights / "unet" / "model.safetensors"
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + b"x")
    assert asked_again(store, trial(weights))
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not asked_again(store, trial(weights))
    path.rename(weights / "unet" / "other.safetensors")
    assert asked_again(store, trial(weights))


def test_another_version_is_another_trial(store, weights, monkeypatch):
    installed = importlib.metadata.version
    for package in ("csd_nerf", "torch", "diffusers"):
        monkeypatch.setattr(
            importlib.metadata,
            "version",
            lambda name, changed=package: "9.9" if name == changed else installed(name),
        )
        assert store.row(trial(weights)) is None
        assert asked_again(store, trial(weights))
    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert not asked_again(store, trial(weights))


def test_names_of_a_trial_may_change(store, weights):
    renamed = dataclasses.replace(trial(weights), labels={"arm": "CSD-Edit"})
    row = store.row(renamed)
    assert row is not None
    assert (row["arm"], row["psnr"]) == ("CSD-Edit", 1.0)
    assert "input" not in row


def test_an_interrupted_trial_is_run_anew_in_an_empty_folder(tmp_path, weights):
    store, one = Store(tmp_path / "out"), trial(weights)

    def interrupted(folder: Path) -> dict[str, Any]:
        (folder / "half.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run(one, interrupted)
    assert store.row(one) is None

    def whole(folder: Path) -> dict[str, Any]:
        assert not list(folder.iterdir())
        (folder / "picture.png").write_bytes(b"whole")
        return {"psnr": 3.0}

    assert store.run(one, whole)["psnr"] == 3.0
    assert (store.folder(one) / "picture.png").read_bytes() == b"whole"


def test_a_damaged_record_is_named(store, weights):
    (store.folder(trial(weights)) / "trial.json").write_text('{"row"')
    with pytest.raises(ValueError, match=r"trial.json must be the record .* remove it to run"):
        store.row(trial(weights))


def test_weights_are_read_once_in_a_process(weights, monkeypatch):
    first = files_digest(weights)
    monkeypatch.setattr(Path, "open", lambda *arguments: pytest.fail("read again"))
    assert files_digest(weights) == first


def test_what_is_told_about_a_prior_does_not_decide_its_results(tmp_path):
    folder = tmp_path / "prior"
    shutil.copytree(priors.fetch("tiny")[0], folder)
    before = weights_digest(folder)
    assert before == weights_digest("tiny")
    for name in ("README.md", "evaluation.json", "training.json", ".gitattributes"):
        (folder / name).write_text("measured again")
    assert weights_digest(folder) == before
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "unet.lock").touch()
    assert weights_digest(folder) == before
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text() + " ")
    assert weights_digest(folder) != before


def test_the_bundled_priors_have_digests_of_their_own():
    assert weights_digest("tiny") != weights_digest("tiny-text", kind="text")


def test_what_has_no_content_of_its_own_is_refused(tmp_path):
    for value in (tmp_path, object()):
        with pytest.raises(TypeError, match="files_digest for a path"):
            plain({"data": value})
    assert plain({"data": tmp_path, "rate": 1}, leave_out=("data",)) == {"rate": 1}


def test_arrays_of_other_types_differ():
    same = [np.zeros(2, np.float32), torch.zeros(2)]
    assert plain(same[0]) == plain(same[1])
    assert plain(np.zeros(2, np.float32)) != plain(np.zeros(1, np.float64))
