"""Compiles the networks of a prior by torch.compile, for batches of few sizes a run.

A graph is made for one shape of the inputs, which takes a minute for a large network. So a batch
that is little smaller than one that there was is padded to it. What torch.compile can't do here,
such as without a C compiler, is told once; from then on networks run as they are.

On a GPU compiled networks have channels-last weights, in which its convolutions are fastest.
Attention needs nothing: diffusers computes it by torch's fused `scaled_dot_product_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from csd_nerf.priors.halving import is_out_of_memory

Compile = Literal["auto", "on", "graphs", "off"]
"""auto: on, where it is likely to pay (`compile_choice`). graphs: on, with CUDA graphs, which spare
the CPU the launching of kernels and keep the memory of every activation."""

MOST_SHAPES = 8
"""Shapes of inputs for which a network is compiled; for further ones it runs as it is. torch itself
has this limit by default."""


def compile_choice(
    compile: str, *, device: torch.device, offload: str, quantize: str, split: bool = False
) -> Literal["on", "graphs", "off"]:
    """What `auto` means: on for a CUDA device, if nothing is offloaded, quantised or split.

    Raises:
        ValueError: If there is no such value, or compiling is asked for with layers that are
            offloaded or quantised, or in a model that is split.
    """
    if compile not in get_args(Compile):
        raise ValueError(f"compile needs one of {', '.join(get_args(Compile))}, got {compile}.")
    if compile == "auto":
        stays = offload == "none" and quantize == "none" and not split
        return "on" if device.type == "cuda" and stays else "off"
    if compile != "off" and (offload == "model" or quantize != "none"):
        raise ValueError(
            f"compile needs weights that stay on the device as they are, got {compile} with "
            f"offload {offload} and quantize {quantize}; take off, or none for these."
        )
    if compile != "off" and split:
        raise ValueError(
            f"compile needs a model on one device, got {compile} with a split; take off."
        )
    return cast(Literal["on", "graphs", "off"], compile)


class Compilation:
    """Compiles networks at their first call, and runs them as they are if that fails."""

    def __init__(
        self, *, device: torch.device, graphs: bool = False, tell: Callable[[str], None] = print
    ) -> None:
        """Compile nothing yet.

        Args:
            device: Where the networks run.
            graphs: Replay CUDA graphs, in place of launching each kernel.
            tell: Called with a line for the user: how long it took, or why it failed.
        """
        self._device, self._graphs, self._tell = device, graphs, tell
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}
        self._shapes: dict[nn.Module, set[tuple[Any, ...]]] = {}
        self._batches: dict[object, set[int]] = {}
        self._failed = False

    def batch(self, kind: object, size: int, *, limit: int | None) -> int:
        """The batch to which one of `size` evaluations is padded, so that few shapes are compiled.

        It is the smallest that there was already, if that adds a quarter of `size` at most; or else
        `size`. After a failure it is 0, since a network as it is takes any size.

        Args:
            kind: What evaluations need to have in common to be of one shape.
            size: Number of evaluations.
            limit: Most evaluations in one call; None means no limit.
        """
        if self._failed:
            return 0
        known = self._batches.setdefault(kind, set())
        most = size + size // 4 if limit is None else min(size + size // 4, limit)
        if near := [batch for batch in known if size <= batch <= most]:
            return min(near)
        # Further shapes aren't compiled, and nothing is won by padding to them.
        if len(known) < MOST_SHAPES:
            known.add(size)
        return size

    def call(self, network: nn.Module, /, *inputs: Any, **named: Any) -> Any:
        """Call a network without an autograd graph; the first call of a shape compiles it."""
        shape = _shape(inputs, named)
        known = self._shapes.setdefault(network, set())
        if self._failed or (shape not in known and len(known) >= MOST_SHAPES):
            return network(*inputs, **named)
        began = perf_counter()
        result, failure = self._attempt(network, inputs, named)
        if failure is not None:
            # If it is the inputs' fault, this raises the error that says so.
            result = network(*inputs, **named)
            self._failed = True
            self._compiled.clear()
            self._tell(f"The model runs without compilation, which failed: {failure}.")
        elif shape not in known:
            known.add(shape)
            self._tell(
                f"{type(network).__name__} was compiled for calls of {_batch(inputs, named)} "
                f"evaluations in {perf_counter() - began:.0f} s."
            )
        return result

    def _attempt(
        self, network: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, str | None]:
        """Call the compiled network; returns its result, or why there is none, in one line."""
        try:
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            result = self._compiled_of(network)(*inputs, **named)
            # The next replay overwrites what this one returns.
            return (tree_map_only(Tensor, Tensor.clone, result) if self._graphs else result), None
        except Exception as error:
            if (cause := _out_of_memory(error)) is not None:
                # Smaller batches may fit.
                raise cause from None
            lines = str(error).strip().splitlines() or [""]
            return None, f"{type(error).__name__}: {lines[0]}".rstrip(".: ")

    def _compiled_of(self, network: nn.Module) -> Callable[..., Any]:
        if network not in self._compiled:
            if self._device.type == "cuda":
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            mode = "reduce-overhead" if self._graphs else None
            self._compiled[network] = torch.compile(network, dynamic=False, mode=mode)
        return self._compiled[network]


def _shape(inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    leaves = tree_leaves((inputs, named))
    return tuple((one.shape, one.dtype) for one in leaves if isinstance(one, Tensor))


def _batch(inputs: tuple[Any, ...], named: dict[str, Any]) -> int:
    """Number of evaluations, the first axis of the first tensor."""
    return next(len(one) for one in tree_leaves((inputs, named)) if isinstance(one, Tensor))


def _out_of_memory(error: BaseException) -> BaseException | None:
    """The error of an allocator that this is, or from which a compiler's error came."""
    found: BaseException | None = error
    while found is not None and not is_out_of_memory(found):
        found = found.__cause__ or found.__context__
    return found


def padded(tensor: Tensor, count: int) -> Tensor:
    """Rows up to this number, by repeating the last one."""
    missing = count - len(tensor)
    if missing <= 0:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
