from __future__ import annotations

import pytest
import torch

from csd_nerf.core.canvas import Canvas
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.core.windows import cut_windows


def randomness(seed=0):
    return SeededRandomness(torch.Generator().manual_seed(seed))


def make(height=10, width=14, *, window=(4, 4), stride=2, batch_size=3, seed=0, **options):
    latent = torch.randn(2, height, width, generator=torch.Generator().manual_seed(seed))
    return WindowCanvas(
        latent.clone(), latent, {"condition": latent[:1] + 5}, window, stride, batch_size, **options
    )


def test_it_is_a_canvas():
    assert isinstance(make(), Canvas)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("taper", [0, 2])
def test_descent_is_that_of_a_slow_loop_over_cells(wrap, taper):
    """Weights by hand: a ramp of 1/4 and 3/4 from each end that is not the canvas's own."""
    editable = torch.rand(10, 14, generator=torch.Generator().manual_seed(2))
    canvas = make(wrap=wrap, taper=taper, editable=editable, drawing="uniform")
    index = torch.arange(canvas.size)[[0, 1, 5, canvas.size - 1]]
    step = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    expected, updates = canvas.latent.double().clone(), torch.zeros(10, 14)

    def ramp(start, k, length, around):
        weight = 1.0
        if taper and (around or start != 0):
            weight *= min(1.0, (k + 0.5) / 2)
        if taper and (around or start != length - 4):
            weight *= min(1.0, (3.5 - k) / 2)
        return weight

    for row in range(10):
        for column in range(14):
            total, count = torch.zeros(2, dtype=torch.float64), 0.0
            for part, (top, left) in zip(step, canvas.positions[index].tolist(), strict=True):
                i, j = row - top, (column - left) % 14 if wrap else column - left
                if 0 <= i < 4 and 0 <= j < 4:
                    weight = ramp(top, i, 10, False) * ramp(left, j, 14, wrap)
                    total, count = total + weight * part[:, i, j], count + weight
            expected[:, row, column] -= editable[row, column] * total / max(count, 1.0)
            updates[row, column] = min(count, 1.0)
    canvas.descend(index, step)
    assert torch.allclose(canvas.latent.double(), expected, atol=1e-6)
    assert torch.allclose(canvas.updates, updates)


def test_windows_are_cut_from_latent_source_and_condition():
    canvas = make()
    canvas.latent += 1
    index = torch.tensor([7, 2, 11])
    particles = canvas.read(index)
    condition = canvas.image_rows["condition"]
    for k, (row, column) in enumerate(canvas.positions[index].tolist()):
        place = (slice(None), slice(row, row + 4), slice(column, column + 4))
        assert torch.equal(particles.latent[k], canvas.latent[place])
        assert torch.equal(particles.source[k], canvas.source[place])
        assert torch.equal(particles.image_rows["condition"][k], condition[place])


def test_a_window_that_runs_across_the_seam_sees_both_edges():
    canvas = make(wrap=True)
    index = (canvas.positions == torch.tensor([0, 12])).all(1).nonzero()[0]
    across = torch.cat([canvas.latent[:, :4, 12:], canvas.latent[:, :4, :2]], dim=2)
    assert torch.equal(canvas.read(index).latent[0], across)


def test_shared_noise_is_one_field_and_independent_noise_is_not():
    canvas = make()
    index = torch.tensor([0, 1])
    assert canvas.positions[index].tolist() == [[0, 0], [0, 2]]
    first, second = canvas.draw_noise(index, randomness(), shared=True)
    assert torch.equal(first[:, :, 2:], second[:, :, :2])
    assert not torch.equal(first, second)
    first, second = canvas.draw_noise(index, randomness(), shared=False)
    assert not torch.equal(first[:, :, 2:], second[:, :, :2])


def test_uniform_drawing_seldom_reaches_the_corners():
    canvas = make(20, 32, window=(8, 8), drawing="uniform", taper=0, batch_size=4)
    source = randomness(3)
    for _ in range(400):
        canvas.descend(canvas.draw_batch(source), torch.zeros(4, 2, 8, 8))
    updates = canvas.updates / canvas.updates.mean()
    assert float(updates.min()) < 0.2
    assert float(updates.max()) > 1.6


@pytest.mark.parametrize("batch", [1, 3, 4, 1000])
@pytest.mark.parametrize(("taper", "wrap"), [(None, False), (None, True), (0, False), (4, True)])
def test_a_sweep_moves_every_cell_equally_far_in_batches_of_any_size(batch, taper, wrap):
    canvas = make(20, 32, window=(8, 8), stride=3, taper=taper, wrap=wrap, batch_size=batch)
    before, source = canvas.latent.clone(), randomness(3)
    for _ in range(canvas.iterations_for(5)):
        index = canvas.draw_batch(source)
        assert len(set(index.tolist())) == len(index) <= batch
        canvas.descend(index, torch.ones(len(index), 2, 8, 8))
    assert torch.allclose(canvas.updates, torch.full((20, 32), 5.0))
    assert torch.allclose(before - canvas.latent, torch.full((2, 20, 32), 5.0), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 1000])
@pytest.mark.parametrize("wrap", [False, True])
def test_windows_outside_of_what_may_change_are_not_drawn(batch, wrap):
    editable = torch.zeros(20, 32)
    editable[2:6, 1:4] = 1
    editable[12, 20] = 0.5
    options = {"window": (8, 8), "stride": 3, "wrap": wrap, "batch_size": batch}
    canvas, whole = make(20, 32, editable=editable, **options), make(20, 32, **options)
    inside = cut_windows(editable[None], whole.positions, (8, 8)).flatten(1).any(1)
    assert torch.equal(canvas.positions, whole.positions[inside])
    assert canvas.size < whole.size / 2

    # Each sweep moves all that may change equally far, and has as many iterations.
    before, source, drawn = canvas.latent.clone(), randomness(3), 0
    for sweep in range(1, 6):
        for _ in range(canvas.batches_per_sweep):
            index = canvas.draw_batch(source)
            drawn += len(index)
            assert len(set(index.tolist())) == len(index) <= batch
            canvas.descend(index, torch.ones(len(index), 2, 8, 8))
        moved = (before - canvas.latent) / sweep
        assert torch.allclose(moved, editable.expand(2, -1, -1), atol=1e-5)
        assert torch.allclose(canvas.updates[editable > 0], torch.tensor(float(sweep)))
    assert canvas.iterations_for(5) == 5 * canvas.batches_per_sweep
    assert 0 < drawn <= 5 * canvas.batches_per_sweep * canvas.windows_per_iteration
    assert drawn < 5 * whole.batches_per_sweep * whole.windows_per_iteration / 2


def test_the_mean_number_of_updates_of_what_may_change_is_foretold():
    editable = torch.zeros(20, 32)
    editable[4:10, 6:20] = 1
    canvas = make(
        20, 32, window=(8, 8), drawing="uniform", taper=0, batch_size=1, editable=editable
    )
    source = randomness(3)
    for _ in range(canvas.iterations_for(40)):
        canvas.descend(canvas.draw_batch(source), torch.zeros(1, 2, 8, 8))
    assert float(canvas.updates[editable > 0].mean()) == pytest.approx(40, rel=0.1)


def test_no_column_of_a_canvas_that_wraps_is_an_edge():
    """Sweeps begin anywhere: the grid's windows are drawn equally often, those at the seam too."""
    canvas, source = make(8, 32, window=(8, 8), wrap=True, batch_size=4), randomness(5)
    drawn = torch.cat([canvas.draw_batch(source) for _ in range(600 * canvas.batches_per_sweep)])
    counts = drawn.bincount(minlength=canvas.size).double()
    assert (counts / counts.mean() - 1).abs().max() < 0.2


def test_the_mean_number_of_updates_is_foretold():
    for drawing, taper, most in (("uniform", 0, 0.15), ("balanced", 2, 0.05)):
        canvas = make(20, 32, window=(8, 8), drawing=drawing, taper=taper, batch_size=1)
        source = randomness(3)
        for _ in range(canvas.iterations_for(20)):
            canvas.descend(canvas.draw_batch(source), torch.zeros(1, 2, 8, 8))
        assert float(canvas.updates.mean()) == pytest.approx(20, rel=most)


@pytest.mark.parametrize("drawing", ["balanced", "uniform"])
@pytest.mark.parametrize("batch", [1, 5, 1000])
def test_the_number_of_windows_of_an_iteration_is_the_mean_of_those_drawn(drawing, batch):
    canvas = make(20, 32, window=(8, 8), drawing=drawing, batch_size=batch)
    source, iterations = randomness(3), 3 * canvas.batches_per_sweep
    drawn = sum(len(canvas.draw_batch(source)) for _ in range(iterations))
    assert canvas.windows_per_iteration == pytest.approx(drawn / iterations)


def test_a_sweep_has_one_timestep_and_one_field_of_noise():
    canvas, source = make(batch_size=3), randomness()
    seen = []
    for _ in range(3 * canvas.batches_per_sweep):
        index = canvas.draw_batch(source)
        timestep = canvas.draw_timestep(source, 0, 999)
        noise = canvas.draw_noise(index, source, shared=True)
        place = canvas.positions[index[0]].tolist()
        field = torch.zeros(10, 14)
        field[place[0] : place[0] + 4, place[1] : place[1] + 4] = noise[0, 0]
        seen.append((timestep, field))
    sweeps = [seen[k::1][: canvas.batches_per_sweep] for k in range(0, len(seen), len(seen) // 3)]
    for sweep in sweeps:
        assert len({timestep for timestep, _ in sweep}) == 1
        total = torch.stack([field for _, field in sweep])
        drawn = total != 0
        highest = total.where(drawn, -9.0).amax(0)
        lowest = total.where(drawn, 9.0).amin(0)
        assert torch.equal(highest[drawn.any(0)], lowest[drawn.any(0)])
    assert len({sweep[0][0] for sweep in sweeps}) == 3


@pytest.mark.parametrize("parts", [False, True])
def test_a_canvas_goes_on_from_its_state(parts):
    editable = torch.zeros(10, 14)
    editable[:3, :3] = editable[8, 12] = 1
    options = {"editable": editable} if parts else {}
    whole, first = make(**options), make(**options)

    def run(canvas, source, steps):
        for _ in range(steps):
            index = canvas.draw_batch(source)
            if len(index):
                noise = canvas.draw_noise(index, source, shared=True)
                canvas.descend(index, noise * canvas.draw_timestep(source, 1, 9))

    run(whole, randomness(), 7)
    generator = torch.Generator().manual_seed(0)
    run(first, SeededRandomness(generator), 4)
    second = make(seed=5, **options)
    second.restore(first.state())
    run(second, SeededRandomness(generator), 3)
    assert torch.equal(second.latent, whole.latent)
    assert torch.equal(second.updates, whole.updates)
    assert not torch.equal(first.latent, whole.latent)


def test_a_taper_fits_in_half_a_window():
    with pytest.raises(ValueError, match="0 <= taper <= 2 cells, got 3"):
        make(taper=3)
    assert make(stride=3).taper == 2


def test_a_small_canvas_has_smaller_batches():
    canvas = make(4, 6, batch_size=9)
    assert len(canvas.draw_batch(randomness())) == canvas.iterations_for(1) + 1 == 2
