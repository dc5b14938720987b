"""Black boxes for stores: predictions that any segmenter saved, and those of a run of ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stochseg.data.add_blackbox import agreement, splits_to_fill, writing_blackbox
from stochseg.data.batches import in_order
from stochseg.data.saved_predictions import Answer, Ids, Predictions, decode_answer, read_ids
from stochseg.data.store import SOFT_STEPS, Split, open_store
from stochseg.errors import InputError
from stochseg.evaluation import check_fit
from stochseg.models.class_maps import class_maps
from stochseg.models.precision import resolve_device
from stochseg.models.segmenter import Segmenter, load
from stochseg.progress import say, track
from stochseg.wording import counted, some

BATCH = 8
MISTAKES_NAMED = 12


@dataclass(frozen=True)
class Added:
    """What one split got. soft: probabilities, not class ids; agreement: with the first rater, 0 to 1, on some images."""

    split: str
    images: int
    soft: bool
    agreement: float


def import_predictions(
    data: str | Path,
    predictions: str | Path,
    split: Sequence[str] | None = None,
    ids: str = "auto",
    resize: bool = False,
    overwrite: bool = False,
) -> list[Added]:
    """Add the predictions that a segmenter saved to a store, as the black box of its splits.

    One PNG or NPY an image, of class ids [h w] or probabilities [k h w]; a file belongs to the image whose name its own
    name begins with. Nothing is changed unless all are right: InputError lists the mistakes.

    Args:
        data: the store.
        predictions: folder or archive (.tar, .tar.gz, .tgz, .zip), such as cityscapes_bb_preds.tar.gz.
        split: splits to fill; default: all that have predictions.
        ids: what the ids in the files are. classes: the store's, 255 for unknown; labelIds: those of Cityscapes;
            or a YAML file of id: class. auto: labelIds for the published predictions, else classes.
        resize: bring predictions of another size, in the same proportions, to that of the images.
        overwrite: replace the black box that is there.
    """
    store = open_store(data)
    found = Predictions(Path(predictions))
    table = read_ids(ids, [c.name for c in store.classes], store.ignore, found.published)
    files = found.match((s.name, name) for s in store.splits.values() for name in s.ids)
    if not files:
        example = next(iter(store.splits.values())).ids[0]
        raise InputError(
            f"{found.path}: no file is named as an image of {store.path}; there are {some(found.names)}, and wanted is "
            f"such as {example}.png"
        )
    chosen = splits_to_fill(store, split or [s for s in store.splits if any(s == of for of, _ in files)], overwrite)
    if left := sorted(store.splits.keys() - {s.name for s in chosen}):
        say(f"{found.path}: nothing taken for {some(left)}")
    row_of = {(s.name, name): row for s in chosen for row, name in enumerate(s.ids)}
    mistakes = _missing_and_double(found, files, chosen)
    owners = {each[0]: owner for owner, each in files.items() if owner in row_of and len(each) == 1}
    sizes = {name: _size(store.splits[of]) for name, (of, _) in owners.items()}
    soft = _classes_of_first(found, sizes, table, resize)
    shapes = {s.name: (*soft, *_size(s)) for s in chosen}
    with writing_blackbox(store, shapes, f"{found.path.name}, ids: {table.name}") as arrays:
        for name, content in track(found.files.read_each(owners), len(owners), "reading predictions"):
            where, owner = found.files.where(name), owners[name]
            array = arrays[owner[0]]
            try:
                answer = decode_answer(content, where, table, sizes[name], resize)
                if answer.shape != array.shape[1:]:
                    raise InputError(f"{where}: {_kind(answer.shape)}, others are {_kind(array.shape[1:])}")
                array[row_of[owner]] = _steps(answer)
            except InputError as error:
                mistakes.append(str(error))
        if mistakes:
            rest = f"; and {len(mistakes) - MISTAKES_NAMED} more" if len(mistakes) > MISTAKES_NAMED else ""
            raise InputError(f"{counted(len(mistakes), 'mistake')}: {'; '.join(mistakes[:MISTAKES_NAMED])}{rest}")
        return [
            Added(s.name, len(s), arrays[s.name].ndim == 4, agreement(s, arrays[s.name], store.ignore, str(found.path)))
            for s in chosen
        ]


def predict(
    run: str | Path,
    data: str | Path,
    split: Sequence[str] | None = None,
    soft: bool = False,
    precision: str = "auto",
    device: str = "auto",
    overwrite: bool = False,
) -> list[Added]:
    """Add the predictions of a run to a store, as the black box of its splits: the likeliest class of each pixel.

    Args:
        run: run directory or exported model, such as that of `stochseg blackbox train`.
        data: the store.
        split: splits to fill; default: all.
        soft: add probabilities in steps of 1/255 instead, which take as many bytes as there are classes.
        precision: auto, float32 or bfloat16.
        device: auto, cpu, cuda, ...
        overwrite: replace the black box that is there.
    """
    store = open_store(data)
    chosen = splits_to_fill(store, split, overwrite)
    model = load(run, precision, resolve_device(device))
    if model.takes_blackbox:
        raise InputError(f"{run}: is itself built on a black box; give a run of `stochseg blackbox train`")
    check_fit(model, store)
    k = len(store.classes)
    shapes = {s.name: (k, *_size(s)) if soft else _size(s) for s in chosen}
    with writing_blackbox(store, shapes, f"run {Path(run).name}, method {model.method}") as arrays:
        for each in chosen:
            rows = 0
            for batch in track(
                in_order(each, BATCH, None), -(-len(each) // BATCH), f"predicting {each.name}", "batches"
            ):
                q = model.probabilities(batch.images)
                answer = (q * SOFT_STEPS).round().to(torch.uint8) if soft else class_maps(q)
                arrays[each.name][rows : rows + len(answer)] = answer.cpu().numpy()
                rows += len(answer)
        return [Added(s.name, len(s), soft, agreement(s, arrays[s.name], store.ignore, str(run))) for s in chosen]


def answers_for(
    model: Segmenter, path: Path | None, ids: str, names: Sequence[str]
) -> Callable[[str, tuple[int, int]], Tensor | None]:
    """Where the black box's answers for images in files come from: a function of an image's name and size (h, w).

    path: predictions of the images of these names, as `import_predictions` reads them; or a run, which is attached to the
    model and asked by it, so that the function gives None; None for a model that asks by itself. The function raises
    InputError where an image has no prediction; this one where the model takes a black box and gets none, or the reverse.
    """
    if path is None:
        if model.needs_blackbox:
            raise InputError(
                "this model sees a black box beside each image; give --blackbox DIR, its predictions of these images, or "
                "--blackbox RUN, the run it came from"
            )
        return lambda name, size: None
    if not model.takes_blackbox:
        raise InputError(f"--blackbox {path}: this model was built without a black box; leave it out")
    if is_run(path):
        model.attach(load(path, model.precision, model.device).probabilities)
        return lambda name, size: None
    found = Predictions(path)
    table = read_ids(ids, [c.name for c in model.classes], None, found.published)
    files = {name: each for (_, name), each in found.match(("images", name) for name in names).items()}

    def answer(name: str, size: tuple[int, int]) -> Tensor:
        if len(files.get(name, [])) != 1:
            several = f"has several predictions ({some(files[name])})" if name in files else "has no prediction"
            raise InputError(f"{name}: {several} in {path}; one PNG or NPY is needed, named as the image")
        ((file, content),) = found.files.read_each(files[name])
        return torch.from_numpy(decode_answer(content, found.files.where(file), table, size))[None]

    return answer


def is_run(path: Path) -> bool:
    """Whether a folder is a run or an exported model."""
    return any((folder / "model.safetensors").is_file() for folder in (path / "model", path))


def _missing_and_double(
    found: Predictions, files: Mapping[tuple[str, str], list[str]], splits: list[Split]
) -> list[str]:
    mistakes = []
    for split in splits:
        missing = [name for name in split.ids if (split.name, name) not in files]
        if missing:
            of = f"{counted(len(missing), 'image')} of split '{split.name}' ({some(missing)})"
            mistakes.append(f"{found.path}: no prediction for {of}")
        double = {name: files[split.name, name] for name in split.ids if len(files.get((split.name, name), [])) > 1}
        mistakes += [f"{name} has {len(each)} predictions ({some(each)})" for name, each in double.items()]
    return mistakes


def _classes_of_first(
    found: Predictions, sizes: Mapping[str, tuple[int, int]], table: Ids, resize: bool
) -> tuple[int, ...]:
    """(j,) where the first prediction that can be read holds probabilities of j classes, () where it holds class ids."""
    for name, content in found.files.read_each(sizes):
        try:
            return decode_answer(content, found.files.where(name), table, sizes[name], resize).shape[:-2]
        except InputError:
            continue  # is found again, and listed, when all are read
    return ()


def _kind(shape: tuple[int, ...]) -> str:
    return "class ids" if len(shape) == 2 else f"probabilities of {shape[0]} classes"


def _size(split: Split) -> tuple[int, int]:
    return split.images.shape[1], split.images.shape[2]


def _steps(answer: Answer) -> Answer:
    """As the store holds it."""
    return answer if answer.ndim == 2 else np.rint(answer.clip(0, 1) * SOFT_STEPS).astype(np.uint8)
