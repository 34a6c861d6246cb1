"""Every option reaches what it is for, and losses push the way that they should."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from dreamfusion_runs import tiny_config
from sure_prior import SurePrior

from csd_nerf import priors
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.methods.csd_dreamfusion import pipeline as pipeline_module
from csd_nerf.methods.csd_dreamfusion.config import csd_dreamfusion
from csd_nerf.methods.csd_dreamfusion.shading import normal_outputs

VALUES = {"front": 0.2, "side": 0.4, "back": 0.6, "overhead": 0.8}
TEMPLATE = "{prompt}, {view} view"


class RecordingPrior(SurePrior):
    """Remembers the texts that it encodes and those that it is asked with."""

    preferred_size = 12

    def __init__(self):
        self.encoded, self.asked = [], []

    def encode_text(self, prompts, image_rows=None):
        self.encoded += prompts
        values = [next((v for k, v in VALUES.items() if k in p), 0.0) for p in prompts]
        values = [-1.0 if p == "fog" else v for p, v in zip(prompts, values, strict=True)]
        return {"text": torch.tensor(values)[:, None, None]}

    def predict(self, branches, timestep, *, max_batch=None):
        self.asked.append(
            ([b.rows["text"] for b in branches], branches[0].noisy, timestep, max_batch)
        )
        return super().predict(branches, timestep, max_batch=max_batch)


@pytest.fixture
def recorded(monkeypatch):
    prior = RecordingPrior()
    calls = []
    monkeypatch.setattr(priors, "fetch", lambda *a, **k: calls.append(("fetch", a, k)))
    monkeypatch.setattr(priors, "load", lambda *a, **k: calls.append(("load", a, k)) or prior)
    return prior, calls


def started(config):
    config.set_experiment_name()
    torch.manual_seed(0)
    trainer = config.setup()
    trainer.setup()
    return trainer


def test_runs_of_different_prompts_have_different_names(tmp_path):
    prompts = [
        "red car",
        "red_car",
        "Red car",
        "red car!",
        "a " * 40,
        "a " * 41,
        "\u8d64",
        "\u9752",
        "",
    ]
    names = []
    for prompt in prompts:
        config = tiny_config(tmp_path, steps=1, prompt=prompt)
        config.set_experiment_name()
        assert re.fullmatch(r"[a-z0-9-]+", config.experiment_name)
        names.append(config.experiment_name)
    assert names[0] == "red-car"
    assert names[1].startswith("red-car-")
    assert names[-1] == "unnamed"
    assert len({*names}) == len(prompts)


def test_the_prior_is_loaded_and_asked_as_the_options_say(tmp_path, recorded):
    prior, calls = recorded
    config = tiny_config(
        tmp_path,
        steps=2,
        prior="some/model",
        prior_device="cuda:7",
        prior_dtype="bfloat16",
        prior_variant="fp16",
        prior_offload="text",
        prior_compile="on",
        prompt="a cat",
        negative_prompt="fog",
        view_template=TEMPLATE,
    )
    config.pipeline.distill = replace(config.pipeline.distill, max_batch=3, text_scale=2.0)
    trainer = started(config)
    trainer.train()
    files = {"kind": "text", "device": "cuda:7", "dtype": "bfloat16", "variant": "fp16"}
    place = {"offload": "text", "quantize": "none", "compile": "on", "split": ()}
    assert calls == [
        ("fetch", ("some/model",), files),
        ("load", ("some/model",), {**files, **place, "tell": trainer.pipeline._prior._tell}),
    ]
    views = [TEMPLATE.format(prompt="a cat", view=view) for view in VALUES]
    assert prior.encoded == [*views, "fog"]
    assert len(prior.asked) == 2
    for texts, noisy, timestep, max_batch in prior.asked:
        empty, positive = texts
        # The negative prompt stands for the empty text; the prompt says where a camera stands.
        assert empty.flatten().tolist() == [-1.0]
        assert positive.min() >= 0.2 - 1e-6
        assert noisy.shape == (4, 3, 12, 12)
        assert len(timestep) == 4
        assert max_batch == 3


def test_each_view_is_shown_with_the_text_of_its_own_camera(tmp_path, recorded, monkeypatch):
    from csd_nerf.methods.csd_dreamfusion.datamanager import orbit_cameras

    prior, _ = recorded
    config = tiny_config(tmp_path, steps=1, view_template=TEMPLATE)
    trainer = started(config)
    degrees = torch.tensor([0.0, 90.0, 180.0, 270.0])
    cameras = orbit_cameras(torch.deg2rad(degrees), torch.zeros(4), radius=2.5, focal=1.0, size=12)
    monkeypatch.setattr(trainer.pipeline.datamanager, "draw_cameras", lambda _: cameras)
    trainer.train()
    (positive,) = prior.asked[0][0]
    expected = [VALUES[view] for view in ("front", "side", "back", "side")]
    assert positive.flatten().tolist() == pytest.approx(expected, abs=1e-4)


def seen_images(pipeline, monkeypatch, steps):
    """The renders that training hands to the prior."""
    seen = []
    real = pipeline_module.distill

    def watch(prior, image01, **options):
        seen.append(image01.detach())
        return real(prior, image01, **options)

    monkeypatch.setattr(pipeline_module, "distill", watch)
    for step in range(steps):
        pipeline.get_train_loss_dict(step)
    return torch.stack(seen)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_backgrounds_are_random_as_often_as_asked(tmp_path, recorded, monkeypatch, share):
    """Rays through the corners miss the object: there are only backgrounds."""
    config = tiny_config(tmp_path, steps=1, random_background=share)
    config.pipeline.datamanager.radius_mean = 4.0
    images = seen_images(started(config).pipeline, monkeypatch, steps=24)
    corners = images[:, 0, :, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    first = corners[:, :1, :, :1]
    plain = ((corners - first).abs() < 1e-6).flatten(1).all(1)
    if share == 0.5:
        assert 4 <= int(plain.sum()) <= 20
    else:
        assert plain.all() if share else not plain.any()
    colours = first[plain].flatten(1)
    assert len(colours.unique(dim=0)) == len(colours)


@pytest.fixture
def regularisers(request, tmp_path, recorded):
    """The losses of some rays' opacities, and of an orientation loss."""
    weights = {"opacity_weight": 0.2, "entropy_weight": 0.3, "orientation_weight": 0.7}
    config = tiny_config(tmp_path, steps=1, **weights, **getattr(request, "param", {}))
    pipeline = started(config).pipeline

    def losses(opacity, orientation=0.0, *, step=0, **samples):
        renders = [{"orientation": torch.tensor(orientation), **samples}]
        out = pipeline._regularisers(torch.as_tensor(opacity).view(1, -1, 1), renders, step)
        return {name: value / 12**2 for name, value in out.items()}

    return losses


def test_regularisers_are_what_their_formulas_say(regularisers):
    opacities = [0.1, 0.35, 0.9]
    found = regularisers(opacities, orientation=2.5)
    opacity = sum(math.sqrt(o * o + 0.01) for o in opacities) / 3
    entropy = -sum(o * math.log2(o) + (1 - o) * math.log2(1 - o) for o in opacities) / 3
    assert float(found["opacity"]) == pytest.approx(0.2 * opacity, rel=1e-5)
    assert float(found["entropy"]) == pytest.approx(0.3 * entropy, rel=1e-5)
    assert float(found["orientation"]) == pytest.approx(0.7 * 2.5, rel=1e-5)


@pytest.mark.parametrize("regularisers", [{"entropy_of": "samples"}], indirect=True)
def test_the_entropy_of_samples_is_a_mean_over_all_samples_of_all_rays(regularisers):
    """Two rays of three meet the sphere; the third has no samples, and an entropy of zero."""
    weights = [[0.1, 0.6, 0.0], [0.2, 0.0, 0.3]]
    hit = torch.tensor([[True], [False], [True]])
    found = regularisers([0.7, 0.0, 0.5], weights=torch.tensor(weights), hit=hit)
    total = 0.0
    for w in (min(max(w, 1e-5), 1 - 1e-5) for row in weights for w in row):
        total += -w * math.log2(w) - (1 - w) * math.log2(1 - w)
    assert float(found["entropy"]) == pytest.approx(0.3 * total / 9, rel=1e-5)


@pytest.mark.parametrize("regularisers", [{"entropy_warmup": 8}], indirect=True)
def test_the_entropy_s_weight_rises_from_zero(regularisers):
    found = [float(regularisers([0.5], step=step)["entropy"]) for step in (0, 2, 8, 20)]
    assert found == pytest.approx([0, 0.3 / 4, 0.3, 0.3])


@pytest.mark.parametrize("bounds", [(0.4, 0.4), (0.1, 1.0)])
def test_ambient_light_is_drawn_from_its_range(tmp_path, recorded, bounds):
    pipeline = started(tiny_config(tmp_path, steps=1, ambient=bounds)).pipeline
    cameras = pipeline.datamanager.draw_cameras(2)
    drawn = [
        pipeline._draw_look(cameras, step, torch.Generator().manual_seed(step))[1].ambient
        for step in range(60)
    ]
    if bounds == (0.4, 0.4):
        assert set(drawn) == {0.4}
    else:
        assert 0.1 <= min(drawn) < 0.25
        assert 0.85 < max(drawn) <= 1.0


def test_stable_dreamfusion_s_choices_run_from_end_to_end(tmp_path, recorded):
    """The full preset's cameras, light and regularisers on the tiny preset's field."""
    config = tiny_config(tmp_path, steps=1)
    full = copy.deepcopy(csd_dreamfusion.config)
    full.pipeline.datamanager.train_resolution = 12
    kept = ("model", "distill", "prior", "prior_dtype", "prompt")
    for name in kept:
        setattr(full.pipeline, name, getattr(config.pipeline, name))
    config.pipeline, config.optimizers = full.pipeline, full.optimizers
    trainer = started(config)
    _, losses, _ = trainer.pipeline.get_train_loss_dict(5000)
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert min(float(losses[name]) for name in ("entropy", "orientation")) > 0
    assert float(losses["opacity"]) == 0
    (group,) = trainer.optimizers.optimizers["fields"].param_groups
    assert (group["weight_decay"], group["eps"]) == (2e-5, 1e-8)
    assert trainer.optimizers.config["fields"]["optimizer"].max_norm == 5.0


@pytest.mark.parametrize(("opacity", "sharper"), [(0.3, -1), (0.7, 1)])
def test_descending_empties_space_and_makes_rays_hit_or_miss(regularisers, opacity, sharper):
    given = torch.tensor([opacity], requires_grad=True)
    found = regularisers(given)
    (slope,) = torch.autograd.grad(found["opacity"], given, retain_graph=True)
    assert slope > 0
    (slope,) = torch.autograd.grad(found["entropy"], given)
    assert -slope * sharper > 0


def test_the_orientation_loss_turns_normals_towards_the_camera():
    directions = torch.tensor([[0.0, 0.0, -1.0]])
    weights = torch.ones(1, 1)
    active = torch.ones(1, 1, dtype=torch.bool)

    def loss(z):
        normal = torch.stack([(1 - z * z).sqrt(), torch.zeros(()), z])[None]
        return normal_outputs(weights, normal, active, directions)["orientation"]

    assert loss(torch.tensor(0.6)) == 0
    away = torch.tensor(-0.6, requires_grad=True)
    assert float(loss(away)) == pytest.approx(0.36)
    (slope,) = torch.autograd.grad(loss(away), away)
    assert slope < 0


def test_a_step_adds_up_its_losses_and_its_noise_is_that_of_its_seed(
    tmp_path, recorded, monkeypatch
):
    drawn = []
    real = SeededRandomness.normal

    def watch(self, shape):
        noise = real(self, shape)
        drawn.append(noise)
        return noise

    monkeypatch.setattr(SeededRandomness, "normal", watch)
    for seed in (0, 0, 1):
        pipeline = started(tiny_config(tmp_path, steps=1, seed=seed)).pipeline
        _, losses, metrics = pipeline.get_train_loss_dict(0)
        assert {"distillation", "opacity", "entropy"} <= set(losses)
        assert 0 < metrics["coverage"] < 1
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
