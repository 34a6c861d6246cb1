"""Every option reaches what it is for: one prior remembers what it was loaded with and asked."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from edit_runs import start
from tint_prior import RecordingPrior

from csd_nerf import priors
from csd_nerf.core.residuals import csd_edit
from csd_nerf.core.settings import EditSettings
from csd_nerf.methods.common.checks import asked_prompt
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions
from csd_nerf.methods.common.prior_memory import choose_by_memory
from csd_nerf.methods.csd_edit.config import csd_edit_tiny
from csd_nerf.priors import memory
from csd_nerf.priors.predictions import Edit, peak_bytes
from csd_nerf.priors.prior_costs import prior_costs
from csd_nerf.scene.plan import PAPER_ROUNDS


@pytest.fixture
def recorded(monkeypatch):
    """The prior of all names, and the calls that fetched and loaded it."""
    prior = RecordingPrior()
    calls: list[tuple] = []
    monkeypatch.setattr(priors, "fetch", lambda *a, **k: calls.append(("fetch", a, k)))
    monkeypatch.setattr(priors, "load", lambda *a, **k: calls.append(("load", a, k)) or prior)
    return prior, calls


@pytest.mark.parametrize(
    ("tiling", "offload", "split"), [(True, "model", ()), (False, "none", ("cuda:8", "cuda:9"))]
)
def test_the_prior_is_loaded_as_the_options_say(
    make_config, recorded, monkeypatch, tiling, offload, split
):
    _, calls = recorded
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 10)
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.prior_device = "some/model", "cuda:7"
    pipeline.prior_dtype, pipeline.prior_variant = "float16", "fp16"
    pipeline.prior_vae_tiling = tiling
    pipeline.prior_offload, pipeline.prior_compile = offload, "auto"
    pipeline.prior_split = split
    pipeline.edit_steps = 1
    trainer = start(config)
    files = {"kind": "edit", "device": "cuda:7", "dtype": "float16", "variant": "fp16"}
    fetched = ("fetch", ("some/model",), files)
    assert calls == [fetched]
    trainer.train()
    options = {**files, "vae_tiling": tiling, "offload": offload, "quantize": "none"}
    options |= {"compile": "auto", "split": split, "tell": trainer.pipeline._prior._tell}
    options |= {"control": None, "control_model": None, "control_scale": 1.0}
    assert calls == [fetched, ("load", ("some/model",), options)]


def test_another_prior_brings_its_own_numbers(make_config, recorded, capsys):
    config = make_config()
    pipeline = config.pipeline
    pipeline.prior, pipeline.edit_steps = "flux2-klein", 1
    preset = csd_edit_tiny.config.pipeline.edit
    pipeline.edit = given = dataclasses.replace(preset, image_scale=1.25)
    start(config)
    assert pipeline.edit == dataclasses.replace(given, text_scale=4.0, t_range=(0.02, 0.98))
    told = " ".join(capsys.readouterr().out.split())
    assert "csd-edit: the numbers of flux2-klein: text-scale 4.0, t-range (0.02, 0.98)." in told


def _predicted(monkeypatch, pipeline, device, *, free, **options):
    """Let the device have as much memory free as an edit takes with these options, and more."""
    dtype = torch.float32 if device == "cpu" else torch.float16
    costs = prior_costs(pipeline.prior, dtype)
    edit = pipeline.edit
    scales = {"image_scale": edit.image_scale, "text_scale": edit.text_scale}
    terms = csd_edit(**scales, source_share=edit.source_share)
    taken = peak_bytes(costs, Edit(pipeline.rounds.views, terms), **options)
    monkeypatch.setattr(memory, "free_bytes", lambda found: {device: taken + free}[str(found)])


@pytest.mark.parametrize(("bank", "batch"), [(0, 4), (30, 2)])
def test_memory_auto_chooses_the_batch_by_what_is_free(
    make_config, recorded, monkeypatch, capsys, bank, batch
):
    config = make_config()
    pipeline = config.pipeline
    pipeline.memory, pipeline.edit_steps, pipeline.edit_size = "auto", 1, None
    pipeline.default_rounds, pipeline.edit_views = PAPER_ROUNDS, None
    pipeline.edit = csd_edit_tiny.config.pipeline.edit
    # Its latents have to fit, beside those of an edit without it.
    pipeline.edit = replace(pipeline.edit, source_bank=bank)
    reserve = memory.SCENE_RESERVE["cpu"]
    _predicted(monkeypatch, pipeline, "cpu", free=reserve, max_batch=4)
    start(config)
    assert pipeline.edit.max_batch == batch
    assert (pipeline.prior_offload, pipeline.prior_quantize) == ("none", "none")
    told = " ".join(capsys.readouterr().out.split())
    assert f"csd-edit: memory: {batch} evaluations a call, everything on the device" in told
    assert f"({reserve / 1e9:.1f} GB are left to the scene)." in told


@pytest.mark.parametrize("given", [{}, {"prior_offload": "model"}])
def test_memory_auto_offloads_on_a_gpu_unless_the_user_says_how(
    make_config, recorded, monkeypatch, given
):
    config = make_config()
    pipeline = config.pipeline
    pipeline.memory, pipeline.edit_steps, pipeline.edit_size = "auto", 1, None
    pipeline.default_rounds, pipeline.edit_views = PAPER_ROUNDS, None
    pipeline.prior, pipeline.prior_device = "instruct-pix2pix", "cuda:7"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 10)
    pipeline.edit = EditSettings(max_batch=3)
    for name, value in given.items():
        setattr(pipeline, name, value)
    _predicted(monkeypatch, pipeline, "cuda:7", free=-1, max_batch=3)
    start(config)
    # The batch was the user's.
    assert pipeline.edit.max_batch == 3
    assert pipeline.prior_offload == given.get("prior_offload", "text")


def test_memory_auto_knows_what_a_split_leaves_to_the_first_gpu(
    make_config, recorded, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 10)
    config = make_config()
    pipeline = config.pipeline
    pipeline.memory, pipeline.edit_steps, pipeline.edit_size = "auto", 1, None
    pipeline.prior, pipeline.prior_device = "flux-kontext", "cuda:7"
    pipeline.prior_split = ("cuda:2", "cuda:4")
    room = {"cuda:7": 26 * 10**9, "cuda:2": 25 * 10**9, "cuda:4": 24 * 10**9}
    monkeypatch.setattr(memory, "free_bytes", lambda found: room[str(found)])
    start(config)
    # One of them would have to offload or to quantise.
    assert (pipeline.prior_offload, pipeline.prior_quantize) == ("none", "none")
    assert " GB of 26.0 and 25.0 and 24.0 GB" in " ".join(capsys.readouterr().out.split())


def test_memory_auto_refuses_a_device_that_is_not_there(make_config, recorded):
    for options in ({"prior_device": "cuda:7"}, {"prior_split": ("cuda:7",)}):
        config = make_config()
        config.pipeline.memory = "auto"
        vars(config.pipeline).update(options)
        with pytest.raises(MethodError, match="auto: A device needs to be there, got cuda:7"):
            choose_by_memory(config, config.pipeline, None)


def test_memory_preset_changes_nothing(make_config, recorded, monkeypatch):
    config = make_config()
    config.pipeline.edit_steps = 1
    before = config.pipeline.edit
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    start(config)
    assert config.pipeline.edit == before


def test_without_a_device_of_its_own_the_prior_runs_where_the_scene_trains(make_config, recorded):
    config = make_config()
    config.pipeline.edit_steps = 1
    start(config).train()
    assert recorded[1][-1][2]["device"] == "cpu"


def test_rounds_ask_what_the_options_and_the_viewer_say(make_config, recorded):
    prior, _ = recorded
    config = make_config()
    pipeline = config.pipeline
    pipeline.negative_prompt, pipeline.edit_size = "fog", 24
    pipeline.edit = EditSettings(
        iterations=2, text_scale=3.0, max_batch=5, source_share=0.0, t_order="falling"
    )
    trainer = start(config)
    controls, stage = trainer.pipeline.controls, trainer.pipeline.stage
    before, read, steps = stage.before_step, controls.read, []

    def count(step):
        steps.append(step)
        return before(step)

    def changed_at_step_5(*, editing):
        request = read(editing=editing)
        if steps[-1] < 5:
            return request
        settings = replace(request.settings, text_scale=1.0)
        return replace(request, prompt="make it snow", settings=settings)

    stage.before_step, controls.read = count, changed_at_step_5
    trainer.train()
    assert stage.state.rounds == 3
    assert len(prior.asked) == 6
    for texts, shape, max_batch in prior.asked:
        assert shape == (4, 3, 24, 24)
        assert max_batch == 5
        assert "fog" in texts
        assert "" not in texts
        # Without a share the source is not asked for.
        assert len(texts) == 3
    assert min(prior.timesteps[::2]) > 400
    assert max(prior.timesteps[1::2]) < 100
    assert ["swap red and blue" in texts for texts, _, _ in prior.asked] == [True] * 2 + [False] * 4
    assert ["make it snow" in texts for texts, _, _ in prior.asked] == [False] * 2 + [True] * 4


def test_nerfstudios_own_prompt_counts_only_where_ours_is_empty(make_config):
    config = make_config()
    config.pipeline.model.prompt = "theirs"
    assert asked_prompt(config) == "swap red and blue"
    config.pipeline = replace(config.pipeline, prompt="")
    assert asked_prompt(config) == "theirs"


@pytest.mark.parametrize("error", [ValueError, ImportError])
def test_a_prior_that_can_not_be_used_is_a_mistake_of_one_line(error, monkeypatch):
    def refuse(*_, **__):
        raise error("it makes images:\n  name another.")

    monkeypatch.setattr(priors, "load", refuse)
    prior = LazyPrior(PriorOptions(), kind="edit", device="cpu", command="csd-edit", limit="--n")
    with pytest.raises(MethodError, match=r"^it makes images: name another\.$"):
        prior.get()
