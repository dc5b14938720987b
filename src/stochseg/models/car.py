"""The user's object: calibrated adversarial refinement, trained or to be trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from stochseg.config import CalibrationConfig, DiscriminatorConfig, RefinementConfig, to_plain
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.models.blackbox import BlackBox, as_seen, with_seen
from stochseg.models.build import build_calibration, build_discriminator, build_refinement
from stochseg.models.class_maps import class_maps, one_hot_maps
from stochseg.models.inference import ready
from stochseg.models.interfaces import RefinementNet
from stochseg.models.model_files import as_tuples, classes_of
from stochseg.models.precision import resolve_precision
from stochseg.models.segmenter import Segmenter
from stochseg.models.temperature import temper
from stochseg.models.unet import UNet
from stochseg.presets import load_config
from stochseg.sampling.orientations import all_orientations, turned_back
from stochseg.sampling.sample import decode_in_chunks
from stochseg.sampling.tiles import draw_tiled, tiled_marginals
from stochseg.sampling.tiling import Tile, Tiling


class CAR(Segmenter):
    """A distribution over segmentations of an image: q = F(x), or F([x, B(x)]) over a black box; sample = G([x, q], z).

        model = CAR.load("runs/lidc")
        maps = model.sample(images, n=16)          # uint8 [b n h w]; images float [b c h w] in [-1, 1]

    classes: their number, or a ClassInfo each. channels: of the images; grey ones are repeated where it is 3. size:
    (h, w) in training: evaluation crops to it, and the paper's discriminator takes no other. calibration: a config,
    or any module that maps images [b c h w] to logits [b k h w] and takes the place of F. discriminator: None leaves
    it out. config: a preset or YAML file whose networks these are where none is given here; without it, film refines.
    seed: of the initial weights. blackbox: B, any segmenter that is asked about every image and never changed
    (see `BlackBox`), or "saved": its answers come with the images. F then takes [b c+k h w], B's classes after the image.
    """

    method = "car"
    takes_tiles = True

    def __init__(
        self,
        classes: int | Sequence[ClassInfo] = 2,
        channels: int = 1,
        size: tuple[int, int] = (64, 64),
        calibration: CalibrationConfig | nn.Module | None = None,
        refinement: RefinementConfig | None = None,
        discriminator: DiscriminatorConfig | None = None,
        seed: int = 0,
        precision: str = "float32",
        blackbox: Callable[..., Any] | Literal["saved"] | None = None,
        config: str | Path | None = None,
    ) -> None:
        super().__init__(classes, channels, size, precision)
        if config is not None:
            preset = load_config(str(config), {"steps": 1})  # a config without a budget describes networks too
            calibration = preset.calibration if calibration is None else calibration
            refinement = refinement or preset.refinement
            discriminator = discriminator or (preset.discriminator if preset.objective.adversarial else None)
        self.takes_blackbox = blackbox is not None
        self.blackbox: BlackBox | None = None
        self.soft_blackbox = False
        if blackbox is not None and blackbox != "saved":
            self.attach(blackbox)
        self.architecture: dict[str, Any] = {
            "calibration": None if isinstance(calibration, nn.Module) else (calibration or CalibrationConfig()),
            "refinement": refinement or RefinementConfig(),
            "discriminator": discriminator,
        }
        k = len(self.classes)
        seen = channels + k * self.takes_blackbox
        with torch.random.fork_rng([]):  # the weights are drawn on the CPU
            torch.manual_seed(seed)
            nets = {
                "calibration": calibration
                if isinstance(calibration, nn.Module)
                else build_calibration(self.architecture["calibration"], seen, k, self.takes_blackbox),
                "refinement": build_refinement(self.architecture["refinement"], channels, k),
            }
            if discriminator is not None:
                nets["discriminator"] = build_discriminator(discriminator, channels, k, size)
        self.networks = nn.ModuleDict(nets).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks.eval()
        self.soft_blackbox = self._soft  # now that there is a network to tell

    @property
    def soft_blackbox(self) -> bool:
        """Whether training saw the black box's probabilities, not its likeliest classes alone."""
        return self._soft

    @soft_blackbox.setter
    def soft_blackbox(self, soft: bool) -> None:
        self._soft = soft
        network = self.networks["calibration"] if hasattr(self, "networks") else None
        if isinstance(network, UNet):
            network.of_maps = not soft

    @property
    def calibration(self) -> nn.Module:
        return self.networks["calibration"]

    @property
    def refinement(self) -> RefinementNet:
        return cast(RefinementNet, self.networks["refinement"])

    @property
    def discriminator(self) -> nn.Module | None:
        return self.networks["discriminator"] if "discriminator" in self.networks else None

    def _ready(self, name: str) -> Any:
        """The network of this name to draw from, not to train; a module of the user's stays as it is."""
        ours = self.architecture[name] is not None
        low = resolve_precision(self.precision, self.device) == torch.bfloat16
        return ready(self.networks[name]) if ours and low else self.networks[name]

    @property
    def latent(self) -> int:
        """Length of z."""
        return self.refinement.latent

    @property
    def needs_blackbox(self) -> bool:
        return self.takes_blackbox and self.blackbox is None

    def attach(self, blackbox: Callable[..., Any]) -> None:
        if not self.takes_blackbox:
            super().attach(blackbox)
        self.blackbox = blackbox if isinstance(blackbox, BlackBox) else BlackBox(blackbox, soft=self.soft_blackbox)
        self.soft_blackbox = self.blackbox.soft

    def as_seen(self, x: Tensor, blackbox: Tensor | None = None) -> Tensor | None:
        if not self.takes_blackbox:
            return super().as_seen(x, blackbox)
        k = len(self.classes)
        if blackbox is not None:
            seen = as_seen(blackbox.to(x.device), k, (len(x), x.shape[-2], x.shape[-1]))
        elif self.blackbox is not None:
            seen = self.blackbox(x, k)
        else:
            raise InputError(
                "this model was built on a black box; give its answer for the images as blackbox=, or attach the segmenter "
                "itself: load(..., blackbox=...)"
            )
        return seen.contiguous(memory_format=torch.channels_last)

    def to(self, device: torch.device | str) -> Self:
        if self.blackbox is not None:
            self.blackbox.to(device)
        return super().to(device)

    def marginals(self, images: Tensor, blackbox: Tensor | None = None, tile: Tile = None) -> Tensor:
        x = self.as_input(images)
        seen = self.as_seen(x, blackbox)
        tiling = self.tiling((x.shape[-2], x.shape[-1]), tile)
        if tiling is None:
            return self._marginals(x, seen)
        seen_each = [None] * len(x) if seen is None else seen.split(1)
        return torch.cat(
            [tiled_marginals(self._marginals, one, its, tiling) for one, its in zip(x.split(1), seen_each, strict=True)]
        )

    @torch.no_grad()
    def _marginals(self, x: Tensor, seen: Tensor | None) -> Tensor:
        self.networks.eval()
        with self._autocast():
            logits: Tensor = self._ready("calibration")(with_seen(x, seen))
        return self._calibrated_q(logits)

    def _calibrated_q(self, logits: Tensor) -> Tensor:
        if self.temperature is None:
            return logits.float().softmax(1)
        return temper(logits.float().log_softmax(1), self.temperature)

    def logits(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        q = self._calibrated_q(self.calibration(with_seen(x, seen)))
        return self.refinement.decode(self.refinement.encode(x, q), z), q

    @torch.no_grad()
    def refine(self, images: Tensor, q: Tensor, z: Tensor) -> Tensor:
        """Soft samples, float32 [b n k h w], for images [b c h w], q [b k h w] and z [b n z]: a pure function."""
        x = self.as_input(images)
        self.networks.eval()
        self._check_latents(z, len(x))
        with self._autocast():
            return decode_in_chunks(self._ready("refinement"), x, q.to(self.device), z.to(self.device), soft=True)

    @torch.no_grad()
    def hypotheses(self, images: Tensor, blackbox: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All maps that `sample` can draw, uint8 [b m+1 h w], and how likely each is, float32 [b m+1], rows summing to 1.

        The first map is the empty one; others may be equal to each other. In several `orientations` there are m+1 of each,
        one orientation after the other. InputError where refinement.net is another than hypotheses: such samples have no
        list.
        """
        maps, chances = [], []
        for o, x, seen in all_orientations(images, blackbox, self.orientations):
            found, likely = self._list(x, seen)
            maps.append(turned_back(found, o))
            chances.append(likely / self.orientations)
        return torch.cat(maps, 1), torch.cat(chances, 1)

    def _list(self, images: Tensor, blackbox: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.as_input(images)
        q = self._marginals(x, self.as_seen(x, blackbox))
        z = torch.zeros(len(x), 1, self.latent, device=self.device)
        with self._autocast():
            shapes, choice = self.refinement.hypotheses(self.refinement.encode(x, q), z)
        if choice is None or choice.weights is None:
            raise InputError(
                "hypotheses: this model draws shapes without number; train with --refinement.net hypotheses"
            )
        maps = class_maps(shapes)
        nothing = choice.drawn[:, None]
        return torch.cat([torch.zeros_like(maps[:, :1]), maps], 1), torch.cat(
            [nothing, (1 - nothing) * choice.weights], 1
        )

    def draw(self, x: Tensor, z: Tensor, seen: Tensor | None = None) -> Tensor:
        q = self._marginals(x, seen)
        with self._autocast():
            return decode_in_chunks(self._ready("refinement"), x, q, z.to(self.device))

    def draw_tiled(self, x: Tensor, z: Tensor, seen: Tensor | None, tiling: Tiling) -> Tensor:
        q = tiled_marginals(self._marginals, x, seen, tiling)
        with self._autocast():
            return draw_tiled(self._ready("refinement"), x, q, z.to(self.device), tiling)

    @torch.no_grad()
    def score(self, images: Tensor, maps: Tensor) -> Tensor:
        """The discriminator's probability, float32 [b n], that each of the maps [b n h w] is a rater's."""
        from stochseg.models.discriminator import probability

        if self.discriminator is None:
            raise InputError("this model holds no discriminator; train with --objective.adversarial above 0")
        x = self.as_input(images)
        b, n = maps.shape[:2]
        one_hot = one_hot_maps(maps.to(self.device), len(self.classes)).flatten(0, 1)
        logit = self.discriminator(x.repeat_interleave(n, 0), one_hot)
        return probability(logit.float()).view(b, n)

    def configs(self) -> dict[str, Any]:
        """The configs of the networks that were built from one, by name."""
        return {name: config for name, config in self.architecture.items() if config is not None}

    def facts(self) -> dict[str, Any]:
        nets = {name: to_plain(config) if config else None for name, config in self.architecture.items()}
        return {"blackbox": self.takes_blackbox, "soft_blackbox": self.soft_blackbox} | nets

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], precision: str, calibration: nn.Module | None) -> Self:
        if facts["calibration"] is None and calibration is None:
            raise InputError(
                "was built with a calibration module of its own; give it as `calibration=` to CAR.load or evaluate"
            )
        model = cls(
            classes_of(facts),
            facts["channels"],
            tuple(facts["size"]),
            calibration or CalibrationConfig(**as_tuples(facts["calibration"]) | {"pretrained": None}),
            RefinementConfig(**as_tuples(facts["refinement"])),
            DiscriminatorConfig(**facts["discriminator"]) if facts["discriminator"] else None,
            precision=precision,
            blackbox="saved" if facts.get("blackbox") else None,
        )
        model.soft_blackbox = bool(facts.get("soft_blackbox"))
        return model
