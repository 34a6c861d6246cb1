"""The editor's loop doesn't wait for the device, but where it looks for non-finite numbers.

Torch's meta device stands for a GPU: its tensors have no content, so that whatever would have to
wait for it (`float`, `bool`, `nonzero`, a copy to the CPU) raises an error. A copy from the CPU
waits too, unless it is `non_blocking`; a dispatch mode looks for these.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from random_pipelines import make_latent_pipeline, make_pixel_pipeline
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from csd_nerf import editor, priors
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.finite import FiniteWatch
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.editor import edit
from csd_nerf.priors.estimates import encode_sources

TEXT_MAKERS = {
    "latents": lambda: make_latent_pipeline("ddim", "epsilon"),
    "pixels": lambda: make_pixel_pipeline("clipped", "epsilon"),
}
CPU, META = torch.device("cpu"), torch.device("meta")


class NoWaiting(TorchDispatchMode):
    """Refuses copies from the CPU to the device for which the CPU would wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            waits = not kwargs.get("non_blocking", len(args) > 2 and args[2])
            if waits and result.device == META and any(one.device == CPU for one in given):
                raise AssertionError(f"a copy of {given[-1].shape} to the device waits for it")
        return result


def on_meta(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    # Not a copy: texts are encoded before the loop.
    return {name: torch.empty_like(row, device=META) for name, row in rows.items()}


@pytest.fixture(autouse=True)
def _autocast_without_a_device(monkeypatch):
    """Torch's autocast doesn't know the meta device."""
    original = torch.autocast
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda kind, **given: original("cuda" if kind == "meta" else kind, **given),
    )


@pytest.fixture(scope="module")
def two(editing_folder, tmp_path_factory):
    """A prior of a family on the CPU, and on the device, whose texts the first one encodes."""

    def load(family: str):
        if family in ("latents", "pixels"):
            folder, kind = tmp_path_factory.mktemp(family), "text"
            TEXT_MAKERS[family]().save_pretrained(folder)
        else:
            folder, kind = editing_folder(family), "edit"
        plain, prior = (priors.load(folder, kind=kind, device=at) for at in (CPU, META))
        prior.encode_text = lambda prompts, rows=None: on_meta(plain.encode_text(prompts))
        return plain, prior

    return load


@pytest.fixture
def checks(monkeypatch) -> list[int]:
    """The loop's looks at the device, which are its only ones."""
    found: list[int] = []
    monkeypatch.setattr(editor, "CHECK_EVERY", 2)
    monkeypatch.setattr(FiniteWatch, "check", lambda self, total: found.append(total))
    return found


def stack(plain, count: int, **options) -> ImageStack:
    source, rows = encode_sources(plain, torch.rand(count, 3, 64, 64))
    source = source.to(META)
    return ImageStack(source.clone(), source, on_meta(rows), **options)


def run(
    prior,
    canvas,
    *,
    prompts=("make it night",),
    weights=None,
    source=None,
    watched=True,
    **settings,
):
    settings = EditSettings(**{"iterations": 3, **settings})
    with NoWaiting() if watched else nullcontext():
        edit(
            prior,
            canvas,
            prompts=prompts,
            prompt_weights=weights,
            source_prompt=source,
            settings=settings,
            randomness=SeededRandomness(torch.Generator().manual_seed(0)),
        )


@pytest.mark.parametrize("family", ["pix2pix", "xl", "flux2", "kontext", "qwen"])
def test_no_family_waits_for_the_device(two, checks, family):
    plain, prior = two(family)
    if family == "qwen":
        # diffusers copies its positions at the first call, for all others.
        run(prior, stack(plain, 3), watched=False, iterations=1)
        checks.clear()
    run(prior, stack(plain, 3))
    assert checks == [3, 3]


@pytest.mark.parametrize("family", ["latents", "pixels"])
def test_dds_does_not_wait_for_the_device(two, checks, family):
    plain, prior = two(family)
    run(prior, stack(plain, 3), residual="dds", source="a field")
    assert checks == [3, 3]


SETTINGS = {
    "patch": {"mixing": "patch"},
    "bank": {"source_bank": 2, "noise": "independent"},
    "none": {"mixing": "none", "noise": "independent", "max_batch": 2},
    "clean": {"kernel_on": "clean", "normalize": "rowsum", "t_order": "falling"},
    "release": {"bandwidth": "with-diagonal", "repulsion_scale": "one", "source_share": 0.5},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_makes_the_loop_wait(two, checks, name):
    plain, prior = two("pix2pix")
    editable = torch.ones(4, 16, 16)
    editable[0] = 0
    run(prior, stack(plain, 4, batch_size=2, editable=editable), **SETTINGS[name])
    assert checks == [3, 3]


def test_instructions_for_some_of_the_images_do_not_make_it_wait(two, checks):
    plain, prior = two("pix2pix")
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.5, 0.5]])
    run(prior, stack(plain, 3), prompts=("make it night", "make it day"), weights=weights)
    assert checks == [3, 3]


def test_velocities_do_not_make_it_wait(two, checks):
    plain, prior = two("flux2")
    run(prior, stack(plain, 2), quantity="velocity", shift=0.5, t_order="falling")
    assert checks == [3, 3]


@pytest.mark.parametrize("drawing", ["balanced", "uniform"])
@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_windows_do_not_make_it_wait(two, checks, drawing, noise):
    _, prior = two("pix2pix")
    field = torch.zeros(4, 16, 24, device=META)
    rows = {"condition": field.clone()}
    canvas = WindowCanvas(field, field.clone(), rows, (8, 8), 4, 3, drawing=drawing)
    run(prior, canvas, noise=noise)
    assert checks == [3, 3]


WAITING = {
    "float": lambda one: float(one.sum()),
    "bool": lambda one: bool((one > 0).all()),
    "nonzero": lambda one: one.nonzero(),
    "cpu": lambda one: one.cpu(),
    "mask": lambda one: one[one > 0],
    "equal": lambda one: torch.equal(one, one + 1),
    "copy": lambda one: torch.zeros(3).to(one.device),
    "like": lambda one: torch.zeros(3).to(one),
    "copy_": lambda one: one.copy_(torch.zeros(3)),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_seen(name):
    with NoWaiting(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        WAITING[name](torch.zeros(3, device=META))


def test_pixels_cross_to_the_prior_s_device_once(two, checks, monkeypatch):
    """Nothing that has been encoded there comes back, which would raise an error."""
    _, prior = two("pix2pix")
    monkeypatch.setattr(editor, "require_finite", lambda *_: None)
    image01 = torch.rand(2, 3, 64, 64)
    result = editor.edit_images(
        prior,
        image01,
        prompt="make it night",
        start01=image01,
        editable=torch.ones(2, 16, 16),
        settings=EditSettings(iterations=1),
        generator=torch.Generator().manual_seed(0),
    )
    found = (result.image01, result.latent, result.source_latent)
    assert {tensor.device for tensor in found} == {META}
