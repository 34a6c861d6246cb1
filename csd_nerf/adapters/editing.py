"""What panoramas and videos ask of the editor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from csd_nerf.adapters.options import EditOptions
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.priors.base import Prior


def edit_settings(options: EditOptions, canvas: ImageStack | WindowCanvas) -> EditSettings:
    """How the methods that optimise do it; `method` is a field of the options' subclasses.

    The learning rate decays between sweeps, so that it is the same all over one.
    """
    values = options.values()
    iterations = options.iterations or canvas.iterations_for(values.updates)
    sweep = canvas.batches_per_sweep
    method = getattr(options, "method")  # noqa: B009
    return EditSettings(
        iterations=iterations,
        learning_rate=values.learning_rate,
        decay=values.decay,
        decay_every=math.ceil(iterations / values.decays / sweep) * sweep,
        text_scale=values.text_scale,
        image_scale=values.image_scale,
        t_range=values.t_range,
        mixing="stein" if method == "csd" else "none",
        residual="sds" if method == "sds" else options.residual,
        noise=values.noise,
        kernel_on=options.kernel_on,
        normalize=values.normalize,
        repulsion=values.repulsion,
        max_batch=values.max_batch,
    )


def cut_prompts(prior: Prior, prompts: Sequence[str]) -> list[str]:
    """What the prior warns of when it reads the prompts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prior.encode_text(prompts)
    return [str(warning.message) for warning in caught]
