"""What every method is to its user: a distribution over segmentations of an image, to draw from, save and load."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from stochseg import hub
from stochseg.data.pixel_files import Windows
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.models.calibrated import Calibrated, Coverage
from stochseg.models.model_files import numbered_classes
from stochseg.models.precision import autocast, resolve_precision
from stochseg.models.saved import load_model, save_model
from stochseg.models.temperature import check_temperature
from stochseg.sampling.orientations import check_orientations, mean_over_orientations, sample_oriented
from stochseg.sampling.tiling import Tile, Tiling, tiling_of


class Segmenter(ABC):
    """Images [b c h w] in [-1, 1] in; class maps [b n h w] and their marginals [b k h w] out.

    classes: their number, or a ClassInfo each. channels: of the images; grey ones are repeated where it is 3. size:
    (h, w) in training. A subclass sets `networks` and says how they are trained and drawn from.
    """

    method: ClassVar[str]
    """Its name in `METHODS`."""
    passes: ClassVar[int] = 1
    """Forward passes that a sample takes."""
    takes_blackbox: bool = False
    """Whether it was built on a black box, and so sees its answer beside each image."""
    takes_tiles: ClassVar[bool] = False
    """Whether large images can be sampled in tiles under one z."""
    networks: nn.ModuleDict

    def __init__(
        self, classes: int | Sequence[ClassInfo], channels: int, size: tuple[int, int], precision: str = "float32"
    ) -> None:
        self.classes = numbered_classes(classes) if isinstance(classes, int) else list(classes)
        if len(self.classes) < 2:
            raise InputError(f"classes {len(self.classes)}: a segmentation needs at least 2")
        self.channels, self.size, self.precision = channels, size, precision
        self.windows: Windows = None
        """How images became the bytes that it was trained on, where they were of more bits."""
        self.calibrated: Calibrated | None = None
        self.orientations = 1
        self.card = ""
        """The text of README.md beside the weights that it was loaded from."""

    @property
    @abstractmethod
    def latent(self) -> int:
        """Length of z."""

    @abstractmethod
    def marginals(self, images: Tensor, blackbox: Tensor | None = None, tile: Tile = None) -> Tensor:
        """`probabilities` of the images as they are."""

    @abstractmethod
    def draw(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> Tensor:
        """Class maps uint8 [b n h w] for images x and what is seen of a black box, as the networks take them, and z [b n z]."""

    def logits(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits [b n k h w], whose argmax `draw` gives, and q [b k h w] where it comes by the way: what can be exported.

        A function of tensors alone, in float32; InputError where the method draws more noise than z holds.
        """
        raise InputError(
            f"the method {self.method} draws noise beyond z, which no graph can hold; export car or probabilistic-unet"
        )

    @abstractmethod
    def configs(self) -> dict[str, Any]:
        """The fields of the training config that describe the networks, by name."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `load` needs beside the weights and what is the same for every method, as plain JSON."""

    @classmethod
    @abstractmethod
    def from_facts(cls, facts: Mapping[str, Any], precision: str, calibration: nn.Module | None) -> Self:
        """The same networks without their weights; KeyError, TypeError or ValueError where facts are damaged."""

    def probabilities(self, images: Tensor, blackbox: Tensor | None = None, tile: Tile = None) -> Tensor:
        """The calibrated marginals q, float32 [b k h w], of images [b c h w] in [-1, 1]; blackbox, tile: see `sample`."""
        if self.orientations == 1:
            return self.marginals(images, blackbox, tile)
        return mean_over_orientations(
            lambda x, seen: self.marginals(x, seen, tile), images, blackbox, self.orientations
        )

    @torch.no_grad()
    def sample(
        self,
        images: Tensor,
        n: int = 16,
        generator: torch.Generator | None = None,
        blackbox: Tensor | None = None,
        z: Tensor | None = None,
        tile: Tile = None,
    ) -> Tensor:
        """Class maps uint8 [b n h w] for images [b c h w] in [-1, 1].

        generator: a CPU generator for z; z [b n z] may be given instead, then n is its own. blackbox: what a model over a
        black box needs where none is attached, class ids [b h w] (255: unknown) or probabilities [b k h w]. tile: how
        images larger than those of training are taken. None: as a whole; a side in pixels: in overlapping tiles of it,
        under one z for the whole image; "auto": in tiles of the training size, where the method can. Images in tiles
        take z [b n z], or as `tiling(h, w).widened(z)` gives it.
        """
        if n < 1:
            raise InputError(f"n {n}: draw at least 1 sample")
        if z is None:
            z = torch.randn(len(images), n, self.latent, generator=generator)
        if self.orientations == 1:
            return self._sample(images, z, blackbox, tile)
        self._check_latents(z, len(self.as_input(images)))
        return sample_oriented(
            lambda x, its, seen: self._sample(x, its, seen, tile), images, z, blackbox, self.orientations
        )

    def _sample(self, images: Tensor, z: Tensor, blackbox: Tensor | None, tile: Tile) -> Tensor:
        x = self.as_input(images)
        seen = self.as_seen(x, blackbox)
        tiling = self.tiling((x.shape[-2], x.shape[-1]), tile)
        if tiling is None:
            self._check_latents(z, len(x))
            return self.draw(x, z, seen)
        if z.shape[-1] != self.latent + tiling.cells:
            self._check_latents(z, len(x))
            z = tiling.widened(z)
        return torch.cat(
            [
                self.draw_tiled(x[i : i + 1], z[i : i + 1], None if seen is None else seen[i : i + 1], tiling)
                for i in range(len(x))
            ]
        )

    def tiling(self, size: tuple[int, int], tile: Tile = "auto") -> Tiling | None:
        """How an image of this size (h, w) is cut; None where it is taken as a whole. InputError where it cannot be cut."""
        if self.takes_tiles:
            return tiling_of(size, tile, self.size)
        if isinstance(tile, int):
            raise InputError(f"--tiles {tile}: {self.method} draws an image as a whole; leave it out")
        return None

    def draw_tiled(self, x: Tensor, z: Tensor, seen: Tensor | None, tiling: Tiling) -> Tensor:
        """`draw` for one image in tiles; z: [1 n z + cells]. Only where `takes_tiles`."""
        raise NotImplementedError

    def coverage_sets(self, maps: Tensor, q: Tensor) -> Tensor:
        """The pixels that hold a new rater's outline of each class with the calibrated probability: bool [b k h w].

        maps: [b n h w] from `sample`, of which the first `coverage.samples` are used; q: [b k h w] from
        `probabilities`. The whole image for a class without a level, such as the background. Raises InputError where
        the model is not calibrated or there are fewer maps.
        """
        from stochseg.metrics.coverage import coverage_order, coverage_sets

        if self.coverage is None:
            raise InputError("this model holds no coverage levels; run `stochseg calibrate` on it first")
        n = self.coverage.samples
        if maps.ndim != 4 or maps.shape[1] < n:
            raise InputError(f"maps of shape {list(maps.shape)}: the coverage levels hold for {n} samples; draw {n}")
        return coverage_sets(coverage_order(maps[:, :n], q), self.coverage.levels)

    @property
    def temperature(self) -> tuple[float, ...] | None:
        """One a class, applied to log q wherever q is used, in sampling too; None is 1. Fitted by `stochseg calibrate`.

        Setting it forgets the coverage levels, which were fitted with the one before. Raises InputError for another
        number of them than classes, or one not above 0.
        """
        return self.calibrated.temperature if self.calibrated else None

    @temperature.setter
    def temperature(self, temperature: Sequence[float] | None) -> None:
        checked = None if temperature is None else check_temperature(temperature, len(self.classes))
        self.calibrated = None if checked is None else Calibrated(checked)

    @property
    def coverage(self) -> Coverage | None:
        """What `coverage_sets` goes by; None where `stochseg calibrate` has not run."""
        return self.calibrated.coverage if self.calibrated else None

    @property
    def orientations(self) -> int:
        """In how many orientations `sample` and `probabilities` see an image: 1, 2 (mirrored too) or 8 (turned too).

        Each sample is drawn in one of them, at random as its z says; q is their mean. For models whose training mirrored
        and turned images (input.flips, input.turns): the score is better, an image costs as many passes, and no more
        samples. Raises InputError for another number. z is [b n z] then, for tiles too.
        """
        return self._orientations

    @orientations.setter
    def orientations(self, count: int) -> None:
        check_orientations(count)
        self._orientations = count

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.networks.parameters()).device
        return device

    def with_networks(self, networks: nn.ModuleDict) -> Self:
        """The same object over other weights (averaged ones)."""
        other = copy.copy(self)
        other.networks = networks
        return other

    @property
    def needs_blackbox(self) -> bool:
        """Whether the black box's answers must come with the images, as from a store: it takes one, none is attached."""
        return self.takes_blackbox

    def attach(self, blackbox: Callable[..., Any]) -> None:
        """Ask this black box about every image from now on; InputError for a model that takes none."""
        raise InputError("blackbox: this model was built without a black box; leave it out")

    def as_seen(self, x: Tensor, blackbox: Tensor | None = None) -> Tensor | None:
        """What the networks see of a black box beside images x, float32 [b k h w]; None for a model that takes none."""
        if blackbox is not None:
            raise InputError("blackbox: this model was built without a black box; leave it out")
        return None

    def to(self, device: torch.device | str) -> Self:
        self.networks.to(device)
        return self

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write model.safetensors, config.json, the card README.md and what it was calibrated to: all that `load` needs."""
        save_model(self, Path(folder), card)

    def push_to_hub(
        self,
        repo: str,
        private: bool = False,
        revision: str | None = None,
        message: str = "Upload a stochseg model",
        token: str | None = None,
    ) -> str:
        """Upload to OWNER/NAME of the Hugging Face hub with the card of its run; returns the address of the commit.

        revision: a branch; default: main. InputError for a name that is none, RunError where the hub refuses.
        """
        return hub.push(self, repo, private, revision, message, token)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, token: str | None = None, **how: Any
    ) -> Self:
        """`load` of OWNER/NAME of the Hugging Face hub, or of a folder; how: what `load` takes beside the path."""
        local = Path(name).exists() or not hub.is_hub_name(Path(name))
        return cls.load(name if local else hub.fetch(str(name), revision, token), **how)

    @classmethod
    def load(
        cls,
        path: str | Path,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        calibration: nn.Module | None = None,
        blackbox: Callable[..., Any] | None = None,
    ) -> Self:
        """Load a run directory, an exported folder or OWNER/NAME of the hub: an object of the method it was trained with.

        calibration: needed where the model was built with a calibration module of one's own; its weights are loaded.
        blackbox: the segmenter that a model over a black box asks about every image; without it, answers are given with
        the images.
        Raises InputError where there is no model, it does not fit, or is of another method than the class asked for.
        """
        model = load_model(cls, Path(path), precision, calibration)
        if blackbox is not None:
            model.attach(blackbox)
        return model.to(device)

    def as_input(self, images: Tensor) -> Tensor:
        """Images [b c h w] in [-1, 1] as the networks take them; grey is repeated where they take three channels."""
        if images.ndim == 4 and images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.ndim != 4 or images.shape[1] != self.channels or not images.numel():
            raise InputError(
                f"images of shape {list(images.shape)}: must be [b {self.channels} h w], in [-1, 1], and at least one"
            )
        return images.to(self.device, torch.float32).contiguous(memory_format=torch.channels_last)

    def _check_latents(self, z: Tensor, images: int) -> None:
        if z.ndim != 3 or z.shape[0] != images or z.shape[1] < 1 or z.shape[2] != self.latent:
            raise InputError(f"z of shape {list(z.shape)}: must be [{images} n {self.latent}]")

    def _autocast(self) -> torch.autocast:
        return autocast(resolve_precision(self.precision, self.device), self.device)


def load(
    path: str | Path,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    calibration: nn.Module | None = None,
    blackbox: Callable[..., Any] | None = None,
) -> Segmenter:
    """The model of a run directory, an exported folder or the hub, whatever its method; arguments as `Segmenter.load`."""
    return Segmenter.load(path, precision, device, calibration, blackbox)
