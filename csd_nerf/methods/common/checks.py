"""Checks of the user's options before anything expensive begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.engine.trainer import TrainerConfig

from csd_nerf.methods.common.errors import MethodError
from csd_nerf.numbers import non_finite_fields


def asked_prompt(config: TrainerConfig) -> str:
    """The pipeline's prompt, or else the model's, which nerfstudio's own --prompt sets."""
    pipeline: Any = config.pipeline
    return pipeline.prompt or pipeline.model.prompt or ""


def check_devices(count: int, *, method: str) -> None:
    """Refuse several devices for a method that trains on one.

    Raises:
        MethodError: If there are several.
    """
    if count > 1:
        raise MethodError(
            f"{method} trains on one device, got {count}; a second GPU can hold the prior: "
            "--pipeline.prior-device cuda:1."
        )


def check_helpers(
    machine: MachineConfig,
    *,
    prior_device: str | None,
    prior_split: Sequence[str] = (),
    method: str,
) -> None:
    """Check the devices that share the edits of a run.

    Args:
        machine: Their number and kind, as the user gave them.
        prior_device: The device that the user named for the prior.
        prior_split: The further devices that the user named for it.
        method: Name of the method, which begins messages.

    Raises:
        MethodError: If they are on several machines, there are too few GPUs, or all would have the
            prior on the same one.
    """
    if machine.num_machines > 1:
        raise MethodError(
            f"{method} runs on one machine, got --machine.num-machines {machine.num_machines}; "
            "leave it out."
        )
    if machine.num_devices == 1:
        return
    named = {"device": prior_device or "", "split": " ".join(prior_split)}
    for name, given in named.items():
        if given:
            raise MethodError(
                f"With --machine.num-devices {machine.num_devices} each device has the prior, got "
                f"--pipeline.prior-{name} {given}; leave one of them out."
            )
    there = torch.cuda.device_count()
    if machine.device_type == "cuda" and machine.num_devices > there:
        raise MethodError(
            f"--machine.num-devices needs as many GPUs, got {machine.num_devices} with {there}; "
            "take fewer."
        )


def check_folder(config: TrainerConfig) -> None:
    """Check that a run that goes on from another doesn't write over the other's settings.

    Raises:
        MethodError: If both have the same folder.
    """
    named = config.load_checkpoint
    loaded = named.parent if named is not None else config.load_dir
    if loaded is not None and loaded.resolve().parent == config.get_base_dir().resolve():
        raise MethodError(
            "A run that goes on from another needs a folder of its own, got that of the run that "
            f"is loaded, {loaded.parent}; leave out --timestamp, or name another."
        )


def check_run(
    config: TrainerConfig, *, method: str, world_size: int, prompt: str, wanted: str
) -> None:
    """Check the options that all methods have.

    Args:
        config: Configuration of the run.
        method: Name of the method; METHOD-tiny must be its preset for a CPU.
        world_size: Number of devices.
        prompt: The user's prompt.
        wanted: What a prompt should say, with an example, for the message.

    Raises:
        MethodError: If a number is not finite, there are several devices, no prompt, or no GPU
            where one is wanted.
    """
    for name, value in non_finite_fields(config):
        raise MethodError(f"--{name.replace('_', '-')} must be finite, got {value}.")
    check_devices(world_size, method=method)
    if not prompt.strip():
        raise MethodError(f"The prompt is empty; say {wanted}.")
    if config.machine.device_type == "cuda" and not torch.cuda.is_available():
        raise MethodError(
            f"--machine.device-type is cuda, and torch finds no GPU; {method}-tiny runs on a CPU."
        )
