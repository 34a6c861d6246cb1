"""The options of a method's prior, and its loading at first use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from csd_nerf import priors
from csd_nerf.methods.common.errors import MethodError
from csd_nerf.priors import Kind, Prior
from csd_nerf.priors.halving import HalvingPrior


@dataclass
class PriorOptions:
    """Options of the diffusion model."""

    prior: str = "instruct-pix2pix"
    """Editing model: instruct-pix2pix, sdxl-instruct-pix2pix, flux2-klein, flux-kontext,
    qwen-image-edit, tiny (bundled), a hub id or a local folder. Its scales and noise levels are
    those of its authors, if they are not given and it is not the preset's."""
    prior_device: str | None = None
    """Device of the prior, such as cuda:1; None means the device on which the scene is trained."""
    prior_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the prior. auto: on a GPU the half precision that suits it, float16 for Stable
    Diffusion and bfloat16 for flow transformers; on a CPU float32."""
    prior_variant: str | None = None
    """Variant of the weight files, such as fp16 for *.fp16.safetensors. None means fp16 in half
    precision, if the model has all of it, else the plain files."""
    prior_offload: Literal["none", "text", "model"] = "none"
    """What waits on the CPU until the GPU needs it, which saves memory, takes time, and leaves the
    result as it is. text: the text encoders. model: the denoiser's layers too."""
    prior_quantize: Literal["none", "8bit", "4bit"] = "none"
    """Precision of the weights of linear layers, which changes the result. 8bit and 4bit need a GPU
    and pip install bitsandbytes accelerate; not together with prior-offload model."""
    prior_compile: Literal["auto", "on", "graphs", "off"] = "auto"
    """Whether the denoiser is compiled, by torch.compile, as its first call begins; takes about a
    minute, and then less time an evaluation, with the same result up to rounding. auto: on a GPU,
    if nothing is offloaded, quantised or split. graphs: with CUDA graphs, which take more
    memory."""
    prior_split: tuple[str, ...] = ()
    """Further devices, such as cuda:1 cuda:2, for a model that exceeds one GPU: each takes a part
    of the denoiser's blocks; not together with compiling, quantising or prior-offload model."""


class LazyPrior:
    """A prior that is loaded at its first use, and halves its batches when memory runs out.

    It is not an `nn.Module`, which would be saved in the checkpoints of the pipeline.

    Attributes:
        notices: What was told of smaller batches, without full stops.
    """

    def __init__(
        self,
        options: PriorOptions,
        *,
        kind: Kind,
        device: torch.device | str,
        command: str,
        limit: str,
        **load_options: Any,
    ) -> None:
        """Choose a prior, without loading it.

        Args:
            options: Options of the prior.
            kind: `edit` or `text`; see `priors.load`.
            device: Its device if the options name none.
            command: Name of the command, which begins messages.
            limit: The option that limits a batch from the start.
            load_options: Further options of `priors.load`.
        """
        self.notices: list[str] = []
        self._command, self._limit = command, limit
        self._kind: Kind = kind
        self._name = options.prior
        self._files: dict[str, Any] = {
            "device": options.prior_device or device,
            "dtype": options.prior_dtype,
            "variant": options.prior_variant,
        }
        self._place: dict[str, Any] = {
            "offload": options.prior_offload,
            "quantize": options.prior_quantize,
            "compile": options.prior_compile,
            "split": options.prior_split,
        }
        self._options = load_options
        self._prior: HalvingPrior | None = None

    def fetch(self) -> None:
        """Make sure that the weights are on disk, without loading them.

        Raises:
            WeightsNotFoundError: If the weights can't be had, or the model is of the other kind.
            MethodError: If the model's family is unknown, a ControlNet doesn't fit it, or it can't
                be offloaded, quantised or compiled so.
        """
        self._fetched()

    def weights(self) -> list[Path]:
        """The folder of the weights and, if there is one, that of the ControlNet's; as `fetch`."""
        first, second = self._fetched()
        return [first] if self._options.get("control") is None else [first.folder, second]

    def _fetched(self) -> Any:
        """What `priors.fetch` returns, or with a ControlNet `priors.find_controlled`."""
        control = self._options.get("control")
        try:
            priors.check_placement(device=self._files["device"], **self._place)
            if control is None:
                return priors.fetch(self._name, kind=self._kind, **self._files)
            model = self._options["control_model"]
            return priors.find_controlled(self._name, control, model=model, **self._files)
        except (ValueError, ImportError) as error:
            raise MethodError(" ".join(str(error).split())) from None

    def get(self) -> HalvingPrior:
        """Return the prior; the first call loads it.

        Raises:
            WeightsNotFoundError: If the weights can't be had, or the model is of the other kind.
            MethodError: If the model's family is unknown, its parts don't fit together, or it needs
                a package that is not installed.
        """
        if self._prior is None:
            try:
                recipe = {**self.recipe(), "tell": self._tell}
                self.lend(priors.load(recipe.pop("name_or_path"), **recipe))
            except (ValueError, ImportError) as error:
                raise MethodError(" ".join(str(error).split())) from None
        assert self._prior is not None
        return self._prior

    def recipe(self, device: torch.device | str | None = None) -> dict[str, Any]:
        """The arguments of `priors.load`, for another device if one is given."""
        found = {**self._files, **self._place, **self._options}
        if device is not None:
            found["device"] = device
        return {"name_or_path": self._name, "kind": self._kind, **found}

    def lend(self, prior: Prior) -> None:
        """Use a prior that is loaded already, for example one that several runs share."""
        self._prior = HalvingPrior(prior, tell=self._note)

    def _note(self, text: str) -> None:
        self.notices.append(text.rstrip("."))
        self._tell(f"{text} {self._limit} sets it from the start.")

    def _tell(self, text: str) -> None:
        CONSOLE.print(f"{self._command}: {text}", markup=False)
