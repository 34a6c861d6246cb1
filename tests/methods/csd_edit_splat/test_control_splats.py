"""Splats edited by dds with a ControlNet for depth, of random weights."""

from __future__ import annotations

import torch
from splat_runs import start_splats

from csd_nerf.core.settings import EditSettings
from csd_nerf.core.structure import depth_structure, unpack_structure
from csd_nerf.methods.csd_edit_splat.scene import SplatScene
from csd_nerf.priors.controlnet import ControlledStableDiffusion


def test_the_depth_of_each_view_arrives(make_splats, control_folders, monkeypatch):
    config, (base, net) = make_splats(), control_folders
    pipeline = config.pipeline
    pipeline.prior, pipeline.control, pipeline.control_model = str(base), "depth", str(net)
    pipeline.edit = EditSettings(residual="dds", iterations=1, text_scale=4.0)
    pipeline.prompt, pipeline.source_prompt = "make the sphere blue", "fog"
    pipeline.source_steps, pipeline.edit_steps, pipeline.start = 4, 1, "original"
    renders, shown = {}, []
    render, beside = SplatScene.render, ControlledStableDiffusion.beside

    def remember(self, view, *, size):
        renders[view] = render(self, view, size=size)
        return renders[view]

    def look(self, image, step, text, rows):
        shown.extend(unpack_structure(rows["control"], cell_size=self.cell_size))
        return beside(self, image, step, text, rows)

    monkeypatch.setattr(SplatScene, "render", remember)
    monkeypatch.setattr(ControlledStableDiffusion, "beside", look)
    trainer = start_splats(config)
    trainer.train()
    assert set(renders) == set(trainer.pipeline.datamanager.edited)
    assert len(renders) == 4
    for rendered in renders.values():
        # A splat's own depth, along the axis, is less than that along rays.
        assert bool((rendered.axial <= rendered.depth).all())
        expected = depth_structure(rendered.axial)
        assert expected.shape == (1, 64, 64)
        assert float(expected.std()) > 0.05
        assert sum(torch.equal(one, expected) for one in shown) == 4
