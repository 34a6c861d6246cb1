"""The presets: splatfacto's settings, and the paper's schedule."""

from __future__ import annotations

import dataclasses

import pytest
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from csd_nerf.scene.plan import PAPER_ROUNDS


@pytest.mark.parametrize("size", ["", "-big"])
def test_full_presets_have_splatfactos_settings(size):
    ours, theirs = all_methods[f"csd-edit-splat{size}"], all_methods[f"splatfacto{size}"]
    for spec in dataclasses.fields(SplatfactoModelConfig):
        if spec.name != "_target":
            mine, usual = (getattr(c.pipeline.model, spec.name) for c in (ours, theirs))
            assert mine == usual, spec.name
    assert ours.optimizers == theirs.optimizers
    assert ours.pipeline.datamanager.dataparser == theirs.pipeline.datamanager.dataparser
    assert ours.mixed_precision == theirs.mixed_precision
    assert ours.pipeline.source_steps == theirs.max_num_iterations == 30_000


def test_full_presets_edit_as_csd_edit_does():
    splats, nerf = all_methods["csd-edit-splat"].pipeline, all_methods["csd-edit"].pipeline
    assert splats.default_rounds == PAPER_ROUNDS
    for name in ("edit", "edit_steps", "edit_every", "edit_views", "update", "start", "prior"):
        assert getattr(splats, name) == getattr(nerf, name), name
    assert splats.model.lpips_weight == nerf.model.lpips_weight == 1
    assert not splats.model.densify_editing
    assert splats.model.editing_geometry_rate == 1


def test_the_tiny_preset_edits_as_csd_edit_tiny_does():
    splats = all_methods["csd-edit-splat-tiny"].pipeline
    nerf = all_methods["csd-edit-tiny"].pipeline
    for name in ("edit", "edit_steps", "default_rounds", "source_steps", "start", "prior"):
        assert getattr(splats, name) == getattr(nerf, name), name
