"""Edits whose work several processes share: the result is that of one."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
from ranks_together import run_together

from csd_nerf import priors
from csd_nerf.core.joining import current
from csd_nerf.core.ranks import ALONE, Ranks
from csd_nerf.editor import EditSettings, edit_images
from csd_nerf.priors.base import at_once, ranks_of
from csd_nerf.priors.sharing import SharedPrior

COUNTS = (2, 3)


@cache
def tiny():
    return priors.load("tiny")


@pytest.fixture(params=COUNTS)
def together(request):
    # Its forks have it too.
    tiny()
    return partial(run_together, request.param)


class Counting:
    """A prior that notes how much it is asked for."""

    def __init__(self, prior: Any) -> None:
        self.prior, self.evaluated, self.encoded, self.decoded = prior, 0, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def predict(self, branches, timestep, *, max_batch=None):
        self.evaluated += sum(branch.evaluations for branch in branches)
        return self.prior.predict(branches, timestep, max_batch=max_batch)

    def encode_source(self, image01):
        self.encoded += len(image01)
        return self.prior.encode_source(image01)

    def decode(self, latent):
        self.decoded += len(latent)
        return self.prior.decode(latent)


class Outcome(NamedTuple):
    image01: torch.Tensor
    evaluations: int
    own: tuple[int, int, int]
    """Evaluated, encoded and decoded by this rank."""


def images(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").clamp(0, 1)


def loaded() -> tuple[Counting, Any]:
    counting = Counting(tiny())
    ranks = current()
    return counting, SharedPrior(counting, ranks) if ranks.count > 1 else counting


def edited(count: int, options: dict[str, Any]) -> Outcome:
    counting, prior = loaded()
    settings = EditSettings(iterations=3, learning_rate=0.5, **options)
    shares = None
    if settings.residual == "csd" and count > 2:
        shares = torch.tensor([[1.0, 0.0], [0.25, 0.25], [0.0, 0.0]]).repeat(count, 1)[:count]
    result = edit_images(
        prior,
        images(count),
        prompt=["make it night", "turn it over"] if shares is not None else "make it night",
        prompt_weights=shares,
        settings=settings,
        start01=images(count).flip(0),
        generator=torch.Generator().manual_seed(0),
    )
    own = (counting.evaluated, counting.encoded, counting.decoded)
    return Outcome(result.image01, result.evaluations, own)


class OneAfterAnother(Ranks):
    """Several ranks' shares, computed by this process."""

    def shared(self, total, work):
        parts = [work(Ranks(rank, self.count).share(total)) for rank in range(self.count)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def sampled(prior: Any, count: int, method: str) -> torch.Tensor:
    # Late, in this process alone: it imports diffusers.
    from csd_nerf.priors.sampling import sample_edit, sample_windows

    generator = torch.Generator().manual_seed(0)
    if method == "images":
        prompts = ["make it night", "turn it over", "a red cube", "make it night", ""][:count]
        return sample_edit(prior, images(count), prompts, steps=3, generator=generator)
    latent, rows = prior.encode_source(images(1))
    return sample_windows(
        prior,
        {name: row[0] for name, row in rows.items()},
        ["make it night"],
        torch.ones(count, 1),
        positions=torch.tensor([[0, x] for x in range(count)]),
        window=(latent.shape[2], latent.shape[3] - count + 1),
        steps=3,
        noise=torch.randn(latent.shape[1:], generator=generator),
        generator=generator,
        max_batch=2,
    )


CASES = [
    (5, {}),
    (1, {}),
    (2, {"max_batch": 1}),
    (5, {"batch_size": 2, "noise": "independent"}),
    (4, {"mixing": "patch", "residual": "sds", "noise": "independent"}),
    (3, {"noise": "independent", "source_share": 0.5}),
]


@pytest.mark.parametrize(("count", "options"), CASES)
def test_ranks_edit_as_one_does(together, count, options):
    alone = edited(count, options)
    found = together(edited, count, options)
    for one in found:
        assert (one.image01 - alone.image01).abs().max() < 1e-5
        assert one.evaluations == alone.evaluations == alone.own[0]
    assert (alone.image01 - images(count)).abs().max() > 0.05
    assert sum(one.own[0] for one in found) == alone.evaluations
    if count >= len(found) and "batch_size" not in options:
        least = count // len(found)
        assert all(least <= one.own[1] <= least + 1 for one in found)
        assert all(least <= one.own[2] <= least + 1 for one in found)


@pytest.mark.parametrize("method", ["images", "windows"])
@pytest.mark.parametrize("count", COUNTS)
def test_ranks_sample_as_one_does(method, count):
    prior = Counting(tiny())
    alone = sampled(prior, 5, method)
    evaluated = prior.evaluated
    found = sampled(SharedPrior(prior, OneAfterAnother(0, count)), 5, method)
    assert (found - alone).abs().max() < 1e-5
    assert prior.evaluated == 2 * evaluated


def limit(max_batch: int | None) -> int:
    return at_once(loaded()[1], max_batch, total=7)


def test_a_limit_of_a_batch_is_that_of_each_rank(together):
    assert together(limit, 4)[0] == 4 * len(together(limit, None))
    assert together(limit, None)[0] == 7
    assert at_once(tiny(), 4, total=7) == 4
    assert ranks_of(tiny()) is ALONE


def failing(where: str) -> str:
    """A prior fails in the last rank, while all edit."""
    counting, prior = loaded()
    ranks = current()

    def fail(*_, **__) -> None:
        raise MemoryError("too little memory")

    if ranks.rank == ranks.count - 1:
        setattr(counting, where, fail)
    with pytest.raises((MemoryError, OSError)) as caught:
        edit_images(
            prior,
            images(3),
            prompt="make it night",
            settings=EditSettings(iterations=2),
            generator=torch.Generator().manual_seed(0),
        )
    assert ranks.all_of(ranks.rank) == [*range(ranks.count)]
    return str(caught.value)


@pytest.mark.parametrize("where", ["encode_source", "predict", "decode"])
def test_a_prior_that_fails_in_one_rank_ends_the_edit_in_all(together, where):
    *others, own = together(failing, where)
    assert own == "too little memory"
    count = len(others) + 1
    assert {*others} == {f"Rank {count - 1} of {count}: too little memory"}


def with_gradient() -> torch.Tensor:
    _, prior = loaded()
    image01 = images(2).requires_grad_()
    prior.encode(image01).square().sum().backward()
    assert image01.grad is not None
    return image01.grad


def test_a_graph_passes_through_the_encoder(together):
    expected = with_gradient()
    for found in together(with_gradient):
        assert (found - expected).abs().max() < 1e-4


class Devices(OneAfterAnother):
    """Notes the devices of what would be gathered."""

    def shared(self, total, work):
        self.__dict__["found"] = {rows.device.type for rows in work(slice(0, total)).values()}
        return {"result": torch.ones(total, 3, 8, 8)}


def test_results_are_gathered_on_the_prior_s_device():
    prior = Counting(priors.load("tiny"))
    prior.device = torch.device("meta")
    ranks = Devices(0, 2)
    image01 = SharedPrior(prior, ranks).decode(torch.zeros(2, prior.latent_channels, 4, 4))
    assert ranks.__dict__["found"] == {"meta"}
    assert image01.device.type == "cpu"
