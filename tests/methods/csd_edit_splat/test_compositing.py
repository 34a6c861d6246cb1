"""Our rasterization against a double loop over pixels and Gaussians, and its laws."""

from __future__ import annotations

import math

import pytest
import torch

from csd_nerf.methods.csd_edit_splat.compositing import composite
from csd_nerf.methods.csd_edit_splat.rasterization import rasterization

CPU_OR_GPU = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
        ],
    ),
]
"""Ours runs on the CPU; on a GPU the same tests run on gsplat's own."""


def random_means(n, *, size=20.0, seed=0, elongated=1.0):
    """Flat Gaussians of one camera, in float64: means2d, conics, colors, opacities, depths."""
    chance = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=chance, dtype=torch.float64)

    means2d = uniform(1, n, 2) * (size + 8) - 4
    axes = (1 + 3 * uniform(n, 2)) * torch.tensor([1.0, elongated])
    turn = uniform(n) * math.pi
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).view(n, 2, 2)
    inverse = rotation @ torch.diag_embed(axes**-2) @ rotation.mT
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)[None]
    return means2d, conics, uniform(1, n, 3), uniform(1, n), uniform(1, n)


def drawn(means2d, conics, colors, opacities, depths, *, width=20, height=13, radii=None, **rest):
    radii = torch.ones(depths.shape, dtype=torch.int32) if radii is None else radii
    return composite(
        means2d,
        conics,
        colors,
        opacities,
        radii=radii,
        depths=depths,
        width=width,
        height=height,
        **rest,
    )


def by_loops(means2d, conics, colors, opacities, depths, *, width=20, height=13):
    """The definition, pixel by pixel and Gaussian by Gaussian, differentiable by autograd."""
    order = depths[0].argsort().tolist()
    rows, rests = [], []
    for y in range(height):
        for x in range(width):
            free, total = torch.ones((), dtype=torch.float64), torch.zeros(colors.shape[2]).double()
            for k in order:
                dx, dy = x + 0.5 - means2d[0, k, 0], y + 0.5 - means2d[0, k, 1]
                a, b, c = conics[0, k]
                alpha = opacities[0, k] * (-(a * dx * dx + c * dy * dy) / 2 - b * dx * dy).exp()
                alpha = alpha.clamp(max=0.999)
                if alpha < 1 / 255:
                    continue
                if free * (1 - alpha) <= 1e-4:
                    break
                total = total + free * alpha * colors[0, k]
                free = free * (1 - alpha)
            rows.append(total)
            rests.append(1 - free)
    shape = (1, height, width, -1)
    return torch.stack(rows).view(shape), torch.stack(rests).view(shape)


@pytest.mark.parametrize("elongated", [1.0, 8.0])
def test_pictures_and_gradients_are_those_of_a_double_loop(elongated):
    given = random_means(30, elongated=elongated)
    ours = [value.clone().requires_grad_() for value in given[:4]]
    theirs = [value.clone().requires_grad_() for value in given[:4]]
    images, alpha = drawn(*ours, given[4])
    wanted, rest = by_loops(*theirs, given[4])
    assert torch.allclose(images, wanted, atol=1e-12)
    assert torch.allclose(alpha, rest, atol=1e-12)
    weight = torch.rand(wanted.shape, dtype=torch.float64)
    ((images * weight).sum() + alpha.square().sum()).backward()
    ((wanted * weight).sum() + rest.square().sum()).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert float(other.grad.abs().max()) > 0.1
        assert torch.allclose(one.grad, other.grad, atol=1e-10)


def test_gradients_are_those_of_finite_differences():
    given = random_means(4, size=8.0, seed=3)
    values = [value.requires_grad_() for value in given[:4]]
    depths = given[4]
    assert torch.autograd.gradcheck(
        lambda *parts: drawn(*parts, depths, width=9, height=8), values, atol=1e-5
    )


def test_absolute_gradients_are_summed_pixel_by_pixel():
    """As gsplat's absgrad, against the gradient of each pixel by itself."""
    means2d, *rest = random_means(6, size=9.0, seed=1)
    means2d.requires_grad_()
    images, alpha = drawn(means2d, *rest, width=10, height=9, absgrad=True)
    pixels = images.sum(-1) + alpha[..., 0].square()
    each = [torch.autograd.grad(pixel, means2d, retain_graph=True)[0] for pixel in pixels.flatten()]
    pixels.sum().backward()
    wanted = torch.stack(each).abs().sum(0)
    assert torch.allclose(means2d.absgrad, wanted, atol=1e-10)
    assert not torch.allclose(wanted, means2d.grad.abs(), rtol=0.05)


def test_threads_change_nothing():
    given = random_means(60, size=33.0, elongated=5.0)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            parts = [value.clone().requires_grad_() for value in given[:4]]
            image, alpha = drawn(*parts, given[4], width=35, height=30)
            (image.square().sum() + alpha.sum()).backward()
            found.append([image, alpha, *(part.grad for part in parts)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_order_of_the_gaussians_is_that_of_their_depth():
    given = random_means(25)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(2))
    for one, other in zip(drawn(*given), drawn(*(v[:, order] for v in given)), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_weights_and_what_is_left_sum_to_one():
    means2d, conics, _, opacities, depths = random_means(40)
    ones, alpha = drawn(means2d, conics, torch.ones(1, 40, 1).double(), opacities, depths)
    assert torch.allclose(ones, alpha)
    assert float(alpha.min()) >= 0
    assert float(alpha.max()) < 1


def test_an_opaque_front_hides_the_back():
    wide = torch.tensor([[[1e-6, 0.0, 1e-6]] * 12]).double()
    colors = torch.zeros(1, 12, 3).double()
    colors[0, :6, 0], colors[0, 6:, 1] = 1, 1
    depths = torch.arange(12.0).double()[None]
    images, alpha = drawn(torch.zeros(1, 12, 2).double(), wide, colors, torch.ones(1, 12), depths)
    # 0.999 of the first, 0.999 of the rest would leave 1e-6, below the limit.
    assert torch.allclose(images[..., 0], torch.tensor(0.999).double())
    assert float(images[..., 1].max()) == 0
    assert torch.allclose(alpha, torch.tensor(0.999).double())


@pytest.mark.parametrize("left_out", ["radius", "opacity", "beyond", "none at all"])
def test_nothing_in_view_is_a_black_picture_with_gradients_of_zero(left_out):
    means2d, conics, colors, opacities, depths = random_means(0 if "all" in left_out else 5)
    radii = torch.full(depths.shape, int(left_out != "radius"), dtype=torch.int32)
    opacities = opacities / 255 if left_out == "opacity" else opacities
    means2d = (means2d + 500 if left_out == "beyond" else means2d).requires_grad_()
    images, alpha = drawn(means2d, conics, colors, opacities, depths, radii=radii, absgrad=True)
    assert images.shape == (1, 13, 20, 3)
    assert float(images.abs().max()) == float(alpha.abs().max()) == 0
    images.sum().backward()
    assert float(means2d.grad.abs().sum()) == 0
    assert means2d.absgrad.shape == means2d.shape


def test_one_gaussian_in_one_pixel():
    """In the corner of an image that is no multiple of a tile."""
    means2d = torch.tensor([[[16.5, 8.5]]]).double()
    conics = torch.tensor([[[40.0, 0.0, 40.0]]]).double()
    images, alpha = drawn(
        means2d,
        conics,
        torch.full((1, 1, 2), 0.5).double(),
        torch.tensor([[0.8]]).double(),
        torch.ones(1, 1).double(),
        width=17,
        height=9,
    )
    assert alpha.nonzero().tolist() == [[0, 8, 16, 0]]
    assert images[0, 8, 16].tolist() == pytest.approx([0.4, 0.4])


def test_cameras_are_independent():
    first, second = random_means(15, seed=1), random_means(15, seed=2)
    together = drawn(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    for number, alone in enumerate((drawn(*first), drawn(*second))):
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.allclose(ours[number], theirs[0], atol=1e-12)


def scene(n=200, *, seed=0, device="cpu"):
    """Gaussians in a box before two cameras: the arguments of `rasterization`."""
    chance = torch.Generator().manual_seed(seed)
    means = torch.rand(n, 3, generator=chance) * 2 - 1 + torch.tensor([0.0, 0.0, 3.0])
    scales = torch.rand(n, 3, generator=chance) * 0.1 + 0.01
    views = torch.eye(4).repeat(2, 1, 1)
    views[1, 0, 3] = 0.3
    views[1, :3, :3] = torch.tensor([[0.995, 0.0, 0.1], [0.0, 1.0, 0.0], [-0.1, 0.0, 0.995]])
    intrinsics = torch.tensor([[60.0, 0.0, 25.0], [0.0, 55.0, 18.0], [0.0, 0.0, 1.0]])
    given = {
        "means": means,
        "quats": torch.randn(n, 4, generator=chance),
        "scales": scales,
        "opacities": torch.rand(n, generator=chance) * 0.9 + 0.05,
        "colors": torch.randn(n, 16, 3, generator=chance) * 0.3,
        "viewmats": views,
        "Ks": intrinsics.repeat(2, 1, 1),
    }
    moved = {name: value.to(device) for name, value in given.items()}
    return {**moved, "width": 50, "height": 37, "sh_degree": 3, "packed": False}


def rendered(device, **given):
    """By gsplat on a GPU, and by ours elsewhere."""
    if device == "cuda":
        from gsplat import rasterization as gsplats

        return gsplats(**given)
    return rasterization(**given)


@pytest.mark.parametrize("device", CPU_OR_GPU)
def test_a_gaussian_is_where_the_camera_sees_it(device):
    """The projection of a point, and the depth of its surface."""
    given = scene(1, device=device)
    given["means"] = torch.tensor([[0.4, -0.2, 2.5]], device=device)
    given["scales"] = torch.full((1, 3), 0.05, device=device)
    given["opacities"] = torch.ones(1, device=device)
    images, alpha, info = rendered(device, **given, render_mode="RGB+ED")
    for camera in range(2):
        view = given["viewmats"][camera].cpu()
        point = view[:3, :3] @ given["means"][0].cpu() + view[:3, 3]
        x, y = 60 * point[0] / point[2] + 25, 55 * point[1] / point[2] + 18
        assert info["means2d"][camera, 0].tolist() == pytest.approx([float(x), float(y)], abs=1e-3)
        row, column = divmod(int(alpha[camera].argmax()), 50)
        assert abs(column + 0.5 - float(x)) <= 0.51
        assert abs(row + 0.5 - float(y)) <= 0.51
        assert float(images[camera, row, column, 3]) == pytest.approx(float(point[2]), rel=1e-4)
    assert info["radii"].shape[:2] == (2, 1)
    assert (info["width"], info["height"], info["n_cameras"]) == (50, 37, 2)


@pytest.mark.parametrize("device", CPU_OR_GPU)
def test_what_is_behind_a_camera_is_not_seen_and_has_finite_gradients(device):
    given = scene(50, device=device)
    given["means"][:25, 2] = torch.linspace(-3, 0.0, 25)
    given["means"].requires_grad_()
    given["scales"].requires_grad_()
    images, _, info = rendered(device, **given)
    assert not bool((info["radii"][0, :25] > 0).any())
    images[0].square().sum().backward()
    for name in ("means", "scales"):
        assert bool(given[name].grad.isfinite().all())
        assert float(given[name].grad[:25].abs().max()) == 0
        assert float(given[name].grad[25:].abs().max()) > 0


def test_small_gaussians_are_left_out_and_antialiased_ones_are_fainter():
    given = scene()
    radii = rasterization(**given)[2]["radii"]
    clipped = rasterization(**given, radius_clip=5.0)[2]["radii"]
    assert bool(((clipped > 0) == (radii > 5)).all())
    plain, faint = (
        rasterization(**given, rasterize_mode=mode)[1] for mode in ("classic", "antialiased")
    )
    assert float(faint.mean()) < 0.99 * float(plain.mean())


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_modes_are_parts_of_each_other(mode):
    given = scene()
    whole, alpha, _ = rasterization(**given, render_mode="RGB+D")
    images, _, _ = rasterization(**given, render_mode=mode)
    depth = whole[..., 3:] / (alpha.clamp(min=1e-10) if mode.endswith("ED") else 1)
    wanted = [*([whole[..., :3]] if "RGB" in mode else []), *([depth] if "D" in mode else [])]
    assert torch.allclose(images, torch.cat(wanted, dim=-1), atol=1e-6)
    colours = torch.rand(200, 5)
    flat = rasterization(**{**given, "colors": colours, "sh_degree": None})[0]
    assert flat.shape == (2, 37, 50, 5)


@pytest.mark.parametrize("option", ["packed", "sparse_grad"])
def test_layouts_that_need_cuda_are_refused(option):
    with pytest.raises(ValueError, match="rendered unpacked, with dense gradients, got packed"):
        rasterization(**{**scene(), option: True})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and gsplat's kernels")
def test_pictures_and_gradients_are_gsplats():
    """Up to the 1/90 of a Gaussian that it cuts off beyond three standard deviations."""
    results = []
    for device in ("cpu", "cuda"):
        given = scene(device=device)
        for name in ("means", "quats", "scales", "opacities", "colors"):
            given[name].requires_grad_()
        images, alpha, info = rendered(device, **given, absgrad=True, render_mode="RGB+ED")
        info["means2d"].retain_grad()
        (images[..., :3].square().sum() + alpha.sum()).backward()
        parts = [
            images,
            alpha,
            info["means2d"].absgrad,
            *(given[n].grad for n in ("means", "colors")),
        ]
        results.append([part.detach().cpu() for part in parts])
    for ours, theirs in zip(*results, strict=True):
        error = (ours - theirs).norm() / theirs.norm()
        assert float(error) < 0.02
