"""One small edit of each kind, by the outermost interface, and what it must come to.

`python tests/digests.py` writes what the code makes now to digests.json, with which
`test_digests.py` compares. A change that is to leave results alone must leave that file alone. One
that changes results on purpose writes it again, and says so.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

from csd_nerf import cli, priors
from csd_nerf.editor import EditSettings, edit_images

FILE = Path(__file__).with_name("digests.json")

Digest = dict[str, Any]


def machine() -> str:
    """What rounding depends on."""
    threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {threads} thread, {instructions}, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "cpu family", "model\t", "stepping")
    first = {
        line.split(":")[0].strip(): line.split(":")[1].strip()
        for line in reversed(lines)
        if line.startswith(wanted)
    }
    return ", ".join(f"{name} {value}" for name, value in sorted(first.items()))


def digest(*tensors: torch.Tensor | np.ndarray) -> Digest:
    """A hash of all bits, and means of parts of each tensor, for machines that round otherwise."""
    hashed = hashlib.sha256()
    means = []
    count = 8 if len(tensors) < 4 else 1
    for tensor in tensors:
        whole = torch.as_tensor(np.asarray(tensor)).contiguous()
        hashed.update(f"{whole.dtype} {tuple(whole.shape)}".encode())
        hashed.update(whole.numpy().tobytes())
        parts = whole.double().flatten().tensor_split(count)
        means += [float(part.mean()) for part in parts if len(part)]
    return {"sha256": hashed.hexdigest(), "means": [round(mean, 9) for mean in means]}


def pixels(height: int = 64, width: int = 80, *, seed: int = 0) -> np.ndarray:
    """A smooth picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def _images(settings: EditSettings, **options: Any) -> Digest:
    source = torch.stack([torch.from_numpy(pixels(64, 64, seed=s)).float() / 255 for s in range(3)])
    source = source.permute(0, 3, 1, 2)
    if options.pop("from_others", False):
        options["start01"] = source.flip(0)
    result = edit_images(
        priors.load("tiny"),
        source,
        settings=settings,
        generator=torch.Generator().manual_seed(1),
        **{"prompt": "make it night", **options},
    )
    return digest(result.latent, result.image01)


def _command(folder: Path, *arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


def _panorama(folder: Path, *options: object) -> Digest:
    source, result = folder / "picture.png", folder / "edited.png"
    Image.fromarray(pixels(64, 112)).save(source)
    base = ("--preset", "tiny", "--output", result, "--overwrite", "--steps", 3)
    prompt = () if "--region" in options else ("--prompt", "make it night")
    _command(folder, "panorama", source, *base, *prompt, "--iterations", 4, *options)
    return digest(np.array(Image.open(result)))


def _video(folder: Path, *options: object) -> Digest:
    source, result = folder / "frames", folder / "edited"
    source.mkdir(exist_ok=True)
    for seed in range(3):
        Image.fromarray(pixels(seed=seed)).save(source / f"{seed}.png")
    base = ("--preset", "tiny", "--output", result, "--overwrite", "--steps", 3, "--batch", 2)
    _command(
        folder, "video", source, *base, "--prompt", "make it night", "--iterations", 4, *options
    )
    return digest(*(np.array(Image.open(path)) for path in sorted(result.glob("*.png"))))


def _sampled(**options: Any) -> Digest:
    from csd_nerf.priors.sampling import sample_edit

    source = torch.from_numpy(pixels(64, 64)).float()[None].permute(0, 3, 1, 2) / 255
    generator = torch.Generator().manual_seed(2)
    prior = priors.load("tiny")
    return digest(
        sample_edit(prior, source, "make it night", steps=4, generator=generator, **options)
    )


def _sampled_text() -> Digest:
    from training.text_sampling import sample_text

    generator = torch.Generator().manual_seed(2)
    prior = priors.load("tiny-text", kind="text")
    return digest(sample_text(prior, ["a red cube", "a cone"], steps=4, generator=generator))


def _trained(config: Any) -> Any:
    """A run of ns-train in this process."""
    from nerfstudio.utils import writer

    for clear in (writer.EVENT_WRITERS, writer.EVENT_STORAGE, writer.GLOBAL_BUFFER):
        clear.clear()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    for clear in (writer.EVENT_WRITERS, writer.EVENT_STORAGE, writer.GLOBAL_BUFFER):
        clear.clear()
    return trainer


def _parameters(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().flatten() for _, parameter in sorted(model.named_parameters())]


def _scene(folder: Path, **options: Any) -> Digest:
    from nerfstudio.configs.method_configs import all_methods

    data = folder / "data"
    if not data.exists():
        _command(folder, "synthetic", "--output", data, "--views", 9, "--size", 32)
    config: Any = copy.deepcopy(all_methods["csd-edit-tiny"])
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.timestamp = folder / "runs", "run"
    config.steps_per_save = config.steps_per_eval_batch = config.steps_per_eval_image = 10**9
    config.logging.profiler = "none"
    model, pipeline = config.pipeline.model, config.pipeline
    model.num_levels, model.log2_hashmap_size, model.max_res = 4, 8, 64
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (8, 8), 8
    pipeline.prompt, pipeline.negative_prompt = "make it night", "fog"
    pipeline.source_steps, pipeline.edit_steps, pipeline.edit_every = 4, 6, 3
    pipeline.edit_views, pipeline.denoising_steps, pipeline.start = 4, 2, "render"
    pipeline.edit = EditSettings(iterations=2, normalize="rowsum", max_batch=7)
    pipeline.datamanager.train_num_rays_per_batch = 64
    pipeline.datamanager.edit_num_rays_per_batch = 64
    for name, value in options.items():
        setattr(pipeline, name, value)
    trainer = _trained(config)
    edited = trainer.pipeline.datamanager.edited
    return digest(*(edited[view] for view in sorted(edited)), *_parameters(trainer.pipeline.model))


def _object(folder: Path, **options: Any) -> Digest:
    from nerfstudio.configs.method_configs import all_methods

    config: Any = copy.deepcopy(all_methods["csd-dreamfusion-tiny"])
    config.output_dir, config.timestamp = folder / "objects", "run"
    config.max_num_iterations, config.steps_per_save = 3, 10**9
    config.preview_size, config.result_size = 16, 16
    pipeline = config.pipeline
    pipeline.datamanager.train_resolution = 16
    pipeline.datamanager.eval_resolution = 16
    pipeline.datamanager.num_eval_angles = 8
    pipeline.model.num_samples = 12
    pipeline.prompt = "a red cube"
    for name, value in options.items():
        setattr(pipeline, name, value)
    config.set_experiment_name()
    return digest(*_parameters(_trained(config).pipeline.model))


_AS_RELEASED = EditSettings(
    iterations=3,
    batch_size=2,
    noise="independent",
    kernel_on="clean",
    normalize="rowsum",
    repulsion_scale="one",
    max_batch=4,
)
_SHARES = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.3, 0.0]])

_STEIN = ("--mixing", "stein", "--source-share", 1)
"""The paper's mixing and baseline, for the preset tiny, which has others."""
KINDS: dict[str, Callable[[Path], Digest]] = {
    "images": lambda _: _images(EditSettings(iterations=3)),
    "images, release's choices and two prompts": lambda _: _images(
        _AS_RELEASED,
        prompt=["make it night", "make it foggy"],
        prompt_weights=_SHARES,
        negative_prompt="snow",
    ),
    "images, SDS from other starts": lambda _: _images(
        EditSettings(iterations=3, mixing="none", residual="sds"), from_others=True
    ),
    "panorama": _panorama,
    "panorama, regions": lambda f: _panorama(f, "--region", "make it night@0,0,40,64"),
    "panorama, wrapped": lambda f: _panorama(f, "--wrap"),
    "panorama, the paper's drawing": lambda f: _panorama(
        f, *_STEIN, "--drawing", "uniform", "--taper", 0, "--repulsion", 1
    ),
    "panorama, SDS": lambda f: _panorama(f, "--method", "sds"),
    "panorama, downsized": lambda f: _panorama(f, "--method", "ip2p-downsize"),
    "panorama, averaged windows": lambda f: _panorama(f, "--method", "ip2p-windows"),
    "video": _video,
    "video, the paper's mixing": lambda f: _video(f, *_STEIN, "--noise", "shared"),
    "video, no mixing": lambda f: _video(f, "--method", "csd-no-stein", "--square"),
    "video, InstructPix2Pix": lambda f: _video(f, "--method", "ip2p"),
    "sampling": lambda _: _sampled(),
    "sampling from a noised start": lambda _: _sampled(strength=0.5, image_scale=2.0),
    "sampling, Euler": lambda _: _sampled(solver="euler-ancestral"),
    "sampling from texts": lambda _: _sampled_text(),
    "scene": _scene,
    "scene, fine detail kept": lambda f: _scene(f, keep_detail=True, start="original"),
    "scene, Instruct-NeRF2NeRF": lambda f: _scene(f, update="in2n"),
    "scene, InstructPix2Pix": lambda f: _scene(f, update="ip2p"),
    "object": _object,
    "object, SDS": lambda f: _object(f, distillation="sds"),
    "two objects": lambda f: _object(f, num_particles=2),
}
"""Edits by name; each takes a folder to work in."""


def main() -> None:
    """Write what the code makes now."""
    with tempfile.TemporaryDirectory() as folder:
        made = {name: make(Path(folder)) for name, make in KINDS.items()}
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(made[name])}" for name in made)
    FILE.write_text(f'{{\n "machine": {json.dumps(machine())},\n "digests": {{\n{rows}\n }}\n}}\n')


if __name__ == "__main__":
    main()
