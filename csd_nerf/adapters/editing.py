"""The common part of editing a panorama and editing a video."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from csd_nerf.adapters.costs import CountedPrior, peak_memory
from csd_nerf.adapters.options import EditOptions
from csd_nerf.adapters.reporter import Reporter, State
from csd_nerf.bundled import keeps_detail, notices_of_unknown
from csd_nerf.core.canvas import ImageStack
from csd_nerf.core.randomness import SeededRandomness
from csd_nerf.core.settings import EditSettings
from csd_nerf.core.window_canvas import WindowCanvas
from csd_nerf.editor import edit
from csd_nerf.priors.base import Prior, ranks_of


class EditSession:
    """One edit: its prior, options, randomness, costs and notices.

    Attributes:
        options: The user's options.
        values: Final values of the options, from `EditOptions.values`.
        reporter: Gets progress, states and notices.
        generator: The source of all randomness, seeded by the options.
    """

    def __init__(self, prior: Prior, options: EditOptions, reporter: Reporter) -> None:
        self.options = options
        self.values = options.values()
        self.reporter = reporter
        self.generator = torch.Generator().manual_seed(options.seed)
        self._counted = CountedPrior(prior)
        self._seconds: dict[str, float] = {}
        self._notices: list[str] = []

    @property
    def prior(self) -> Prior:
        """The prior; its evaluations are counted."""
        return cast(Prior, self._counted)

    def note(self, text: str) -> None:
        """Give the user a notice, and keep it for the facts."""
        self._notices.append(text)
        self.reporter.note(text)

    def note_cut_prompts(self, prompts: Sequence[str]) -> None:
        """Notify the user of prompts that the prior can't follow as they are.

        They are too long for it, and the notice says what is cut off, or a bundled prior doesn't
        know them.
        """
        for notice in notices_of_unknown(self.prior.name, prompts):
            self.note(notice)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.prior.encode_text(prompts)
        for warning in caught:
            self.note(str(warning.message))

    def keeps_detail(self, prompts: Sequence[str]) -> bool:
        """Whether the change alone is added to the original; see `EditOptions.keep_detail`."""
        chosen = self.options.keep_detail
        return keeps_detail(self.prior.name, prompts) if chosen is None else chosen

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time that the block takes, under this name."""
        began = perf_counter()
        with warnings.catch_warnings():
            # `note_cut_prompts` has reported this already.
            warnings.filterwarnings("ignore", message="The prompt .* is cut off")
            yield
        self._seconds[name] = perf_counter() - began

    def restored(self) -> State | None:
        """The state of an interrupted run; also restores the generator and the counts."""
        saved = self.reporter.restored()
        if saved is not None:
            self.generator.set_state(saved["generator"])
            # The sum over all ranks is what counts.
            first = ranks_of(self.prior).is_first
            self._counted.evaluations = saved["evaluations"] if first else 0
        return saved

    @property
    def _evaluations(self) -> int:
        """Those of all ranks, which have to ask for it together."""
        return sum(ranks_of(self.prior).all_of(self._counted.evaluations))

    def state(self, **parts: Any) -> State:
        """A state for the reporter: these parts, the generator's state and the counts."""
        kept = {"generator": self.generator.get_state(), "evaluations": self._evaluations}
        return {**parts, **kept}

    def optimise(
        self,
        canvas: ImageStack | WindowCanvas,
        prompts: Sequence[str],
        *,
        prompt_weights: Float[Tensor, "size k"] | None = None,
        preview: Callable[[], UInt8[Tensor, "h w 3"]],
    ) -> int:
        """Edit a canvas in place by CSD-Edit or an ablation; returns the iterations that it took.

        Args:
            canvas: The canvas to edit.
            prompts: The instructions.
            prompt_weights: Share of each instruction in each particle.
            preview: Decodes a part of the current canvas.
        """
        return self.optimise_all(
            [canvas], prompts, prompt_weights=prompt_weights, preview=lambda _: preview()
        )[0]

    def optimise_all(
        self,
        canvases: Sequence[ImageStack | WindowCanvas],
        prompts: Sequence[str],
        *,
        prompt_weights: Float[Tensor, "size k"] | None = None,
        preview: Callable[[int], UInt8[Tensor, "h w 3"]],
    ) -> list[int]:
        """Edit canvases in place, one after the other; returns the iterations that each took.

        Args:
            canvases: The canvases to edit.
            prompts: The instructions.
            prompt_weights: As for `optimise`, for each of the canvases.
            preview: Decodes a part of the current canvas, whose number it is given.
        """
        settings = [self._settings(canvas) for canvas in canvases]
        counts = [one.iterations for one in settings]
        taken, done, bank_seed = [0 for _ in counts], 0, None
        if self.values.source_bank:
            # Before `restored`, so that a run that goes on draws the same.
            bank_seed = int(torch.randint(2**31, (), generator=self.generator))
        if (saved := self.restored()) is not None:
            for canvas, state in zip(canvases, saved["canvases"], strict=True):
                canvas.restore(state)
            # States of earlier versions don't count.
            done, taken = saved["done"], saved.get("taken", taken)
        self.reporter.begin("edit", sum(counts), done=done)
        before = 0
        for number, canvas in enumerate(canvases):

            def after_step(now: int, _: int, before: int = before, number: int = number) -> None:
                # An edit that ends early jumps to its last iteration.
                taken[number] += 1
                self.reporter.tick(
                    before + now,
                    state=lambda: self.state(
                        canvases=[canvas.state() for canvas in canvases],
                        taken=taken,
                    ),
                    preview=lambda: preview(number),
                )

            if done < before + counts[number]:
                edit(
                    self.prior,
                    canvas,
                    prompts=prompts,
                    prompt_weights=prompt_weights,
                    negative_prompt=self.options.negative_prompt,
                    source_prompt=self.options.source_prompt,
                    settings=settings[number],
                    randomness=SeededRandomness(self.generator),
                    bank_seed=bank_seed,
                    done=max(0, done - before),
                    after_step=after_step,
                )
            before += counts[number]
        return taken

    def _settings(self, canvas: ImageStack | WindowCanvas) -> EditSettings:
        """The editor's settings.

        Decays that are evenly spaced lie between sweeps, never within one.
        """
        options, values = self.options, self.values
        iterations = values.iterations or canvas.iterations_for(values.updates)
        sweep = canvas.batches_per_sweep
        evenly = math.ceil(iterations / values.decays / sweep) * sweep
        # `method` is declared in the subclasses of EditOptions.
        method = getattr(options, "method")  # noqa: B009
        return EditSettings(
            iterations=iterations,
            learning_rate=values.learning_rate,
            decay=values.decay,
            decay_every=values.decay_every or evenly,
            text_scale=values.text_scale,
            image_scale=values.image_scale,
            t_range=values.t_range,
            t_order=values.t_order,
            source_share=values.source_share,
            quantity=values.quantity,
            shift=values.shift,
            source_bank=values.source_bank,
            stop_below=values.stop_below,
            mixing=values.mixing,
            residual="sds" if method == "sds" else options.residual,
            noise=values.noise,
            kernel_on=options.kernel_on,
            bandwidth=values.bandwidth,
            normalize=values.normalize,
            repulsion=values.repulsion,
            repulsion_scale=values.repulsion_scale,
            max_batch=values.max_batch,
        )

    def sampling(self) -> dict[str, Any]:
        """The arguments of functions in `priors.sampling` that come from the options."""
        values = self.values
        return {
            "negative_prompt": self.options.negative_prompt,
            "text_scale": values.text_scale,
            "image_scale": values.image_scale,
            "steps": values.steps,
            "solver": values.solver,
            "generator": self.generator,
            "max_batch": values.max_batch,
        }

    def facts(self) -> dict[str, Any]:
        """Costs and notices of the edit, for a JSON file."""
        return {
            "evaluations": self._evaluations,
            "ranks": ranks_of(self.prior).count,
            "seconds": {name: round(seconds, 2) for name, seconds in self._seconds.items()},
            "peak_memory_mib": peak_memory(self.prior.device),
            "notices": self._notices,
        }
