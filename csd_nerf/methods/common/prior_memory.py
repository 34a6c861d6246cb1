"""`--pipeline.memory auto`: how the prior is loaded and called, by the memory that is free."""

from __future__ import annotations

import dataclasses
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf.core.residuals import EDIT_RESIDUALS, Terms, edit_guidance
from csd_nerf.methods.common.edit_pipeline import EditPipelineConfig
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.priors import precision


def choose_by_memory(
    config: TrainerConfig, pipeline: EditPipelineConfig, preset: TrainerConfig | None
) -> None:
    """Set `edit.max_batch`, `prior_offload` and `prior_quantize`, unless the user gave them.

    Does nothing without `--pipeline.memory auto`. What is chosen, and why, is printed.

    Args:
        config: This run's options.
        pipeline: Its pipeline's, changed in place.
        preset: The method's options before the user's; None takes the defaults.

    Raises:
        MethodError: If the prior's architecture isn't known, or a device isn't there.
    """
    if pipeline.memory != "auto":
        return
    # Late: counting imports diffusers.
    from csd_nerf.priors.architectures import configurations
    from csd_nerf.priors.devices import find_device
    from csd_nerf.priors.memory import SCENE_RESERVE, choose, free_bytes
    from csd_nerf.priors.prior_costs import prior_costs

    try:
        device = find_device(pipeline.prior_device or config.machine.device_type)
        further = [*map(find_device, pipeline.prior_split)]
        half = configurations(pipeline.prior)[1].half
        dtype = precision(pipeline.prior_dtype, device=device, half=half)
        costs = prior_costs(pipeline.prior, dtype)
    except ValueError as error:
        raise MethodError(f"--pipeline.memory auto: {' '.join(str(error).split())}") from None
    reserve = SCENE_RESERVE[device.type] if pipeline.prior_device is None else 0
    choice = choose(
        costs,
        _edit(pipeline, costs.size_multiple),
        free_bytes=free_bytes(device),
        reserve=reserve,
        device=device.type,
        fixed=_given(pipeline, preset),
        split=[*map(free_bytes, further)],
    )
    pipeline.edit = dataclasses.replace(pipeline.edit, max_batch=choice.max_batch)
    pipeline.prior_offload, pipeline.prior_quantize = choice.offload, choice.quantize
    left = f" ({reserve / 1e9:.1f} GB are left to the scene)" if reserve else ""
    command: Any = getattr(config, "command", config.method_name)
    CONSOLE.print(f"{command}: memory: {choice.reason}{left}.", markup=False)


def _given(pipeline: EditPipelineConfig, preset: TrainerConfig | None) -> dict[str, Any]:
    """The options that differ from the preset's."""
    usual: Any = EditPipelineConfig() if preset is None else preset.pipeline
    pairs = {
        "max_batch": (pipeline.edit.max_batch, usual.edit.max_batch),
        "offload": (pipeline.prior_offload, usual.prior_offload),
        "quantize": (pipeline.prior_quantize, usual.prior_quantize),
    }
    return {name: ours for name, (ours, theirs) in pairs.items() if ours != theirs}


def _edit(pipeline: EditPipelineConfig, multiple: int) -> Any:
    """A round of the run, with square views."""
    from csd_nerf.priors.predictions import Edit

    size = None
    if pipeline.edit_size is not None:
        edge = max(1, round(pipeline.edit_size / multiple)) * multiple
        size = (edge, edge)
    edit = pipeline.edit
    bank = edit.source_bank if pipeline.update == "csd" else 0
    return Edit(pipeline.rounds.views, _terms(pipeline), size, edit.iterations, bank)


def _terms(pipeline: EditPipelineConfig) -> Terms:
    edit = pipeline.edit
    scales = {"image_scale": edit.image_scale, "text_scale": edit.text_scale}
    if pipeline.update != "csd":
        return edit_guidance("target", **scales)
    return EDIT_RESIDUALS[edit.residual](**scales, source_share=edit.source_share)
