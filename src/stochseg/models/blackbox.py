"""A black box: a segmenter that is given and never changed; the calibration network sees its answer beside the image.

What it sees is float32 [b k h w] over the model's k classes: one-hot of a class map, or probabilities. Where the class
is unknown (255 in a map) and for classes that the black box does not know, it is 0.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.data.store import UNKNOWN
from stochseg.errors import InputError
from stochseg.models.class_maps import class_maps, one_hot_maps
from stochseg.models.padding import pad_to_multiple

Output = Literal["auto", "logits", "probabilities"]
SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of a pixel may add up: what rounding to bfloat16 or to 1/255 does."""

IMAGENET: dict[str, Any] = {"range": (0.0, 1.0), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""How most segmenters that started from ImageNet want their images: `BlackBox(net, **IMAGENET)`."""


class BlackBox:
    """A live segmenter behind the images as stochseg has them: float [b c h w] in [-1, 1].

    segmenter: any nn.Module or callable. It gives logits or probabilities [b j h w], or class maps [b h w] of integers,
    by itself, as "out" of a dict (torchvision) or as `.logits` (Hugging Face), at any resolution; another place is told
    by `read`, which is given what it returns. A module runs in eval mode without gradients, and is left in the mode
    it was in; it is in no checkpoint and in no saved model.
    classes: the model's class for each of its j classes, 255 for one that the model does not know; without it they are
    the model's first j. soft: the calibration network sees probabilities and not the one-hot likeliest class.
    output: what a float answer is; "auto" takes what adds up to 1 for probabilities, and must be told for one channel.
    range, mean, std: images are brought from [-1, 1] into this range, then normalised by channel; grey ones take as
    many channels as `mean` has. size: (h, w) to which they are resized; scale: or by which factor; multiple: their
    sides are padded to multiples of this. The answer is brought back to the image's own size.
    """

    def __init__(
        self,
        segmenter: Callable[..., Any],
        *,
        classes: Sequence[int] | None = None,
        soft: bool = False,
        output: Output = "auto",
        range: tuple[float, float] = (-1.0, 1.0),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        scale: float | None = None,
        multiple: int = 1,
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        if not callable(segmenter):
            raise InputError(f"blackbox {type(segmenter).__name__}: must be an nn.Module or a callable")
        if output not in get_args(Output):
            raise InputError(f"blackbox: output '{output}' must be one of {', '.join(get_args(Output))}")
        if size is not None and scale is not None:
            raise InputError(f"blackbox: size {size} and scale {scale}; give one of them")
        if std is not None and min(std) <= 0:
            raise InputError(f"blackbox: std {tuple(std)} must be above 0")
        for name, value in (("size", min(size or (1,))), ("scale", scale or 1), ("multiple", multiple)):
            if value <= 0:
                raise InputError(f"blackbox: {name} {value} must be above 0")
        self.segmenter, self.soft, self.output, self.read = segmenter, soft, output, read
        self.classes = None if classes is None else tuple(classes)
        self.range, self.mean, self.std = range, mean, std
        self.size, self.scale, self.multiple = size, scale, multiple

    def to(self, device: torch.device | str) -> None:
        """Move a module; any other callable is given the images where they are."""
        if isinstance(self.segmenter, nn.Module):
            self.segmenter.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor, classes: int) -> Tensor:
        """What the calibration network of a model of k = `classes` sees of images [b c h w]: float32 [b k h w].

        Raises InputError, with what was returned and what is wanted, where the answer is no segmentation of them.
        """
        h, w = images.shape[-2:]
        resized = self._resized(self._normalised(images))
        x, crop = pad_to_multiple(resized, self.multiple)
        with _still(self.segmenter):
            returned = self.segmenter(self._where_it_is(x))
        answer = self._checked(tensor_of(returned if self.read is None else self.read(returned)), x, classes)
        if x.shape != resized.shape:
            answer = crop(_at_size(answer, (x.shape[-2], x.shape[-1])))
        answer = _at_size(answer.to(images.device), (h, w))
        if answer.is_floating_point():
            answer = self._probabilities(answer)
        return self._seen(answer, classes)

    def _normalised(self, images: Tensor) -> Tensor:
        low, high = self.range
        x = (images + 1) * ((high - low) / 2) + low
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                if len(values) != x.shape[1] and x.shape[1] != 1:
                    raise InputError(f"blackbox: {name} of {len(values)} numbers, images have {x.shape[1]} channels")
                per_channel = torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None]
                x = x - per_channel if name == "mean" else x / per_channel
        return x

    def _resized(self, x: Tensor) -> Tensor:
        size = self.size
        if self.scale is not None:
            size = round(x.shape[-2] * self.scale), round(x.shape[-1] * self.scale)
        if size is None or tuple(x.shape[-2:]) == size:
            return x
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)

    def _where_it_is(self, x: Tensor) -> Tensor:
        """Images on the device and in the floating type of a module's weights."""
        first = next(self.segmenter.parameters(), None) if isinstance(self.segmenter, nn.Module) else None
        if first is None:
            return x
        return x.to(first.device, first.dtype if first.is_floating_point() else x.dtype)

    def _checked(self, answer: Tensor, x: Tensor, classes: int) -> Tensor:
        """Integer maps [b h' w'] or floats [b j h' w'], j at least 2 unless `output` says what one channel is."""
        b, _, h, w = x.shape
        known = len(self.classes) if self.classes else classes
        got = f"blackbox: returned {str(answer.dtype).removeprefix('torch.')} {list(answer.shape)} for images {[*x.shape]}"
        wanted = f"wanted: logits or probabilities [{b}, {known}, {h}, {w}], or class ids [{b}, {h}, {w}] as integers"
        whole = not answer.is_floating_point()
        if answer.is_complex() or answer.ndim not in (3, 4) or len(answer) != b or 0 in answer.shape:
            raise InputError(f"{got}; {wanted}")
        if not _same_shape((answer.shape[-2], answer.shape[-1]), (h, w)):
            raise InputError(f"{got}; {wanted}, or of the same proportions")
        if whole and answer.ndim == 4 and answer.shape[1] == 1:
            answer = answer[:, 0]
        if answer.ndim == 3 and not whole:
            if not bool((answer == answer.round()).all()):
                raise InputError(f"{got}, which are no whole numbers; {wanted}")
            answer, whole = answer.long(), True
        if answer.ndim == 3:
            return answer
        j = answer.shape[1]
        if whole:
            answer = answer.float()
        elif not bool(answer.isfinite().all()):
            raise InputError(f"{got}, with values that are not finite; look at its weights and its normalisation")
        if j == 1 and self.output == "auto":
            raise InputError(f"{got}; say BlackBox(output='logits') or 'probabilities' for one channel of two classes")
        if max(j, 2) > known or (self.classes is not None and max(j, 2) != known):
            raise InputError(f"{got}; {wanted}; BlackBox(classes=...) says which class of the model each of its {j} is")
        return answer.float()

    def _probabilities(self, answer: Tensor) -> Tensor:
        """Of floats [b j h w], two classes for one channel."""
        if answer.shape[1] == 1:
            p = answer.sigmoid() if self.output == "logits" else answer.clamp(0, 1)
            return torch.cat([1 - p, p], 1)
        if self.output == "auto":
            probable = bool(((answer.sum(1) - 1).abs() <= SUM_TOLERANCE).all()) and bool((answer >= 0).all())
            return answer if probable else answer.softmax(1)
        return answer if self.output == "probabilities" else answer.softmax(1)

    def _seen(self, answer: Tensor, classes: int) -> Tensor:
        b, *_, h, w = answer.shape
        if answer.is_floating_point() and not self.soft:
            answer = class_maps(answer)
        if self.classes is not None:
            answer = _mapped(answer, self.classes, classes)
        return as_seen(answer, classes, (b, h, w))


def as_seen(answer: Tensor, classes: int, size: tuple[int, int, int], what: str = "blackbox") -> Tensor:
    """A black box's answer as the calibration network sees it: float32 [b k h w], k = `classes`.

    answer: integers [b h w], class ids with 255 where it is unknown; or probabilities [b j h w] of the first j of the
    classes. size: (b, h, w) of the images. Raises InputError for another shape, another class, or no probabilities.
    """
    b, h, w = size
    if (answer.ndim, len(answer), *answer.shape[-2:]) not in ((3, b, h, w), (4, b, h, w)):
        raise InputError(f"{what} of shape {list(answer.shape)}: must be [{b}, {h}, {w}] or [{b}, {classes}, {h}, {w}]")
    if answer.ndim == 3:
        if answer.is_floating_point() or answer.is_complex():
            raise InputError(f"{what} of {answer.dtype}, shape {list(answer.shape)}: class ids must be integers")
        other = answer[((answer < 0) | (answer >= classes)) & (answer != UNKNOWN)]
        if other.numel():
            raise InputError(
                f"{what}: holds class {int(other[0])}; the model has 0 to {classes - 1}, and {UNKNOWN} is unknown"
            )
        return one_hot_maps(answer.long(), classes)
    j = answer.shape[1]
    if j > classes:
        raise InputError(f"{what} of shape {list(answer.shape)}: {j} classes, the model has {classes}")
    soft = answer.float()
    if not bool(((soft >= -SUM_TOLERANCE) & (soft <= 1 + SUM_TOLERANCE)).all()):
        raise InputError(f"{what}: values from {float(soft.min()):g} to {float(soft.max()):g}; give probabilities")
    return F.pad(soft, (0, 0, 0, 0, 0, classes - j))


def with_seen(x: Tensor, seen: Tensor | None) -> Tensor:
    """[x, B(x)]: images [b c h w] and what is seen of a black box [b k h w], as the calibration network takes them."""
    return x if seen is None else torch.cat([x, seen], 1)


def tensor_of(returned: Any) -> Tensor:
    """The tensor in what segmenters return: itself, "out" of a dict, or `.logits`; InputError for anything else."""
    if isinstance(returned, Mapping):
        returned = next((returned[name] for name in ("out", "logits") if name in returned), returned)
    returned = getattr(returned, "logits", returned)
    if not isinstance(returned, Tensor):
        held = f" of {', '.join(map(str, returned))}" if isinstance(returned, Mapping) else ""
        raise InputError(
            f"blackbox: returned a {type(returned).__name__}{held}; wanted: a tensor, a dict with 'out' or 'logits' "
            "or an object with .logits; BlackBox(read=...) takes the tensor from anything else"
        )
    return returned


def _mapped(answer: Tensor, table: Sequence[int], classes: int) -> Tensor:
    """An answer in the black box's own classes in those of the model, by the table."""
    bad = [c for c in table if not (0 <= c < classes or c == UNKNOWN)]
    if bad:
        raise InputError(f"blackbox: classes holds {bad[0]}; the model has 0 to {classes - 1}, {UNKNOWN} is unknown")
    ids = torch.tensor([*table, UNKNOWN], device=answer.device)
    if not answer.is_floating_point():
        other = answer[((answer < 0) | (answer >= len(table))) & (answer != UNKNOWN)]
        if other.numel():
            raise InputError(f"blackbox: returned class {int(other[0])}; classes names 0 to {len(table) - 1}")
        return ids[answer.long().clamp_max(len(table))]
    which = one_hot_maps(ids[:-1, None, None], classes)[:, :, 0, 0]  # [j k], zeros for an unknown class
    return torch.einsum("bjhw,jk->bkhw", answer, which)


def _at_size(answer: Tensor, size: tuple[int, int]) -> Tensor:
    """An answer [b h w] of class ids or [b j h w] of floats at another size."""
    if tuple(answer.shape[-2:]) == size:
        return answer
    if answer.ndim == 3:
        return F.interpolate(answer[:, None].double(), size=size, mode="nearest-exact")[:, 0].long()
    return F.interpolate(answer, size=size, mode="bilinear", align_corners=False)


def _same_shape(found: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether a size is another one scaled, within a pixel: (h, w) each."""
    return (
        abs(found[1] - found[0] * wanted[1] / wanted[0]) <= 1 or abs(found[0] - found[1] * wanted[0] / wanted[1]) <= 1
    )


@contextmanager
def _still(segmenter: object) -> Iterator[None]:
    """A module in eval mode, all its parts in the mode they were in afterwards: no statistic and no weight changes."""
    training = [part for part in segmenter.modules() if part.training] if isinstance(segmenter, nn.Module) else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
