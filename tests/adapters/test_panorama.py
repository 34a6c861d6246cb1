"""Panoramas from the picture to the picture, by the bundled prior at small sizes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from tint_prior import TintPrior
from torch import Tensor

from csd_nerf import priors
from csd_nerf.adapters.layout import plan_layout
from csd_nerf.adapters.options import PanoramaOptions
from csd_nerf.adapters.panorama import PREVIEW_SIZE, edit_panorama
from csd_nerf.adapters.reporter import SilentReporter
from csd_nerf.media.pixels import resize

pytestmark = pytest.mark.usefixtures("coarse_kernel")

NIGHT = "make it night"
METHODS = ["csd", "csd-no-stein", "sds", "ip2p-downsize", "ip2p-windows"]


@pytest.fixture(scope="module")
def tiny():
    return priors.load("tiny")


FEW = {"batch": 2, "iterations": 3, "steps": 3}
GIVEN = {"text_scale": 2.5, "image_scale": 1.5}
"""What the preset would give otherwise, which is tuned now and then."""


def options(**changes: Any) -> PanoramaOptions:
    return PanoramaOptions(**{"preset": "tiny", "prompt": NIGHT, **FEW, **GIVEN, **changes})


def picture(height: int = 64, width: int = 96, *, seed: int = 0) -> Tensor:
    """Smooth colours; left and right edges meet."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 6, generator=generator)
    wide = torch.cat([coarse, coarse, coarse], dim=3)
    fine = torch.nn.functional.interpolate(wide, size=(height, 3 * width), mode="bicubic")
    middle = fine[0, :, :, width : 2 * width].clamp(0, 1)
    return (middle * 255).to(torch.uint8).permute(1, 2, 0)


class StoppingReporter(SilentReporter):
    """Keeps every state in the form of a file, and may stop after one of them."""

    def __init__(self, stop_after: int | None = None, state: dict[str, Any] | None = None) -> None:
        self.stop_after = stop_after
        self.state = state
        self.notes: list[str] = []
        self.begun: list[tuple[str, int, int]] = []
        self.previews: list[Tensor] = []

    def restored(self):
        return self.state

    def begin(self, label, total, *, done=0):
        self.begun.append((label, total, done))

    def note(self, text):
        self.notes.append(text)

    def tick(self, done, *, state=None, preview=None):
        if state is None:
            return
        file = io.BytesIO()
        torch.save(state(), file)
        file.seek(0)
        self.state = {**torch.load(file, weights_only=True), "done": done}
        if preview is not None:
            self.previews.append(preview())
        if done == self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_picture_of_the_input_s_size_and_its_facts(tiny, method):
    image = picture(70, 101)
    result = edit_panorama(tiny, image, options(method=method, keep_detail=False))
    assert result.image.shape == image.shape
    assert result.image.float().sub(image).abs().mean() > 2
    facts = json.loads(json.dumps(result.facts))
    whole = method == "ip2p-downsize"
    assert facts["input_size"] == [101, 70]
    assert facts["work_size"] == ([80, 48] if whole else [96, 64])
    assert facts["canvas_cells"] == ([20, 12] if whole else [24, 16])
    assert facts["margin_cells"] == [0, 0]
    assert set(facts["seconds"]) == {"encode", "edit", "decode"}
    assert facts["peak_memory_mib"]["process"] > 100
    assert facts["notices"] == []
    if method.startswith("ip2p"):
        windows = 1 if whole else 3
        assert (facts["windows"], facts["steps"]) == (windows, 3)
        assert facts["evaluations"] == 3 * 3 * windows
    else:
        branches = 3 if method == "sds" else 5
        assert facts["evaluations"] == 3 * 2 * branches
        updates = facts["updates_per_cell"]
        assert facts["iterations"] == 3
        assert 0 <= updates["min"] <= updates["mean"] <= updates["max"]
        assert sum(updates["histogram"]["counts"]) == 16 * 24
        assert len(updates["histogram"]["edges"]) == 11


@pytest.mark.parametrize("drawing", ["balanced", "uniform"])
def test_iterations_follow_from_updates_a_cell(tiny, drawing, monkeypatch):
    def predict(branches, timestep, *, max_batch=None):
        return torch.zeros(len(branches), *branches[0].noisy.shape)

    monkeypatch.setattr(tiny, "predict", predict)
    chosen = options(iterations=None, updates=30, batch=1, drawing=drawing)
    updates = edit_panorama(tiny, picture(64, 160), chosen).facts["updates_per_cell"]
    assert updates["mean"] == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "csd", "region": ("make it a sepia photo@0,0,40%,100%",)},
        {"method": "csd", "drawing": "uniform", "noise": "independent", "wrap": True},
        {"method": "ip2p-windows", "solver": "euler-ancestral"},
        {"method": "ip2p-downsize"},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tiny, changes):
    chosen = options(iterations=4, steps=4, **changes)
    whole = edit_panorama(tiny, picture(), chosen)
    stopped = StoppingReporter(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        edit_panorama(tiny, picture(), chosen, reporter=stopped)
    going_on = StoppingReporter(state=stopped.state)
    resumed = edit_panorama(tiny, picture(), chosen, reporter=going_on)
    assert torch.equal(resumed.image, whole.image)
    assert going_on.begun[1][1:] == (4, 2)
    details = ["detail"] if whole.facts["keep_detail"] else []
    assert [label for label, *_ in going_on.begun][::2] == ["encode", "decode", *details]
    for name in ("evaluations", "updates_per_cell"):
        assert resumed.facts.get(name) == whole.facts.get(name)
    finished = edit_panorama(
        tiny, picture(), chosen, reporter=StoppingReporter(state=going_on.state)
    )
    assert torch.equal(finished.image, whole.image)


def test_seeds_decide(tiny):
    first, again, other = (
        edit_panorama(tiny, picture(), options(seed=seed)).image for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_original_stays_outside_of_regions(tiny):
    image = picture(64, 128)
    chosen = options(prompt="", region=(f"{NIGHT}@0,0,50%,100%",), iterations=6)
    result = edit_panorama(tiny, image, chosen)
    # Within a cell of 4 pixels the edit fades.
    assert torch.equal(result.image[:, 66:], image[:, 66:])
    assert (result.image[:, :60].float() - image[:, :60]).abs().mean() > 5
    # Windows on the right ask for nothing and spare an evaluation each.
    assert result.facts["evaluations"] < 6 * 2 * 5


def test_previews_are_small_pictures_of_how_it_looks(tiny):
    reporter, image = StoppingReporter(), picture(128, 2 * PREVIEW_SIZE)
    edit_panorama(tiny, image, options(iterations=1, learning_rate=1e-6), reporter=reporter)
    (preview,) = reporter.previews
    assert preview.shape == (64, PREVIEW_SIZE, 3)
    assert (preview.float() - resize(image, (64, PREVIEW_SIZE))).abs().mean() < 12


def test_what_was_changed_is_told(tiny):
    reporter = StoppingReporter()
    long = " ".join([NIGHT] * 40)
    small = edit_panorama(
        tiny, picture(30, 45), options(prompt=long, iterations=1), reporter=reporter
    )
    assert small.image.shape == (30, 45, 3)
    assert small.facts["work_size"] == [96, 64]
    assert reporter.notes == small.facts["notices"]
    enlarged, cut = reporter.notes
    assert "45 x 30 pixels is less than a window of 64 pixels" in enlarged
    assert "is cut off" in cut


def test_mistakes_are_told_before_anything_is_encoded(tiny):
    for chosen, message in [
        (options(prompt=""), "needs an instruction"),
        (options(region=("snow@0,0,200,10",)), "within the picture of 96 x 64"),
    ]:
        reporter = StoppingReporter()
        with pytest.raises(ValueError, match=message):
            edit_panorama(tiny, picture(), chosen, reporter=reporter)
        assert not reporter.begun
    with pytest.raises(ValueError, match="stride needs 1 <= stride <= 16"):
        edit_panorama(tiny, picture(), options(stride=17))


def seam_and_steps(image: Tensor) -> tuple[float, float]:
    """Mean difference of the last and the first column, and of neighbouring columns."""
    wide = image.float()
    return (
        float((wide[:, 0] - wide[:, -1]).abs().mean()),
        float(wide.diff(dim=1).abs().mean()),
    )


@pytest.mark.parametrize("method", ["csd", "ip2p-windows"])
def test_the_edges_of_a_wrapped_result_meet(tiny, method):
    image = picture(64, 128)
    few = {"method": method, "iterations": 12, "steps": 4, "learning_rate": 8.0}
    result = edit_panorama(tiny, image, options(wrap=True, **few))
    assert result.facts["wrap"] is True
    wrapped, steps = seam_and_steps(result.image)
    flat, _ = seam_and_steps(edit_panorama(tiny, image, options(**few)).image)
    assert wrapped <= 1.5 * steps
    assert flat > 1.5 * wrapped


@pytest.mark.parametrize(
    ("size", "changes", "work"),
    [
        ((653, 1920), {}, (656, 1920)),
        ((653, 1920), {"size": 960}, (320, 960)),
        ((10, 1000), {}, (64, 6400)),
        ((653, 1920), {"size": 96}, (64, 192)),
        ((128, 128), {"method": "ip2p-downsize"}, (64, 64)),
        ((64, 1024), {"method": "ip2p-downsize"}, (16, 256)),
        ((128, 128), {"method": "ip2p-downsize", "size": 2000}, (64, 64)),
        ((128, 128), {"method": "ip2p-downsize", "size": 32}, (32, 32)),
    ],
)
def test_work_sizes_keep_the_aspect_in_steps_of_the_grid(tiny, size, changes, work):
    layout = plan_layout(tiny, size, options(**changes))
    assert layout.size == work
    assert layout.grid == (work[0] // 4, work[1] // 4)


@pytest.mark.parametrize(
    ("size", "changes", "margins"),
    [
        ((653, 1920), {"size": 960}, (2, 2)),
        ((653, 1920), {"size": 960, "wrap": True}, (2, 0)),
        ((64, 192), {}, (0, 2)),
        ((64, 192), {"wrap": True}, (0, 0)),
        ((653, 1920), {"method": "ip2p-downsize"}, (0, 0)),
    ],
)
def test_margins_are_where_windows_lie_side_by_side(tiny, size, changes, margins):
    plain = plan_layout(tiny, size, options(**changes))
    layout = plain.with_margins(tiny)
    assert layout.margins == margins
    assert layout.grid == tuple(g + 2 * m for g, m in zip(plain.grid, margins, strict=True))
    assert (layout.size, layout.window) == (plain.size, plain.window)
    # Both margins together can be encoded, also by priors of coarse steps.
    coarse = TintPrior()
    coarse.cell_size, coarse.size_multiple = 8, 64
    assert plain.with_margins(coarse).margins == tuple(4 * (m > 0) for m in margins)
