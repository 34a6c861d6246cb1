"""Runs `csd-nerf panorama` and `csd-nerf video`, from input files to output files.

All inputs, outputs and options are checked before the prior is loaded. The prior is loaded once for
all inputs. If one input fails, a line is printed, and the others are edited.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from csd_nerf import priors
from csd_nerf.adapters.file_reporter import FileReporter
from csd_nerf.adapters.fingerprints import fingerprint
from csd_nerf.adapters.options import MISTAKES, EditOptions, PanoramaOptions, VideoOptions
from csd_nerf.adapters.regions import masks_of
from csd_nerf.adapters.run_files import RunFiles
from csd_nerf.media.files import check_writable, one_writer
from csd_nerf.media.images import (
    PICTURE_SUFFIXES,
    check_picture_path,
    picture_metadata,
    read_image,
    write_image,
)
from csd_nerf.media.regions import Word, parse_region
from csd_nerf.priors.devices import find_device
from csd_nerf.priors.halving import HalvingPrior, is_out_of_memory, out_of_memory
from csd_nerf.priors.identity import weights_identity

_INTERRUPTED = 130
"""Exit code after Ctrl-C, by the convention of shells."""

_Edit = Callable[[priors.Prior, FileReporter], dict[str, Any]]
"""Edits one input, writes its output and returns the facts."""


def run_panoramas(
    inputs: Sequence[Path], output: Path, options: PanoramaOptions, *, command: Sequence[str]
) -> int:
    """Edit pictures.

    Args:
        inputs: Picture files.
        output: The file to make, or for several inputs the folder.
        options: The options of the edit.
        command: The command line, for the records.

    Returns:
        The exit code: 0, or 1 if an input failed, or 130 after Ctrl-C.

    Raises:
        ValueError: If an option is wrong, or two inputs would have the same output.
        OSError: If the prior's weights can't be had.
    """
    options.check_prompt()
    regions = [parse_region(text) for text in options.region]
    masks = [region.where for region in regions if isinstance(region.where, Path)]

    def prepare(source: Path, target: Path) -> _Edit:
        check_picture_path(target)
        image, _ = read_image(source)
        size = (image.shape[0], image.shape[1])
        check_picture_path(target, size=size)
        for region in regions:
            if not isinstance(region.where, Word):
                masks_of(image, name=source.name)(region)
        return partial(_edit_picture, source, target, options)

    def result_name(source: Path) -> str:
        return _with_suffix_of(source, PICTURE_SUFFIXES, ".png")

    if len(inputs) == 1 and output.is_dir():
        output /= result_name(inputs[0])
    outputs = _outputs(inputs, output, result_name)
    return _Call(options, command, prepare, masks).run(inputs, outputs)


def run_videos(
    inputs: Sequence[Path], output: Path, options: VideoOptions, *, command: Sequence[str]
) -> int:
    """Edit video files or folders of frames; as `run_panoramas` otherwise."""
    from csd_nerf.adapters.video import edit_video
    from csd_nerf.media.film_writer import FILM_SUFFIXES
    from csd_nerf.media.frames import check_frames_output, open_frames
    from csd_nerf.priors.decoders import fetch_decoder

    options.check_prompt()
    if options.decoder != "vae":
        with _naming("--decoder", "--decoder-weights"):
            fetch_decoder(options.decoder, options.decoder_weights)

    def prepare(source: Path, target: Path) -> _Edit:
        check_frames_output(target)
        if source.is_dir() and source.resolve() in target.resolve().parents:
            raise ValueError(
                f"The output must lie outside of the input's folder, got {target}; name another "
                "--output."
            )
        frames = open_frames(source, frames=options.frames)
        check_frames_output(target, size=frames.size)

        return lambda prior, reporter: edit_video(prior, frames, target, options, reporter=reporter)

    def result_name(source: Path) -> str:
        if source.is_dir():
            return source.resolve().name
        return _with_suffix_of(source, FILM_SUFFIXES, ".mp4")

    outputs = _outputs(inputs, output, result_name)
    return _Call(options, command, prepare, []).run(inputs, outputs)


def _edit_picture(
    source: Path,
    target: Path,
    options: PanoramaOptions,
    prior: priors.Prior,
    reporter: FileReporter,
) -> dict[str, Any]:
    from csd_nerf.adapters.panorama import edit_panorama

    image, notices = read_image(source)
    for notice in notices:
        reporter.note(notice)
    result = edit_panorama(prior, image, options, name=source.name, reporter=reporter)
    metadata = picture_metadata(source, note=reporter.note)
    write_image(target, result.image, metadata=metadata, note=reporter.note)
    return result.facts


@dataclass(frozen=True)
class _Task:
    """An input to edit."""

    files: RunFiles
    reporter: FileReporter
    edit: _Edit


@dataclass
class _Call:
    """One call of the command."""

    options: EditOptions
    command: Sequence[str]
    prepare: Callable[[Path, Path], _Edit]
    """Checks an input and its output, and returns the function that edits it."""
    region_masks: Sequence[Path]
    """Files of regions' masks, which are part of every input's fingerprint."""
    failures: int = 0

    def run(self, inputs: Sequence[Path], outputs: Sequence[Path]) -> int:
        """Check all, load the prior, edit all; returns the exit code."""
        values = self.options.values()
        priors.check_quantity(values.prior, values.quantity, name="--quantity")
        bundled = priors.is_bundled(values.prior)
        with _naming("--device"):
            device = find_device(self.options.device, bundled=bundled)
        try:
            with ExitStack() as locks:
                tasks = self._checked(inputs, outputs, device, locks)
                if tasks:
                    notices: list[str] = []
                    prior, weights = self._load(device, notices)
                    for task in tasks:
                        task.files.weights = weights
                        self._do(task, prior, notices)
        except KeyboardInterrupt:
            again = [*self.command, *(["--resume"] if "--resume" not in self.command else [])]
            print(f"csd-nerf: interrupted; go on with: {shlex.join(again)}", file=sys.stderr)
            return _INTERRUPTED
        return 1 if self.failures else 0

    def _checked(
        self,
        inputs: Sequence[Path],
        outputs: Sequence[Path],
        device: torch.device,
        locks: ExitStack,
    ) -> list[_Task]:
        """The inputs that are left to edit; their outputs are locked until `locks` is closed."""
        tasks = []
        for number, (source, output) in enumerate(zip(inputs, outputs, strict=True), start=1):
            label = f"[{number}/{len(inputs)}] {source.name}: " if len(inputs) > 1 else ""
            with self._telling(source):
                edit = self.prepare(source, output)
                files = self._files(source, output, device)
                others = [path for path in outputs if path != output]
                files.check_apart_from([*inputs, *self.region_masks, *others])
                # The state has the longest name.
                check_writable(files.state)
                locks.enter_context(one_writer(output))
                found = files.look(resume=self.options.resume, overwrite=self.options.overwrite)
                if found == "result":
                    print(f"{output} is finished: nothing is left to do.")
                    continue
                reporter = FileReporter(
                    files,
                    resuming=found == "state",
                    save_every=self.options.save_every,
                    preview_every=self.options.preview_every,
                    label=label,
                )
                if self.options.resume and not reporter.resuming:
                    reporter.note("no run was interrupted here: it starts anew")
                tasks.append(_Task(files, reporter, edit))
        return tasks

    def _files(self, source: Path, output: Path, device: torch.device) -> RunFiles:
        values = dataclasses.asdict(self.options.values())
        settings = {**dataclasses.asdict(self.options), **values, "device": str(device)}
        return RunFiles(
            source, output, settings, self.command, fingerprint(source, *self.region_masks)
        )

    def _load(self, device: torch.device, notices: list[str]) -> tuple[priors.Prior, str]:
        """The prior and the identity of its weights."""
        options, values = self.options, self.options.values()
        kind = "text" if options.residual == "dds" else "edit"
        scale = 1.0 if options.control_scale is None else options.control_scale

        def tell(text: str) -> None:
            notices.append(text)
            print(f"note: {text} --max-batch sets it from the start.", file=sys.stderr)

        place: dict[str, Any] = {
            "offload": options.prior_offload,
            "quantize": options.prior_quantize,
        }
        files: dict[str, Any] = {
            "device": device,
            "dtype": values.dtype,
            "variant": options.prior_variant,
        }
        with _naming("--prior-offload", "--prior-quantize"):
            priors.check_placement(device=device, **place)
        with _naming("--prior", *([] if options.control is None else ["--control-model"])):
            prior = priors.load(
                values.prior,
                kind=kind,
                condition=values.condition,
                control=options.control,
                control_model=options.control_model,
                control_scale=scale,
                **files,
                **place,
            )
            weights = self._weights(values.prior, kind, files)
        halving = HalvingPrior(prior, max_batch=values.max_batch, tell=tell)
        return halving, weights_identity(*weights)

    def _weights(self, prior: str, kind: priors.Kind, files: dict[str, Any]) -> list[Path]:
        """The folder of the prior's weights and, if it has one, of its ControlNet's."""
        options = self.options
        if options.control is None:
            return [priors.fetch(prior, kind=kind, **files)[0]]
        found, beside = priors.find_controlled(
            prior, options.control, model=options.control_model, **files
        )
        return [found.folder, beside]

    def _do(self, task: _Task, prior: priors.Prior, notices: Sequence[str]) -> None:
        files = task.files
        with self._telling(files.source, files.state):
            try:
                with task.reporter as reporter:
                    facts = task.edit(prior, reporter)
                    told = [*notices, *reporter.notices]
                    files.finish(facts, notices=told, seconds=reporter.seconds)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise out_of_memory("the run", prior.device) from error
            print(f"Wrote {files.output}.")

    @contextmanager
    def _telling(self, source: Path, state: Path | None = None) -> Iterator[None]:
        """Print an error as one line and count it, so that the other inputs are still edited."""
        try:
            yield
        except MISTAKES as error:
            self.failures += 1
            message = " ".join(str(error).split()) or f"{type(error).__name__} with {source}"
            if isinstance(error, MemoryError):
                message += f" {_named('--size', '--max-batch', '--preset small')}"
            if state is not None and state.exists():
                message += " (--resume goes on from what was done)"
            print(f"csd-nerf: {message}", file=sys.stderr)


@contextmanager
def _naming(*options: str) -> Iterator[None]:
    """Add the names of the options that help to the message of an error."""
    try:
        yield
    except MISTAKES as error:
        raise type(error)(f"{error} {_named(*options)}") from None


def _named(*options: str) -> str:
    return f"The option{'s are' if len(options) > 1 else ' is'} {', '.join(options)}."


def _with_suffix_of(source: Path, suffixes: Sequence[str], other: str) -> str:
    """The input's name; its suffix is replaced by `other` if results can't have it."""
    return source.name if source.suffix.lower() in suffixes else f"{source.stem}{other}"


def _outputs(
    inputs: Sequence[Path], output: Path, result_name: Callable[[Path], str]
) -> list[Path]:
    """The output of each input."""
    if not inputs:
        raise ValueError("A run needs one input or more, got none.")
    outputs = [output]
    if len(inputs) > 1:
        if output.exists() and not output.is_dir():
            raise ValueError(
                f"--output must be a folder for several inputs, got the file {output}."
            )
        outputs = [output / result_name(source) for source in inputs]
    by_name: dict[Path, Path] = {}
    for source, target in zip(inputs, outputs, strict=True):
        if target.resolve() == source.resolve():
            raise ValueError(f"The output must not be the input, got {target} for both.")
        if (other := by_name.setdefault(target, source)) is not source:
            raise ValueError(
                f"Inputs need names of their own, since results are named like them, got {other} "
                f"and {source}, both to {target}; run them apart."
            )
    return outputs
