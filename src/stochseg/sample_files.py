"""Samples for images that lie in files: what the command `stochseg sample` does."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stochseg.blackbox import answers_for
from stochseg.data.dicom_seg import check_source
from stochseg.data.image_files import Slices, list_images, name_of, read_slices
from stochseg.data.map_files import check_bytes
from stochseg.data.pixel_files import parse_window
from stochseg.data.reading import parse_json
from stochseg.data.store import sha256_of
from stochseg.determinism import deterministic_if_asked
from stochseg.errors import InputError, OnError
from stochseg.metrics import class_frequencies
from stochseg.models.calibrated import Coverage
from stochseg.models.model_files import model_folder
from stochseg.models.precision import precision_name
from stochseg.models.segmenter import Segmenter, load
from stochseg.processes import current, joined
from stochseg.progress import say, track
from stochseg.sampling import choose
from stochseg.sampling.latents import Draws, latents
from stochseg.sampling.maps import MapFormat
from stochseg.sampling.orientations import Orientations
from stochseg.sampling.tiling import Tile
from stochseg.sampling.write import SUMMARY, Sampled, is_written, remove_partial, write_sampled
from stochseg.wording import counted, some
from stochseg.writable import check_writable

Array = NDArray[Any]


@dataclass(frozen=True)
class SampledFiles:
    """written: a folder an image; skipped: the images that could not be read; kept: folders that were there whole."""

    written: list[Path]
    skipped: list[Path]
    kept: list[Path]


@deterministic_if_asked
@joined()
def sample_files(
    run: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    samples: int = 16,
    seed: int = 0,
    draws: Draws = "independent",
    orientations: Orientations = 1,
    most_different: int | None = None,
    blackbox: str | Path | None = None,
    blackbox_ids: str = "auto",
    tiles: Tile = "auto",
    format: MapFormat = "npz",
    window: str | None = None,
    axis: Literal[0, 1, 2] = 2,
    precision: str = "auto",
    device: str = "auto",
    overwrite: bool = False,
    resume: bool = False,
    on_error: OnError = "stop",
    deterministic: bool = False,
) -> SampledFiles:
    """Draw samples of images in files and write OUT/IMAGE/ for each, IMAGE being the file's name without its suffix.

    A sample depends on the seed, the pixels of its image and its own number alone: not on the file's name, nor on what
    else is sampled. The slices of a volume share the noise, so that a sample is one volume. InputError at an image that
    cannot be read, or, where such are skipped, where none can; also where two images would share a folder, and where a
    folder is there already. Several processes (docs/distributed.md) share the images.

    Args:
        run: run directory or exported model.
        images: image files, folders or patterns; PNG, JPEG, TIFF, NPY, NIfTI, DICOM (a folder is a series).
        out: where the folders go.
        samples: samples of an image.
        seed: of the samples.
        draws: independent, or stratified: spread evenly over the noise, so that few samples stand for the distribution.
        orientations: draw each sample in one of 1, 2 (mirrored too) or 8 (turned too) orientations of its image, for models
            whose training mirrored and turned.
        most_different: show this many of the samples, those that stand for all best (k-medoids under IoU), with the share of
            samples that each speaks for.
        blackbox: for a model over a black box: a folder or archive of its predictions of these images, one PNG or NPY each,
            named alike; or the run of `stochseg blackbox train` that it came from.
        blackbox_ids: what the ids in these predictions are: auto, classes, labelIds or a YAML file of id: class.
        tiles: how images larger than those of training are taken. auto: in overlapping tiles of the training size that
            share their noise; a side in pixels (a multiple of 16): in tiles of it; none: as a whole.
        format: png, nifti and dicom-seg write each sample into a file of its own too; nifti keeps the place in space,
            dicom-seg, of DICOM images, refers to them.
        window: LOW,HIGH: values that are black and white, as in training; NIfTI of more than 8 bits needs it, DICOM files
            name one of their own.
        axis: of NIfTI files, along which their slices lie: 0, 1 or 2.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda, ...
        overwrite: replace what an earlier call left of these images.
        resume: keep what an earlier call left whole of these images, and go on with the others.
        on_error: at an image that cannot be read: stop, or skip, which lists each with its reason and ends with exit
            code 3.
        deterministic: on a GPU, none but deterministic algorithms; a CPU needs none of it.
    """
    run, out = Path(run), Path(out)
    world = current()
    with world.as_one():
        for flag, value, least in (("samples", samples, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"--{flag} {value}: must be at least {least}")
        if most_different is not None and not 1 <= most_different <= samples:
            raise InputError(f"--most-different {most_different}: must be from 1 to --samples {samples}")
        if overwrite and resume:
            raise InputError("--overwrite and --resume: replace what is there, or keep it; pass one of them")
        values = None if window is None else parse_window(window)
        folders = _folders(list_images(images), out, overwrite, resume)
        model = load(run, precision, world.device(device))
        box = None if blackbox is None else Path(blackbox)
        answer = answers_for(model, box, blackbox_ids, [folder.name for folder in folders.values()])
        model.orientations = orientations
        if orientations > 1 and model.coverage:
            raise InputError(
                f"--orientations {orientations}: the coverage levels of {run} were fitted on images as they are; leave it out"
            )
        model.tiling(model.size, tiles)  # refuses what it cannot do
        check_writable(out, f"--out {out}")
        settings = _settings(model, run, samples, seed, draws, most_different, box) | {
            "tiles": tiles,
            "format": format,
            "given_window": values and list(values),
            "axis": axis,
        }
        kept = [folder for file, folder in folders.items() if resume and _is_kept(folder, file, settings)]
        folders = {file: folder for file, folder in folders.items() if folder not in kept}
        if resume and world.first:
            for folder in folders.values():
                remove_partial(folder)
    written: list[Path] = []
    unpromised: list[str] = []
    failed: dict[Path, InputError] = {}
    mine = world.share(list(folders.items()))
    for file, folder in track(mine, len(mine), "sampling"):
        try:
            image = read_slices(file, model.channels, values or model.windows, axis)
            seen = answer(folder.name, _size(image.images))
            if seen is not None and image.is_volume:
                raise InputError(f"{file}: a volume; models over a black box take images one by one, give its slices")
            if format == "dicom-seg":
                check_source(file, image.space.dicom)
        except InputError as error:
            failed[file] = error
            if on_error == "stop":
                break
            continue
        _sample_one(model, file, image, seen, folder, settings, most_different, tiles, format)
        if model.coverage and not model.coverage.holds_for(_size(image.images)):
            unpromised.append(file.name)
        written.append(folder)
    parts = world.gather((written, unpromised, failed))
    done = {folder for part in parts for folder in part[0]}
    written = [folder for folder in folders.values() if folder in done]
    unpromised = [name for part in parts for name in part[1]]
    refused = {file: error for part in parts for file, error in part[2].items()}
    failed = {file: refused[file] for file in folders if file in refused}
    with world.as_one():
        if failed and on_error == "stop":
            raise InputError(
                f"{next(iter(failed.values()))}; {counted(len(kept) + len(written), 'image')} of {len(kept) + len(folders)} "
                "done: go on with --resume, and pass --on-error skip to leave such images out"
            )
        if not written and not kept:
            raise next(iter(failed.values()))
    for reason in failed.values():
        say(f"left out: {reason}")
    if unpromised and model.coverage:
        say(
            f"coverage levels were fitted at {model.coverage.fitted_at()} pixels: no promise for "
            f"{counted(len(unpromised), 'image')} of another size ({some(unpromised)}); crop them around what is to be outlined"
        )
    if model.coverage and draws != "independent" and written:
        say(f"coverage levels were fitted on independent draws: no promise for {draws} ones")
    return SampledFiles(written, list(failed), kept)


def image_number(image: Tensor) -> int:
    """The number that stands for an image [c h w] in `latents`: the start of the sha256 of its shape and pixels."""
    pixels = image.to(torch.float32).contiguous().numpy()
    digest = hashlib.sha256(f"{list(image.shape)} ".encode() + pixels.astype("<f4").tobytes()).digest()
    return int.from_bytes(digest[:6], "big")


def _size(image: Tensor) -> tuple[int, int]:
    h, w = image.shape[-2:]
    return h, w


def _settings(
    model: Segmenter, run: Path, samples: int, seed: int, draws: Draws, different: int | None, blackbox: Path | None
) -> dict[str, Any]:
    """What the samples of an image depend on beside its pixels, as summary.json holds it."""
    return {
        "samples": samples,
        "seed": seed,
        "draws": draws,
        "orientations": model.orientations,
        "shown": different,
        "blackbox": blackbox and str(blackbox),
        "model": str(run),
        "weights": sha256_of(model_folder(run) / "model.safetensors"),
        "precision": precision_name(model.precision, model.device),
        "temperature": model.temperature and list(model.temperature),
        "coverage_levels": model.coverage and list(model.coverage.levels),
    }


def _is_kept(folder: Path, file: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder holds these very samples; InputError where it holds others."""
    if not folder.exists():
        return False
    try:
        found = parse_json((folder / SUMMARY).read_text())
        found = {"coverage_levels": None} | found  # which files of before do not hold
        other = next((key for key, value in settings.items() if found[key] != value), None)
        other = other or (None if found["image"] == str(file) else "image")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: is not of `stochseg sample` ({error}); choose another --out") from error
    if other:
        wanted = settings.get(other, str(file))
        raise InputError(
            f"{folder}: was sampled with {other} {found[other]}, not {wanted}; choose another --out, or pass --overwrite"
        )
    return True


def _sample_one(
    model: Segmenter,
    file: Path,
    image: Slices,
    seen: Tensor | None,
    folder: Path,
    settings: dict[str, Any],
    different: int | None,
    tiles: Tile,
    format: MapFormat,
) -> None:
    number = image_number(image.images if image.is_volume else image.images[0])
    size = _size(image.images)
    tiling = model.tiling(size, tiles)
    samples, seed, draws = settings["samples"], settings["seed"], settings["draws"]
    drawn = max(samples, model.coverage.samples if model.coverage else 0)  # the levels hold for their own number
    z = latents(seed, [number], drawn, model.latent, draws)
    if tiling and model.orientations == 1:  # else each orientation has tiles of its own
        z = tiling.widened(z)
    k = len(model.classes)
    check_bytes(image.images[:, 0].numel() * (drawn + 2 * k * 4), file)
    parts = [_sample_slice(model, one, seen, z, tiles, samples) for one in image.images.split(1)]
    maps, q, mean, *sets = (np.stack(slices, 1) for slices in zip(*parts))
    covered = sets[0] if sets else None
    facts: dict[str, Any] = {
        "image": str(file),
        "size": list(size),
        "slices": len(image.images),
        "pixel_mm2": image.space.pixel_mm2,
        "window": image.window and list(image.window),
        "tile": tiling and [tiling.rows.tile, tiling.columns.tile],
        "image_number": number,
        **settings,
        "coverage": None,
    }
    kind = "" if draws == "independent" else f"{draws} "
    seen_from = f" in {model.orientations} orientations" if model.orientations > 1 else ""
    name, notes = "", [f"{samples} {kind}samples{seen_from}, seed {seed}, model {settings['model']}"]
    chosen = None
    if different is not None:
        flat = torch.from_numpy(maps).flatten(1, 2)[None]  # [1 n s*h w]
        picked, shares = choose.most_different(flat, different, k)
        chosen = picked[0].cpu().numpy()
        facts["most_different"] = {"samples": chosen.tolist(), "shares": shares[0].tolist()}
        said = ", ".join(f"{100 * share:.0f} %" for share in shares[0].tolist())
        notes.append(f"shown: {counted(different, 'sample')} that stand for {said} of them")
    if model.coverage:
        c, broken = model.coverage, _no_promise(model.coverage, size, draws)
        facts["coverage"] = {
            "probability": c.probability,
            "share": c.share,
            "samples": c.samples,
            "fitted_size": c.size and list(c.size),
            "promise": broken is None,
            "levels": {info.name: level for info, level in zip(model.classes, c.levels)},
        }
        if broken is None:
            name = f"{100 * c.probability:g} % coverage"
            part = "the whole" if c.share == 1 else f"{100 * c.share:g} %"
            notes += [
                f"{name}: on average over patients, holds {part}",
                "of a new rater's outline with this probability",
            ]
        else:
            name = "coverage set"
            notes.append(f"{name}: {broken}")
    result = Sampled(
        ((image.images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy(),
        maps,
        q,
        mean,
        covered,
        name,
        image.space,
        notes,
        chosen,
    )
    write_sampled(folder, result, model.classes, folder.name, facts, format)


def _no_promise(coverage: Coverage, size: tuple[int, int], draws: Draws) -> str | None:
    """Why the levels promise nothing of samples of an image of this size; None where they do."""
    if not coverage.holds_for(size):
        return f"fitted at {coverage.fitted_at()}, no promise at this size"
    return None if draws == "independent" else f"fitted on independent draws, no promise for {draws} ones"


def _sample_slice(
    model: Segmenter, image: Tensor, seen: Tensor | None, z: Tensor, tiles: Tile, samples: int
) -> list[Array]:
    """Maps [n h w], q and the maps' mean [k h w], and coverage sets [k h w] where there are some, of one slice [1 c h w]."""
    maps = model.sample(image, blackbox=seen, z=z, tile=tiles)
    q = model.probabilities(image, seen, tiles)
    covered = [model.coverage_sets(maps, q)] if model.coverage else []
    maps = maps[:, :samples]
    mean = class_frequencies(maps, len(model.classes))
    return [found[0].cpu().numpy() for found in (maps, q, mean, *covered)]


def _folders(files: Sequence[Path], out: Path, overwrite: bool, resume: bool) -> dict[Path, Path]:
    """The folder of each file; InputError where two files share one, or one would be overwritten."""
    folders: dict[Path, Path] = {}
    owner: dict[str, Path] = {}
    for file in files:
        if file in folders:
            continue  # named twice, once in its folder
        folder = out / name_of(file)
        other = owner.setdefault(name_of(file).casefold(), file)  # some file systems know no small letters
        if other is not file:
            raise InputError(
                f"{other} and {file} would both be written to {folder}; sample them into two --out folders"
            )
        if folder.exists() and not resume and not (overwrite and is_written(folder)):
            if overwrite:
                raise InputError(f"{folder}: was not written by `stochseg sample`, so --overwrite leaves it alone")
            raise InputError(f"{folder}: exists already; choose another --out, or pass --overwrite or --resume")
        folders[file] = folder
    return folders
