"""Runs `csd-nerf panorama`, `video` and `image`, from input files to output files.

All inputs, outputs and options are checked before the prior is loaded. The prior is loaded once for
all inputs. If one input fails, a line is printed, and the others are edited.

Several ranks (`csd_nerf.core.ranks`) take an input each, as long as there is one for every rank,
which needs no communication; what is left over they edit together.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from csd_nerf import priors
from csd_nerf.adapters.file_reporter import FileReporter, byte_bar, clock
from csd_nerf.adapters.fingerprints import fingerprint
from csd_nerf.adapters.options import (
    MISTAKES,
    EditOptions,
    ImageOptions,
    PanoramaOptions,
    VideoOptions,
)
from csd_nerf.adapters.pictures import PictureFile
from csd_nerf.adapters.regions import masks_of
from csd_nerf.adapters.run_files import RunFiles
from csd_nerf.core.joining import current
from csd_nerf.core.ranks import Ranks
from csd_nerf.media.files import check_writable, one_writer
from csd_nerf.media.images import (
    PICTURE_SUFFIXES,
    check_picture_path,
    write_image,
)
from csd_nerf.media.regions import Region, Segmenter, Word, parse_region
from csd_nerf.priors.base import ranks_of
from csd_nerf.priors.devices import find_device, own_device
from csd_nerf.priors.halving import HalvingPrior, is_out_of_memory, out_of_memory
from csd_nerf.priors.identity import weights_identity
from csd_nerf.priors.sharing import SharedPrior

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
    segmenter = _Segmenter(options, regions)

    def prepare(source: Path, target: Path) -> _Edit:
        check_picture_path(target)
        with byte_bar(f"check {source.name}", shown=current().is_first) as told:
            file = PictureFile.checked(source, told)
        check_picture_path(target, size=file.size)
        for region in regions:
            if not isinstance(region.where, Word):
                masks_of(file.picture())(region)
        return partial(_edit_picture, file, target, options, segmenter)

    if len(inputs) == 1 and output.is_dir():
        output /= _picture_name(inputs[0])
    outputs = _outputs(inputs, output, _picture_name)
    call = _Call(options, command, _each(prepare), _mask_files(regions), segmenter)
    return call.run(_singly(inputs), outputs)


def run_videos(
    inputs: Sequence[Path], output: Path, options: VideoOptions, *, command: Sequence[str]
) -> int:
    """Edit video files or folders of frames; as `run_panoramas` otherwise."""
    from csd_nerf.adapters.frame_masks import check_frame_masks
    from csd_nerf.adapters.video import edit_video
    from csd_nerf.media.film_writer import FILM_SUFFIXES
    from csd_nerf.media.frames import check_frames_output, open_frames
    from csd_nerf.priors.decoders import fetch_decoder

    options.check_prompt()
    regions = [] if options.region is None else [parse_region(options.region)]
    segmenter = _Segmenter(options, regions)
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
        for region in regions:
            check_frame_masks(region, frames)

        return lambda prior, reporter: edit_video(
            prior, frames, target, options, segmenter=segmenter, reporter=reporter
        )

    def result_name(source: Path) -> str:
        if source.is_dir():
            return source.resolve().name
        return _with_suffix_of(source, FILM_SUFFIXES, ".mp4")

    outputs = _outputs(inputs, output, result_name)
    call = _Call(options, command, _each(prepare), _mask_files(regions), segmenter)
    return call.run(_singly(inputs), outputs)


def run_images(
    inputs: Sequence[Path], output: Path, options: ImageOptions, *, command: Sequence[str]
) -> int:
    """Edit pictures together; as `run_panoramas` otherwise, but one picture's failure is all's.

    Args:
        inputs: Picture files, or folders of pictures.
        output: The file to make, or for several pictures or a folder the folder.
        options: The options of the edit.
        command: The command line, for the records.
    """
    from csd_nerf.adapters.picture_files import prepare_set
    from csd_nerf.media.frames import find_pictures

    options.check_prompt()
    regions = [] if options.region is None else [parse_region(options.region)]
    segmenter = _Segmenter(options, regions)
    sources = find_pictures(inputs)
    in_folder = len(sources) > 1 or any(path.is_dir() for path in inputs)
    if in_folder and output.suffix.lower() in PICTURE_SUFFIXES and not output.is_dir():
        raise ValueError(
            f"--output must be a folder for several pictures, got the name of a file, {output}."
        )
    if in_folder or output.is_dir():
        targets = [output / _picture_name(source) for source in sources]
    else:
        targets = [output]
    _check_names(sources, targets)
    whole = output if in_folder else targets[0]

    def prepare(_: Sequence[Path], __: Path) -> _Edit:
        check_masks = bool(regions) and not segmenter.needed
        return prepare_set(sources, targets, options, segmenter=segmenter, check_masks=check_masks)

    call = _Call(options, command, prepare, _mask_files(regions), segmenter)
    return call.run([tuple(sources)], [whole])


def _mask_files(regions: Sequence[Region]) -> list[Path]:
    """Files and folders of masks."""
    return [region.where for region in regions if isinstance(region.where, Path)]


class _Segmenter:
    """The segmenter that the options name; it is loaded only if a region has a word."""

    def __init__(self, options: EditOptions, regions: Sequence[Region]) -> None:
        self.needed = any(isinstance(region.where, Word) for region in regions)
        self._name = options.segmenter or "clipseg"
        self._model: Segmenter | None = None

    def load(self, device: torch.device) -> None:
        """Load it if it is needed.

        Raises:
            OSError: If the weights can't be had.
        """
        if self.needed:
            from csd_nerf.priors.segmenters import load_segmenter

            with _naming("--segmenter"):
                self._model = load_segmenter(self._name, device=device)

    def __call__(self, image01: Float[Tensor, "3 h w"], word: str) -> Float[Tensor, "h w"]:
        """Find what the word names."""
        assert self._model is not None, "it is loaded before inputs are edited"
        return self._model(image01, word)


def _edit_picture(
    file: PictureFile,
    target: Path,
    options: PanoramaOptions,
    segmenter: _Segmenter,
    prior: priors.Prior,
    reporter: FileReporter,
) -> dict[str, Any]:
    from csd_nerf.adapters.panorama import edit_picture

    for notice in file.notices:
        reporter.note(notice)
    picture = file.picture(reporter.bytes)
    result, facts = edit_picture(prior, picture, options, segmenter=segmenter, reporter=reporter)

    def write() -> None:
        with reporter.bytes("write") as told:
            write_image(target, result, metadata=file.metadata, note=reporter.note, told=told)

    ranks_of(prior).first_does(write)
    return facts


def _each(prepare: Callable[[Path, Path], _Edit]) -> Callable[[Sequence[Path], Path], _Edit]:
    """The function for inputs that are edited each by itself."""
    return lambda sources, target: prepare(sources[0], target)


def _singly(inputs: Sequence[Path]) -> list[tuple[Path, ...]]:
    return [(path,) for path in inputs]


@dataclass(frozen=True)
class _Task:
    """An input to edit."""

    files: RunFiles
    edit: _Edit
    resuming: bool
    label: str
    """Prefix of what is printed."""


@dataclass
class _Call:
    """One call of the command."""

    options: EditOptions
    command: Sequence[str]
    prepare: Callable[[Sequence[Path], Path], _Edit]
    """Checks the inputs of an output, and returns the function that makes it."""
    region_masks: Sequence[Path]
    """Files and folders of regions' masks, which are part of every input's fingerprint."""
    segmenter: _Segmenter
    failures: int = 0
    ranks: Ranks = field(default_factory=current)
    unheard: list[tuple[str, bool]] = field(default_factory=list)
    """Lines that rank 0 is to print for this one, and whether they are errors."""

    def run(self, inputs: Sequence[tuple[Path, ...]], outputs: Sequence[Path]) -> int:
        """Check all, load the prior, edit all; returns the exit code.

        Args:
            inputs: For each output, the inputs that it is made of.
            outputs: Files or folders.
        """
        values = self.options.values()
        priors.check_quantity(values.prior, values.quantity, name="--quantity")
        bundled = priors.is_bundled(values.prior)

        def device_of() -> torch.device:
            return own_device(find_device(self.options.device, bundled=bundled), self.ranks)

        with _naming("--device"):
            device = self.ranks.together(device_of)
        try:
            with ExitStack() as locks:
                if tasks := self._tasks(inputs, outputs, device, locks):
                    self._edit(tasks, device)
        except KeyboardInterrupt:
            again = [*self.command, *(["--resume"] if "--resume" not in self.command else [])]
            print(f"csd-nerf: interrupted; go on with: {shlex.join(again)}", file=sys.stderr)
            return _INTERRUPTED
        return self.ranks.from_first(lambda: 1 if self.failures else 0)

    def _edit(self, tasks: Sequence[_Task], device: torch.device) -> None:
        """Load the prior, and edit."""
        ranks, notices = self.ranks, list[str]()
        ranks.together(lambda: self.segmenter.load(device))
        prior, weights = ranks.together(lambda: self._load(device, notices))
        for task in tasks:
            task.files.weights = weights
        whole = len(tasks) // ranks.count * ranks.count if ranks.count > 1 else 0
        for task in tasks[ranks.rank : whole : ranks.count]:
            self._do(task, prior, notices)
        if whole:
            self._hear_others()
        shared = prior if ranks.count == 1 else cast(priors.Prior, SharedPrior(prior, ranks))
        for task in tasks[whole:]:
            self._do(task, shared, notices)

    def _tasks(
        self,
        inputs: Sequence[tuple[Path, ...]],
        outputs: Sequence[Path],
        device: torch.device,
        locks: ExitStack,
    ) -> list[_Task]:
        """The outputs that are left to make; rank 0 locks them until `locks` is closed."""
        checked: dict[int, _Task] = {}
        both = list(zip(inputs, outputs, strict=True))
        several = len(both) > 1

        def check() -> dict[int, bool]:
            for number, (sources, output) in enumerate(both):
                if task := self._checked(sources, output, [*inputs], outputs, device, locks):
                    label = f"[{number + 1}/{len(both)}] {sources[0].name}: " if several else ""
                    checked[number] = replace(task, label=label)
            return {number: task.resuming for number, task in checked.items()}

        def prepared(number: int, *, resuming: bool) -> _Task:
            sources, output = both[number]
            edit = self.prepare(sources, output)
            return _Task(self._files(sources, output, device), edit, resuming, "")

        left = self.ranks.from_first(check)
        return self.ranks.together(
            lambda: [checked.get(n) or prepared(n, resuming=found) for n, found in left.items()]
        )

    def _checked(
        self,
        sources: tuple[Path, ...],
        output: Path,
        inputs: Sequence[tuple[Path, ...]],
        outputs: Sequence[Path],
        device: torch.device,
        locks: ExitStack,
    ) -> _Task | None:
        """An output to make, which is locked; None if there is nothing to do, or it can't be."""
        with self._telling(sources[0]):
            edit = self.prepare(sources, output)
            files = self._files(sources, output, device)
            given = [path for paths in inputs for path in paths]
            others = [path for path in outputs if path != output]
            files.check_apart_from([*given, *self.region_masks, *others])
            # The state has the longest name.
            check_writable(files.state)
            locks.enter_context(one_writer(output))
            found = files.look(resume=self.options.resume, overwrite=self.options.overwrite)
            if found == "result":
                print(f"{output} is finished: nothing is left to do.")
                return None
            return _Task(files, edit, found == "state", "")
        return None

    def _hear_others(self) -> None:
        """Wait until all ranks have edited inputs of their own, and let rank 0 tell how it went."""
        given = self.ranks.all_of((self.unheard, self.failures if self.ranks.rank else 0))
        if self.ranks.is_first:
            for lines, failures in given:
                self.failures += failures
                for line, is_error in lines:
                    print(line, file=sys.stderr if is_error else sys.stdout)

    def _say(self, line: str, *, error: bool = False) -> None:
        """Print a line, in rank 0; from others, it hears it after their own inputs."""
        if self.ranks.is_first:
            print(line, file=sys.stderr if error else sys.stdout)
        else:
            self.unheard.append((line, error))

    def _files(self, sources: tuple[Path, ...], output: Path, device: torch.device) -> RunFiles:
        values = dataclasses.asdict(self.options.values())
        settings = {**dataclasses.asdict(self.options), **values, "device": str(device)}
        return RunFiles(
            sources, output, settings, self.command, fingerprint(*sources, *self.region_masks)
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
            "compile": values.prior_compile,
            "split": options.prior_split,
        }
        files: dict[str, Any] = {
            "device": device,
            "dtype": values.dtype,
            "variant": options.prior_variant,
        }
        if options.prior_split and self.ranks.count > 1:
            raise ValueError(
                f"--prior-split needs one process, got {' '.join(options.prior_split)} with "
                f"{self.ranks.count}, which have a GPU each; leave torchrun out."
            )
        with _naming("--prior-offload", "--prior-quantize", "--prior-compile", "--prior-split"):
            priors.check_placement(device=device, **place)
        named = ["--prior", *([] if options.control is None else ["--control-model"])]
        begun = clock(f"Loading the prior {values.prior}", shown=self.ranks.is_first)
        with _naming(*named), begun:
            prior = priors.load(
                values.prior,
                kind=kind,
                condition=values.condition,
                control=options.control,
                control_model=options.control_model,
                control_scale=scale,
                tell=lambda text: print(f"note: {text}", file=sys.stderr),
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
        files, ranks = task.files, ranks_of(prior)
        reporter = FileReporter(
            files,
            resuming=task.resuming,
            save_every=self.options.save_every,
            preview_every=self.options.preview_every,
            label=task.label,
            ranks=ranks,
            launched=self.ranks.count > 1,
        )
        if self.options.resume and not task.resuming:
            reporter.note("no run was interrupted here: it starts anew")
        with self._telling(files.sources[0], files.state):
            try:
                with reporter:
                    facts = ranks.together(lambda: task.edit(prior, reporter))
                    told = [*notices, *reporter.notices]
                    finish = partial(files.finish, facts, notices=told, seconds=reporter.seconds)
                    ranks.first_does(finish)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise out_of_memory("the run", prior.device) from error
            # Again, since bars have hidden them.
            for notice in reporter.notices:
                self._say(f"note: {notice}")
            self._say(f"Wrote {files.output}.")

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
            self._say(f"csd-nerf: {message}", error=True)


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


def _picture_name(source: Path) -> str:
    """The name of a picture's result."""
    return _with_suffix_of(source, PICTURE_SUFFIXES, ".png")


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
    _check_names(inputs, outputs)
    return outputs


def _check_names(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Check that each result has a name of its own, and none that of its input."""
    by_name: dict[Path, Path] = {}
    for source, target in zip(inputs, outputs, strict=True):
        if target.resolve() == source.resolve():
            raise ValueError(f"The output must not be the input, got {target} for both.")
        if (other := by_name.setdefault(target, source)) is not source:
            raise ValueError(
                f"Inputs need names of their own, since results are named like them, got {other} "
                f"and {source}, both to {target}; run them apart."
            )
