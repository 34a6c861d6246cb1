"""Every option reaches what it is for, and every frame and pixel gets its own edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tint_prior import RecordingPrior, TintPrior
from torch import Tensor

from csd_nerf import cli, priors
from csd_nerf.adapters import editing
from csd_nerf.adapters.options import PanoramaOptions, VideoOptions
from csd_nerf.adapters.panorama import edit_panorama
from csd_nerf.adapters.reporter import SilentReporter
from csd_nerf.adapters.video import edit_frames
from csd_nerf.core.settings import EditSettings

pytestmark = pytest.mark.usefixtures("coarse_kernel")

PLAIN: dict[str, Any] = {"preset": "tiny", "prompt": "swap", "text_scale": 1.0, "image_scale": 1.0}
"""With these scales `TintPrior` has the swapped source as the result of every method."""
QUICK = {"learning_rate": 2.0, "updates": 20, "decay": 1.0, "batch": 2, "steps": 3}


def colours(count: int, height: int, width: int) -> Tensor:
    """Frames of random colours that change smoothly."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (255 * fine).byte().movedim(1, -1)


@pytest.mark.parametrize("method", ["csd", "csd-no-stein", "ip2p"])
@pytest.mark.parametrize("drawing", ["balanced", "uniform"])
def test_each_frame_is_edited_by_its_own_source(method, drawing):
    frames = colours(5, 32, 32)
    options = VideoOptions(method=method, drawing=drawing, **{**PLAIN, **QUICK, "updates": 40})
    edited, _ = edit_frames(TintPrior(), frames, options)
    assert (edited.float() - frames.flip(-1)).abs().mean() < 4
    # Else the frames are too much alike for this to show anything.
    assert (frames[1:].float() - frames[:-1]).abs().mean() > 20


@pytest.mark.parametrize("method", ["csd", "csd-no-stein", "ip2p-windows", "ip2p-downsize"])
@pytest.mark.parametrize("wrap", [False, True])
def test_each_part_of_a_panorama_is_edited_by_its_own_source(method, wrap):
    size = (32, 32) if method == "ip2p-downsize" else (32, 72)
    image = colours(1, *size)[0]
    options = PanoramaOptions(method=method, wrap=wrap, **{**PLAIN, **QUICK})
    edited = edit_panorama(TintPrior(), image, options).image
    assert (edited.float() - image.flip(-1)).abs().mean() < 4


class RecordingReporter(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class BundledTint(TintPrior):
    name = "tiny"


@pytest.mark.parametrize("kind", ["panorama", "video"])
def test_instructions_that_the_bundled_prior_does_not_know_are_told_and_recorded(kind):
    reporter = RecordingReporter()
    asked: dict[str, Any] = {**PLAIN, "updates": 1, "prompt": "make it a cat"}
    if kind == "panorama":
        asked["region"] = ("make it snow@0,0,50%,100%", "make it a dog@50%,0,75%,100%")
        options = PanoramaOptions(**asked)
        image = colours(1, 32, 72)[0]
        facts = edit_panorama(BundledTint(), image, options, reporter=reporter).facts
    else:
        frames = colours(2, 32, 32)
        facts = edit_frames(BundledTint(), frames, VideoOptions(**asked), reporter=reporter)[1]
    unknown = ["make it a dog", "make it a cat"] if kind == "panorama" else ["make it a cat"]
    told = [note for note in reporter.notes if "the bundled prior doesn't know" in note]
    assert [note.split('"')[1] for note in told] == unknown
    assert [notice for notice in facts["notices"] if notice in told] == told


def edit(kind: type, prior: TintPrior, **changes: Any) -> None:
    options = kind(**{**PLAIN, **QUICK, "iterations": 2, **changes})
    if kind is VideoOptions:
        edit_frames(prior, colours(5, 32, 32), options)
    else:
        edit_panorama(prior, colours(1, 32, 72)[0], options)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (VideoOptions, "csd"),
        (VideoOptions, "ip2p"),
        (PanoramaOptions, "csd"),
        (PanoramaOptions, "ip2p-windows"),
    ],
)
def test_the_prior_is_asked_with_both_prompts_and_no_more_at_a_time_than_max_batch(kind, method):
    prior = RecordingPrior()
    scales = {"text_scale": 3.0, "image_scale": 2.0}
    edit(kind, prior, method=method, negative_prompt="fog", max_batch=3, **scales)
    assert prior.asked
    for texts, _, max_batch in prior.asked:
        assert set(texts) == {"swap", "fog"}
        assert max_batch == 3


class CodingPrior(TintPrior):
    """Remembers how many pictures it was asked to encode or decode at a time."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def encode(self, image01):
        self.counts.append(len(image01))
        return super().encode(image01)

    def decode(self, latent):
        self.counts.append(len(latent))
        return super().decode(latent)


def test_no_more_tiles_of_a_panorama_are_encoded_or_decoded_at_a_time_than_max_batch():
    prior = CodingPrior()
    edit(PanoramaOptions, prior, batch=4, max_batch=1)
    assert {*prior.counts} == {1}


GIVEN = {
    "learning_rate": 0.3,
    "decay": 0.5,
    "text_scale": 2.0,
    "image_scale": 3.0,
    "t_range": (0.1, 0.6),
    "t_order": "falling",
    "noise": "independent",
    "max_batch": 3,
}
REACHING = ("quantity", "shift", "source_bank", "stop_below")
KERNEL = {"kernel_on": "clean", "normalize": "n", "repulsion": 0.7}


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
@pytest.mark.parametrize(
    ("method", "given", "meant"),
    [
        ("csd", {}, ("patch", "csd")),
        ("csd", {"residual": "dds"}, ("patch", "dds")),
        ("csd", {"mixing": "stein"}, ("stein", "csd")),
        ("csd", {"source_share": 0.5}, ("patch", "csd")),
        ("csd-no-stein", {"source_share": 0.0}, ("none", "csd")),
        ("csd-no-stein", {}, ("none", "csd")),
        ("csd", {"quantity": "velocity", "shift": 0.25}, ("patch", "csd")),
        ("csd", {"source_bank": 8, "stop_below": 0.125}, ("patch", "csd")),
        ("sds", {}, ("none", "sds")),
        ("sds", {"mixing": "patch"}, ("patch", "sds")),
    ],
)
def test_options_reach_the_editor(monkeypatch, kind, method, given, meant):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(editing, "edit", lambda prior, canvas, **given: asked.update(given))
    prompts = {"negative_prompt": "fog", "source_prompt": "a plain"}
    options = {"iterations": 12, "decays": 2, "drawing": "uniform", **given}
    mixing, residual = meant
    kernel = KERNEL if mixing == "stein" else {}
    edit(kind, TintPrior(), method=method, **options, **prompts, **GIVEN, **kernel)
    if not kernel:
        # Nothing is mixed by a kernel between images, so the preset's values have no effect.
        kernel = {"normalize": "rowsum", "repulsion": 0.0}
    usual = 0.25 if method == "csd" and residual == "csd" else 1.0
    share = {"source_share": given.get("source_share", usual)}
    share |= {name: given[name] for name in REACHING if name in given}
    assert asked["settings"] == EditSettings(
        iterations=12, decay_every=6, mixing=mixing, residual=residual, **share, **GIVEN, **kernel
    )
    assert asked["prompts"] == ["swap"]
    assert {name: asked[name] for name in prompts} == prompts
    assert asked["done"] == 0


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("csd-no-stein", {"mixing": "patch"}, "--mixing needs --method csd or sds"),
        ("ip2p", {"mixing": "patch"}, "--mixing needs --method csd or sds"),
        ("sds", {"source_share": 0.5}, "--source-share needs --method csd or csd-no-stein"),
        ("ip2p", {"source_share": 0.5}, "--source-share needs --method csd or csd-no-stein"),
        ("sds", {"quantity": "velocity"}, "--quantity velocity needs --method csd or csd-no-stein"),
        (
            "ip2p",
            {"quantity": "velocity"},
            "--quantity velocity needs --method csd or csd-no-stein",
        ),
        ("sds", {"source_bank": 8}, "--source-bank needs --method csd or csd-no-stein"),
        ("ip2p", {"stop_below": 0.1}, "--stop-below needs --method csd or csd-no-stein or sds"),
        ("ip2p", {"t_order": "falling"}, "--t-order needs --method csd or csd-no-stein or sds"),
    ],
)
def test_options_are_refused_for_methods_without(method, given, message):
    with pytest.raises(ValueError, match=f"{message}, got {method}"):
        VideoOptions(method=method, **given)


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--kernel-on clean", {"kernel_on": "clean"}),
        ("--normalize", {"normalize": "n"}),
        ("--repulsion", {"repulsion": 0.0}),
    ],
)
def test_options_of_the_kernel_are_refused_where_there_is_none(option, given):
    VideoOptions(preset="tiny", mixing="stein", **given)
    PanoramaOptions(preset="full", **given)
    for kind in (VideoOptions, PanoramaOptions):
        with pytest.raises(ValueError, match=f"{option} needs the mixing stein, got patch from"):
            kind(preset="tiny", **given)
        with pytest.raises(ValueError, match=f"{option} .* got none from --method sds and"):
            kind(method="sds", **given)


def test_options_reach_the_windows_of_a_panorama(monkeypatch):
    canvases, asked = [], {}

    def recorded(prior, canvas, **given):
        canvases.append(canvas)
        asked.update(given)

    monkeypatch.setattr(editing, "edit", recorded)
    given = {"stride": 10, "taper": 5, "wrap": True, "drawing": "uniform", "batch": 3}
    edit(PanoramaOptions, TintPrior(), region=("snow@0,0,36,32",), **given)
    (canvas,) = canvases
    assert (canvas.stride, canvas.taper, canvas.wrap) == (10, 5, True)
    assert (canvas.drawing, canvas.batch_size) == ("uniform", 3)
    assert asked["prompts"] == ["snow", "swap"]
    # The first instruction's part of a window is the overlap with the left half of 72 columns.
    for left, (first, second) in zip(
        canvas.positions[:, 1].tolist(), asked["prompt_weights"].tolist(), strict=True
    ):
        columns = [(left + k) % 72 for k in range(32)]
        assert first == pytest.approx(sum(column < 36 for column in columns) / 32)
        assert first + second == pytest.approx(1)


def test_facts_have_the_iterations_that_an_edit_took():
    facts = {}
    for bound in (0.0, 1e9):
        options = VideoOptions(**{**PLAIN, **QUICK, "iterations": 30, "stop_below": bound})
        facts[bound] = edit_frames(TintPrior(), colours(5, 32, 32), options)[1]
    assert facts[0.0]["iterations"] == 30
    assert facts[1e9]["iterations"] == 10


@pytest.mark.parametrize("drawing", ["uniform", "balanced"])
def test_options_reach_the_frames_of_a_video(monkeypatch, drawing):
    canvases = []
    monkeypatch.setattr(editing, "edit", lambda prior, canvas, **_: canvases.append(canvas))
    edit(VideoOptions, TintPrior(), drawing=drawing, batch=3)
    assert (canvases[0].drawing, canvases[0].batch_size) == (drawing, 3)


def test_the_learning_rate_decays_between_sweeps(monkeypatch):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(editing, "edit", lambda prior, canvas, **given: asked.update(given))
    # Five frames in batches of two: a sweep has three iterations.
    edit(VideoOptions, TintPrior(), iterations=16, decays=4, drawing="balanced")
    assert asked["settings"].decay_every == 6


@pytest.mark.parametrize(
    ("preset", "residual", "compile", "split"),
    [
        ("small", "csd", "auto", ()),
        ("full", "dds", "auto", ()),
        ("release", "csd", "off", ("meta",)),
    ],
)
def test_the_command_loads_the_prior_as_its_options_say(
    tmp_path, monkeypatch, capsys, preset, residual, compile, split
):
    calls, fetched = [], []
    monkeypatch.setattr(priors, "fetch", lambda *a, **k: fetched.append((a, k)) or (tmp_path, None))
    monkeypatch.setattr(priors, "load", lambda *a, **k: calls.append((a, k)) or TintPrior())
    Image.fromarray(colours(1, 32, 40)[0].numpy()).save(tmp_path / "x.png")
    given = ["panorama", str(tmp_path / "x.png"), "--output", str(tmp_path / "y.png")]
    given += ["--prompt", "swap", "--preset", preset, "--iterations", "1"]
    given += ["--prior", "some/model", "--prior-variant", "fp16", "--device", "cpu"]
    given += ["--dtype", "bfloat16", "--residual", residual, "--source-prompt", "a plain"]
    given += ["--prior-split", *split] if split else ["--prior-offload", "model"]
    cli.main(given)
    (((name,), options),) = calls
    assert name == "some/model"
    options.pop("tell")("compiled.")
    assert "note: compiled." in capsys.readouterr().err
    files = {
        "device": torch.device("cpu"),
        "dtype": "bfloat16",
        "variant": "fp16",
        "kind": "text" if residual == "dds" else "edit",
    }
    assert options == {
        **files,
        "condition": "scaled" if preset == "release" else "raw",
        "offload": "none" if split else "model",
        "quantize": "none",
        "compile": compile,
        "split": split,
        "control": None,
        "control_model": None,
        "control_scale": 1.0,
    }
    assert fetched == [(("some/model",), files)]
    assert np.asarray(Image.open(tmp_path / "y.png")).shape == (32, 40, 3)
