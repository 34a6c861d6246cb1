"""How branches become batches and come back, with a family whose model is one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from csd_nerf.core.schedules import DiscreteSchedule
from csd_nerf.priors.base import Branch, Prior
from csd_nerf.priors.family import DiffusersPrior

N = 3
TIMESTEP = torch.tensor([20, 499, 981])


class Toy(DiffusersPrior):
    """Every input of its model matters; records the sizes that the model is called with."""

    source_rows = ("control",)
    latent_channels = 2
    cell_size = 1
    preferred_size = 4
    size_multiple = 1

    def __init__(self) -> None:
        super().__init__("toy", torch.device("cpu"), DiscreteSchedule.scaled_linear())
        self.calls: list[tuple[int, int, bool]] = []

    def encode(self, image01):
        return image01[:, :2]

    def decode(self, latent):
        return latent[:, [0, 1, 1]]

    def encode_text(self, prompts, image_rows=None):
        """As many tokens as letters."""
        (length,) = {len(prompt) for prompt in prompts}
        numbers = [[float(ord(letter)) for letter in prompt] for prompt in prompts]
        return {"text": torch.tensor(numbers).view(-1, length, 1) / 100}

    def free_text_encoder(self):
        pass

    def run(self, noisy, timestep, rows):
        self.calls.append((len(noisy), rows["text"].shape[1], "control" in rows))
        return model(noisy, timestep, rows["text"], rows.get("control"))

    def noise_of(self, output, noisy, timestep):
        return output + timestep.view(-1, 1, 1, 1) * noisy


def model(noisy: Tensor, timestep: Tensor, text: Tensor, control: Tensor | None) -> Tensor:
    out = noisy * text.sum(1)[..., None, None] + timestep.view(-1, 1, 1, 1) / 1000
    out = torch.einsum("nchw,cd->ndhw", out, torch.tensor([[0.7, 0.3], [-0.2, 1.1]]))
    return out if control is None else out - 3 * control


def singly(branches: list[Branch]) -> Tensor:
    """Estimates one particle at a time; zero where a branch leaves a particle out."""
    out = torch.zeros(len(branches), *branches[0].noisy.shape)
    for k, branch in enumerate(branches):
        for i in range(N) if branch.particles is None else branch.particles.tolist():
            one = {name: row[i if len(row) > 1 else 0][None] for name, row in branch.rows.items()}
            z, t = branch.noisy[i][None], TIMESTEP[i][None]
            out[k, i] = (model(z, t, one["text"], one.get("control")) + t * z)[0]
    return out


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def branches(toy) -> list[Branch]:
    """Rows of two sizes by turns, of one row and of one a particle, with and without a control."""
    noisy, other, control = normal(3, N, 2, 4, 4)
    return [
        Branch(noisy, toy.encode_text(["ab"])),
        Branch(other, {**toy.encode_text(["abc"]), "control": control}),
        Branch(noisy, toy.encode_text(["ab", "cd", "ef"])),
        Branch(noisy, {**toy.encode_text(["abc", "def", "ghi"]), "control": control[:1]}),
        Branch(other, toy.encode_text(["xyz"])),
    ]


def test_it_is_a_prior_whose_base_has_no_rows_and_no_tiles(toy):
    assert isinstance(toy, Prior)
    image01 = normal(1, 3, 4, 4)
    latent, rows = toy.encode_source(image01)
    assert torch.equal(latent, toy.encode(image01))
    assert rows == {}
    with toy.encoding_tiles(image01), toy.decoding_tiles(latent):
        assert torch.equal(toy.encode(image01), latent)


@pytest.mark.parametrize("max_batch", [None, 1, 4, 100])
def test_branches_of_different_sizes_are_evaluated_apart_and_come_back_in_order(
    toy, branches, max_batch
):
    estimates = toy.predict(branches, TIMESTEP, max_batch=max_batch)
    torch.testing.assert_close(estimates, singly(branches))
    if max_batch is None:
        assert toy.calls == [(6, 2, False), (6, 3, True), (3, 3, False)]
    else:
        assert max(size for size, *_ in toy.calls) == min(max_batch, 6)


@pytest.mark.parametrize("particles", [[1], [2, 0]])
def test_particles_take_their_own_rows_where_rows_have_one_each(toy, branches, particles):
    """And all take the one row where there is one."""
    some = [replace(branch, particles=torch.tensor(particles)) for branch in branches]
    shown = [some[2], branches[1], some[3], some[0]]
    torch.testing.assert_close(toy.predict(shown, TIMESTEP), singly(shown))
    assert sum(size for size, *_ in toy.calls) == 3 * len(particles) + N
    assert [branch.evaluations for branch in shown] == [len(particles), N, *[len(particles)] * 2]


@pytest.mark.parametrize("name", ["text", "control"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_rows_of_neither_one_nor_n_are_refused(toy, branches, name, count):
    rows = {**branches[1].rows, "control": branches[1].rows["control"]}
    rows[name] = torch.zeros(count, *rows[name].shape[1:])
    told = rf"The rows '{name}' need 1 row or one a particle \(3\), got {count}"
    with pytest.raises(ValueError, match=told):
        toy.predict([replace(branches[1], rows=rows)], TIMESTEP)
    assert toy.calls == []


def test_unknown_rows_are_refused_with_those_that_there_are(toy, branches):
    rows = {**branches[0].rows, "reference": branches[0].noisy, "pooled": branches[0].noisy}
    told = "'toy' takes the rows text, control, got pooled, reference too: leave them out, or load"
    with pytest.raises(ValueError, match=told) as error:
        toy.predict([branches[1], replace(branches[0], rows=rows)], TIMESTEP)
    assert "\n" not in str(error.value)
    assert toy.calls == []


@pytest.mark.parametrize(
    ("count", "max_batch", "got"), [(0, None, "0 branches"), (2, 0, "max_batch 0")]
)
def test_no_branch_and_no_room_are_refused(toy, branches, count, max_batch, got):
    with pytest.raises(ValueError, match=f"a branch or more and a positive max_batch .* {got}"):
        toy.predict(branches[:count], TIMESTEP, max_batch=max_batch)


def test_an_autocast_around_a_prediction_changes_no_bit(toy, branches):
    plain = toy.predict(branches, TIMESTEP)
    rows = toy.model_rows(branches[2])
    with torch.autocast("cpu", torch.bfloat16):
        within = toy.predict(branches, TIMESTEP)
        bare = toy.run(branches[2].noisy, TIMESTEP, rows)
    assert torch.equal(within, plain)
    # Without the guard it would.
    assert not torch.equal(bare, toy.run(branches[2].noisy, TIMESTEP, rows))


def test_a_prediction_keeps_no_graph(toy, branches):
    noisy = branches[0].noisy.clone().requires_grad_()
    assert not toy.predict([replace(branches[0], noisy=noisy)], TIMESTEP).requires_grad
