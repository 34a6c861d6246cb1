"""Weighted sums of estimates against a loop over particles, texts and estimates in float64."""

from __future__ import annotations

import pytest
import torch
from sure_prior import SurePrior
from torch import Tensor

from csd_nerf.core.residuals import EDIT_RESIDUALS, Terms, generation
from csd_nerf.core.schedules import FlowSchedule
from csd_nerf.priors.estimates import ModelInputs, Texts, encode_sources, weighted_sum

SHARES = torch.tensor([[0.5, 0.5], [0.25, 0.0], [0.0, 0.0], [1.0, 0.0]])
N = len(SHARES)
TIMESTEP = torch.tensor([20, 499, 700, 981])
WORDS = {"": 0.0, "fog": 0.3, "night": -0.8, "a day": 0.6}


def estimate(noisy: Tensor, timestep: Tensor, text: Tensor, condition: Tensor | None) -> Tensor:
    """A model of one particle, in which every input matters."""
    seen = 0.0 if condition is None else 1.3 * condition + 0.2
    return torch.tanh(noisy * (1 + text)) + text * timestep / 1000 + seen


class Model(SurePrior):
    """Evaluates one particle at a time; its texts depend on the images that it is given."""

    source_rows = ("condition", "reference")

    def encode_text(self, prompts, image_rows=None):
        words = torch.tensor([WORDS[prompt] for prompt in prompts])
        if image_rows is None:
            return {"text": words}
        return {"text": words + image_rows["picture"].mean((1, 2, 3))}

    def encode_source(self, image01):
        self.largest = max(getattr(self, "largest", 0), len(image01))
        return image01 + 1, {"condition": 2 * image01, "reference": 3 * image01}

    def predict(self, branches, timestep, *, max_batch=None):
        self.evaluations, self.max_batch = 0, max_batch
        out = torch.zeros(len(branches), *branches[0].noisy.shape)
        for k, branch in enumerate(branches):
            for i in range(N) if branch.particles is None else branch.particles.tolist():
                text, condition = branch.rows["text"], branch.rows.get("condition")
                one = None if condition is None else condition[i]
                own = text[i if len(text) > 1 else 0]
                out[k, i] = estimate(branch.noisy[i], timestep[i], own, one)
                self.evaluations += 1
        return out


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


NOISY = dict(zip(("target", "source"), normal(2, N, 3, 2, 2, seed=0), strict=True))
CONDITION = normal(N, 3, 2, 2, seed=1)
DRAWN = normal(N, 3, 2, 2, seed=2)


def by_definition(terms: Terms, words: dict[str, float]) -> Tensor:
    total = terms.noise * DRAWN.double()
    without = words["a day" if terms.needs_source_text else ""]
    for (latent, image, text), weight in terms.weights.items():
        for i in range(N):
            rest = 1 - float(SHARES[i].sum())
            said = {
                "empty": [(1.0, words[""])],
                "source": [(1.0, words["a day"])],
                "prompt": [
                    (float(SHARES[i, 0]), words["fog"]),
                    (float(SHARES[i, 1]), words["night"]),
                    (rest, without),
                ],
            }[text]
            condition = CONDITION[i].double() if image else None
            for share, word in said:
                z, t = NOISY[latent][i].double(), TIMESTEP[i].double()
                total[i] += weight * share * estimate(z, t, torch.tensor(word).double(), condition)
    return total


def texts_of(model: Model, pictures: Tensor | None = None) -> Texts:
    """In two parts, if there are pictures."""
    parts = [{}] if pictures is None else [{"picture": part} for part in pictures.split(3)]
    return Texts.encode(
        model, ["fog", "night"], negative_prompt="", source_prompt="a day", image_rows=parts
    )


# With these scales (null, image, text) have the weights -0.3, -1.5, 2.8 in the target.
RESIDUALS = {
    **{name: make(image_scale=1.3, text_scale=2.8) for name, make in EDIT_RESIDUALS.items()},
    "generation": generation(text_scale=2.8),
}


@pytest.mark.parametrize("own_texts", [False, True])
@pytest.mark.parametrize("name", RESIDUALS)
def test_every_residual_with_composed_instructions_is_the_sum_over_particles(name, own_texts):
    model, terms = Model(), RESIDUALS[name]
    pictures = torch.full((N, 3, 2, 2), 0.25) if own_texts else None
    inputs = ModelInputs(NOISY, {"condition": CONDITION}, texts_of(model, pictures), SHARES)
    found, count = weighted_sum(model, terms, inputs, TIMESTEP, drawn=DRAWN, max_batch=7)
    words = {said: value + 0.25 * own_texts for said, value in WORDS.items()}
    expected = by_definition(terms, words)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert count == model.evaluations
    assert model.max_batch == 7


class BoundedFlow(Model):
    """A flow that halves what guidance adds to the velocity, and turns its sign."""

    schedule = FlowSchedule()
    bounds_guidance = True

    def bound_guidance(self, guided, conditional):
        return conditional - 0.5 * (guided - conditional)

    def predict_velocity(self, branches, timestep, *, max_batch=None):
        return self.predict(branches, timestep, max_batch=max_batch)


# Only samplers sum velocities, and they have no source.
@pytest.mark.parametrize(
    ("name", "velocity"), [*((name, False) for name in RESIDUALS), ("generation", True)]
)
def test_guidance_is_bounded_for_each_latent_as_the_prior_says(name, velocity):
    """Bounding here is linear, so that it's another scale of guidance, for target and source."""
    model, terms = BoundedFlow(), RESIDUALS[name]
    shares = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0], [1.0, 0.0]])
    inputs = ModelInputs(NOISY, {"condition": CONDITION}, texts_of(model), shares)
    found, _ = weighted_sum(model, terms, inputs, TIMESTEP, drawn=DRAWN, velocity=velocity)
    plain, bounded = Terms(noise=terms.noise), Terms()
    for latent in ("target", "source"):
        own = Terms({key: w for key, w in terms.weights.items() if key.latent == latent})
        if own.weights:
            share = sum(own.weights.values())
            aim = Terms({own.most_conditional(latent): share})
            bounded = bounded + aim - 0.5 * (own - aim)
    assert "prompt" in {key.text for key in bounded.weights}
    expected, _ = weighted_sum(Model(), plain + bounded, inputs, TIMESTEP, drawn=DRAWN)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    unbounded, _ = weighted_sum(Model(), terms, inputs, TIMESTEP, drawn=DRAWN)
    assert float((found - unbounded).abs().max()) > 0.1


def test_guidance_that_leads_nowhere_is_not_bounded():
    """With a text scale of 0 the instruction's estimate is not evaluated."""
    terms = EDIT_RESIDUALS["sds"](image_scale=1.5, text_scale=0.0)
    inputs = ModelInputs(NOISY, {"condition": CONDITION}, texts_of(Model()), SHARES)
    assert terms.most_conditional("target").text == "empty"
    found, _ = weighted_sum(BoundedFlow(), terms, inputs, TIMESTEP, drawn=DRAWN)
    assert found.isfinite().all()


def test_an_estimate_is_evaluated_only_where_it_has_a_weight():
    """fog in three particles, night in one, null and image everywhere, the source twice."""
    model = Model()
    inputs = ModelInputs(NOISY, {"condition": CONDITION}, texts_of(model), SHARES)
    _, count = weighted_sum(model, RESIDUALS["csd"], inputs, TIMESTEP)
    assert count == (4 + 4 + 3 + 1) + 2 * 4
    # Of the prompts' estimates DDS gives the rest to the source's text, which sees the target.
    _, count = weighted_sum(model, RESIDUALS["dds"], inputs, TIMESTEP)
    assert count == (4 + 2 + 3 + 1) + 2 * 4


def test_texts_of_particles_take_their_rows_where_there_is_one_each():
    model = Model()
    texts = texts_of(model, torch.linspace(0, 1, N).view(N, 1, 1, 1).expand(N, 3, 2, 2))
    some = texts.of_particles(torch.tensor([3, 0]))
    fog, night = (rows["text"].tolist() for rows in some.prompts)
    assert fog == pytest.approx([1.3, 0.3])
    assert night == pytest.approx([0.2, -0.8])
    assert some.empty["text"].tolist() == pytest.approx([1, 0])
    assert some.source["text"].tolist() == pytest.approx([1.6, 0.6])
    shared = Texts.encode(model, ["fog"]).of_particles(torch.tensor([3, 0]))
    assert shared.prompts[0]["text"].tolist() == pytest.approx([0.3])
    assert shared.source is None


@pytest.mark.parametrize(("max_batch", "largest"), [(None, N), (3, 3), (1, 1)])
def test_sources_are_encoded_a_few_at_a_time_and_come_out_in_order(max_batch, largest):
    model = Model()
    latent, rows = encode_sources(model, CONDITION, max_batch=max_batch)
    assert model.largest == largest
    assert torch.equal(latent, CONDITION + 1)
    assert list(rows) == ["condition", "reference"]
    assert torch.equal(rows["condition"], 2 * CONDITION)
    assert torch.equal(rows["reference"], 3 * CONDITION)
