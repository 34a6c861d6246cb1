"""A denoiser whose blocks lie on several devices; what a GPU would do is done by the CPU."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_placement import CPU, FAMILIES, META, TEXTS, answers, denoiser, load, questions
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from csd_nerf import priors
from csd_nerf.methods.common.lazy_prior import LazyPrior, PriorOptions
from csd_nerf.priors import splitting
from csd_nerf.priors.compilation import compile_choice
from csd_nerf.priors.placement import check_placement
from csd_nerf.priors.splitting import block_places, blocks_of, split_blocks, split_bytes

__all__ = ["load"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_leaves_every_bit_as_it_is(load, family):
    prior = load(family)
    split_blocks(denoiser(prior), [CPU, CPU])
    for found, expected in zip(answers(prior), answers(load(family)), strict=True):
        assert torch.equal(found, expected)


def tensors(values: Any) -> list[torch.Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, torch.Tensor)]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_meets_across_devices(load, family, monkeypatch):
    """A device without storage stands for a GPU: an operation across devices would fail."""

    def sent(values, device):
        def move(one):
            # What has no storage can't come back.
            return torch.zeros_like(one, device=device) if one.is_meta else one.to(device)

        return tree_map_only(torch.Tensor, move, values)

    plain, prior = load(family), load(family, split=("meta",))
    monkeypatch.setattr(splitting, "moved", sent)
    model, seen = denoiser(prior), list[set[torch.device]]()
    places = []
    for block in blocks_of(model):
        own = {one.device for one in (*block.parameters(), *block.buffers())}
        assert len(own) == 1, "a block is never cut apart"
        places += own
        block.register_forward_hook(
            lambda _, inputs, named, output: seen.append(
                {one.device for one in tensors((inputs, named, output))}
            ),
            with_kwargs=True,
        )
    assert places == sorted(places, key=[CPU, META].index)
    assert {*places} == {CPU, META}
    for child in model.children():
        if not isinstance(child, nn.ModuleList):
            assert {one.device for one in child.parameters()} <= {CPU}
    branches, timestep = questions(plain, plain.encode_text(TEXTS))
    output = prior.run(branches[0].noisy, timestep, prior.model_rows(branches[0]))
    assert output.device == CPU
    assert seen == [{place} for place in places]


@pytest.mark.parametrize(
    ("sizes", "rooms", "rest", "places"),
    [
        ([4, 4, 4, 4], [1.0, 1.0], 0, [0, 0, 1, 1]),
        # What stays on the first device takes its room.
        ([4, 4, 4, 4], [1.0, 1.0], 16, [1, 1, 1, 1]),
        ([4, 4, 4, 4], [3.0, 1.0], 0, [0, 0, 0, 1]),
        ([1, 1, 1, 9], [1.0, 1.0], 2, [0, 0, 0, 1]),
        ([2] * 6, [80.0, 80.0, 80.0], 0, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_blocks_fill_devices_in_turn_by_their_room(sizes, rooms, rest, places):
    assert block_places(sizes, rooms, rest=rest) == places


def test_bytes_of_a_split_are_those_of_its_blocks_and_of_the_rest():
    assert split_bytes([1, 2, 3, 4], [1.0, 1.0, 1.0], rest=5) == [5, 6, 4]
    assert split_bytes([4, 4], [1.0, 1.0], rest=16) == [16, 8]


def test_no_device_takes_much_more_than_its_share():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        sizes = torch.randint(1, 20, (30,), generator=generator).tolist()
        rooms = torch.randint(10, 30, (3,), generator=generator).double().tolist()
        places = block_places(sizes, rooms, rest=3)
        assert places == sorted(places)
        for device, room in enumerate(rooms):
            taken = sum(size for size, place in zip(sizes, places, strict=True) if place == device)
            assert taken <= room / sum(rooms) * (3 + sum(sizes)) + max(sizes)


def test_a_model_with_too_few_blocks_is_refused():
    told = "A split needs a block for each device, got Sequential with 0 blocks for 2 devices"
    with pytest.raises(ValueError, match=told):
        split_blocks(nn.Sequential(nn.Linear(2, 2)), [CPU, META])


REFUSED = {
    "A split needs devices beside the prior's own, cpu, each once, got cpu;": {"split": ("cpu",)},
    "each once, got meta meta; name others": {"split": ("meta", "meta")},
    "A device needs to be there, got cuda:77 with": {"split": ("cuda:77",)},
    "A device needs a name such as cpu or cuda:0, got 'gpu'": {"split": ("gpu",)},
    "got meta with offload model and quantize none; take": {"split": ("meta",), "offload": "model"},
    "compile needs a model on one device, got on with a split": {
        "split": ("meta",),
        "compile": "on",
    },
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_can_not_be_split_is_refused(told):
    with pytest.raises(ValueError, match=re.escape(told)):
        check_placement(device="cpu", **REFUSED[told])


def test_a_controlnet_is_refused(make_text_folder):
    with pytest.raises(ValueError, match="A ControlNet needs a model on one device, got a split"):
        priors.load(make_text_folder("latents"), kind="text", control="canny", split=("meta",))


def test_a_split_is_not_compiled_by_itself():
    where = {"device": torch.device("cuda"), "offload": "none", "quantize": "none"}
    assert compile_choice("auto", **where) == "on"
    assert compile_choice("auto", **where, split=True) == "off"


def test_a_scene_s_prior_is_split_as_its_options_say(editing_folder):
    options = PriorOptions(prior=str(editing_folder("pix2pix")), prior_split=("meta",))
    lazy = LazyPrior(options, kind="edit", device="cpu", command="csd-edit", limit="--n")
    found = {block.device for block in denoiser(lazy.get()).parameters()}
    assert found == {CPU, META}


def test_results_come_back_to_the_first_device(monkeypatch):
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

        def forward(self, values):
            for block in self.blocks:
                values = block(values)
            return values

    plain, seen = splitting.moved, []
    monkeypatch.setattr(splitting, "moved", lambda *given: seen.append(given) or plain(*given))
    model, (first, second) = Blocks(), (torch.device("cpu"), torch.device("cpu", 0))
    splitting.split_blocks(model, [first, second])
    result = model(torch.ones(1, 2))
    assert seen[-1][0] is result
    devices = [device for given, device in seen if not isinstance(given, dict)]
    assert devices == [first, first, second, first]
