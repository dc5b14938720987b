"""The user's object: calibrated adversarial refinement, trained or to be trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from stochseg.config import CalibrationConfig, DiscriminatorConfig, RefinementConfig, to_plain
from stochseg.data.store import ClassInfo
from stochseg.errors import InputError
from stochseg.models.build import build_calibration, build_discriminator, build_refinement
from stochseg.models.calibrated import Calibrated, Coverage, forget_calibrated, read_calibrated
from stochseg.models.interfaces import RefinementNet
from stochseg.models.precision import autocast, resolve_precision
from stochseg.models.temperature import check_temperature, temper
from stochseg.sampling.sample import decode_in_chunks

FORMAT = "stochseg-model"
VERSION = 1


class CAR:
    """A distribution over segmentations of an image: q = F(x), sample = G([x, q], z).

        model = CAR.load("runs/lidc")
        maps = model.sample(images, n=16)          # uint8 [b n h w]; images float [b c h w] in [-1, 1]

    classes: their number, or a ClassInfo each. channels: of the images; grey ones are repeated where it is 3. size:
    (h, w) in training: evaluation crops to it, and the paper's discriminator takes no other. calibration: a config,
    or any module that maps images [b c h w] to logits [b k h w] and takes the place of F. discriminator: None leaves
    it out. seed: of the initial weights.
    """

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
    ) -> None:
        self.classes = numbered_classes(classes) if isinstance(classes, int) else list(classes)
        if len(self.classes) < 2:
            raise InputError(f"classes {len(self.classes)}: a segmentation needs at least 2")
        self.channels, self.size = channels, size
        self.architecture: dict[str, Any] = {
            "calibration": None if isinstance(calibration, nn.Module) else (calibration or CalibrationConfig()),
            "refinement": refinement or RefinementConfig(),
            "discriminator": discriminator,
        }
        k = len(self.classes)
        with torch.random.fork_rng([]):  # the weights are drawn on the CPU
            torch.manual_seed(seed)
            nets = {
                "calibration": calibration
                if isinstance(calibration, nn.Module)
                else build_calibration(self.architecture["calibration"], channels, k),
                "refinement": build_refinement(self.architecture["refinement"], channels, k),
            }
            if discriminator is not None:
                nets["discriminator"] = build_discriminator(discriminator, channels, k, size)
        self.networks = nn.ModuleDict(nets).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks.eval()
        self.precision = precision
        self.calibrated: Calibrated | None = None

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
    def calibration(self) -> nn.Module:
        return cast(nn.Module, self.networks["calibration"])

    @property
    def refinement(self) -> RefinementNet:
        return cast(RefinementNet, self.networks["refinement"])

    @property
    def discriminator(self) -> nn.Module | None:
        return cast(nn.Module, self.networks["discriminator"]) if "discriminator" in self.networks else None

    @property
    def latent(self) -> int:
        """Length of z."""
        return self.refinement.latent

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.networks.parameters()).device
        return device

    def with_networks(self, networks: nn.ModuleDict) -> CAR:
        """The same object over other weights (averaged ones)."""
        other = copy.copy(self)
        other.networks = networks
        return other

    def to(self, device: torch.device | str) -> Self:
        self.networks.to(device)
        return self

    @torch.no_grad()
    def probabilities(self, images: Tensor, blackbox: Tensor | None = None) -> Tensor:
        """The calibrated marginals q, float32 [b k h w], of images [b c h w] in [-1, 1]."""
        x = self.as_input(images, blackbox)
        self.networks.eval()
        with self._autocast():
            logits: Tensor = self.calibration(x)
        if self.temperature is None:
            return logits.float().softmax(1)
        return temper(logits.float().log_softmax(1), self.temperature)

    @torch.no_grad()
    def refine(self, images: Tensor, q: Tensor, z: Tensor) -> Tensor:
        """Soft samples, float32 [b n k h w], for images [b c h w], q [b k h w] and z [b n z]: a pure function."""
        x = self.as_input(images)
        self.networks.eval()
        self._check_latents(z, len(x))
        with self._autocast():
            return decode_in_chunks(self.refinement, x, q.to(self.device), z.to(self.device), soft=True)

    @torch.no_grad()
    def sample(
        self,
        images: Tensor,
        n: int = 16,
        generator: torch.Generator | None = None,
        blackbox: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        """Class maps uint8 [b n h w] for images [b c h w] in [-1, 1]; one forward pass a sample.

        generator: a CPU generator for z; z [b n z] may be given instead.
        """
        x = self.as_input(images, blackbox)
        if n < 1:
            raise InputError(f"n {n}: draw at least 1 sample")
        if z is None:
            z = torch.randn(len(x), n, self.latent, generator=generator)
        self._check_latents(z, len(x))
        q = self.probabilities(images, blackbox)
        with self._autocast():
            return decode_in_chunks(self.refinement, x, q, z.to(self.device))

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

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write model.safetensors, config.json, the card README.md and what it was calibrated to: all that `load` needs."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.networks.state_dict().items()}
        forget_calibrated(folder)
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.facts(), indent=1))
        (folder / "README.md").write_text(card or "A stochseg model. Load with `stochseg.CAR.load(folder)`.\n")
        if self.calibrated:
            self.calibrated.write(folder)

    def configs(self) -> dict[str, Any]:
        """The configs of the networks that were built from one, by name."""
        return {name: config for name, config in self.architecture.items() if config is not None}

    def facts(self) -> dict[str, Any]:
        """What `load` needs beside the weights, as plain JSON."""
        from stochseg import __version__

        nets = {name: to_plain(config) if config else None for name, config in self.architecture.items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            "stochseg": __version__,
            "channels": self.channels,
            "size": list(self.size),
            "classes": [asdict(c) for c in self.classes],
            **nets,
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        calibration: nn.Module | None = None,
    ) -> CAR:
        """Load a run directory or an exported folder. Raises InputError where there is no model or it does not fit.

        calibration: needed where the model was built with a calibration module of one's own; its weights are loaded.
        """
        folder = model_folder(Path(path))
        file = folder / "config.json"
        try:
            facts = json.loads(file.read_text())
            if facts.get("format") != FORMAT or facts.get("version", 0) > VERSION:
                raise InputError(
                    f"{file}: format {facts.get('format')} {facts.get('version')}; update stochseg or retrain"
                )
            if facts["calibration"] is None and calibration is None:
                raise InputError(
                    f"{file}: was built with a calibration module of its own; give it as `calibration=` to CAR.load or evaluate"
                )
            model = cls(
                [ClassInfo(c["name"], tuple(c["color"])) for c in facts["classes"]],
                facts["channels"],
                tuple(facts["size"]),
                calibration or CalibrationConfig(**_tuples(facts["calibration"]) | {"pretrained": None}),
                RefinementConfig(**_tuples(facts["refinement"])),
                DiscriminatorConfig(**facts["discriminator"]) if facts["discriminator"] else None,
                precision=precision,
            )
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: damaged or of another version ({error}); copy or train the model again"
            ) from error
        load_weights(model.networks, folder / "model.safetensors")
        model.calibrated = read_calibrated(folder, len(model.classes))
        return model.to(device)

    def as_input(self, images: Tensor, blackbox: Tensor | None = None) -> Tensor:
        """Images [b c h w] in [-1, 1] as the networks take them; grey is repeated where they take three channels."""
        if blackbox is not None:
            raise InputError("blackbox: this model was built without a black box; leave it out")
        if images.ndim == 4 and images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise InputError(f"images of shape {list(images.shape)}: must be [b {self.channels} h w], in [-1, 1]")
        return images.to(self.device, torch.float32).contiguous(memory_format=torch.channels_last)

    def _check_latents(self, z: Tensor, images: int) -> None:
        if z.ndim != 3 or z.shape[0] != images or z.shape[1] < 1 or z.shape[2] != self.latent:
            raise InputError(f"z of shape {list(z.shape)}: must be [{images} n {self.latent}]")

    def _autocast(self) -> torch.autocast:
        return autocast(resolve_precision(self.precision, self.device), self.device)


def numbered_classes(count: int) -> list[ClassInfo]:
    """Classes without names: 'class 0', 'class 1', ... in well separated colours."""
    import colorsys

    def color(index: int) -> tuple[int, int, int]:
        r, g, b = colorsys.hsv_to_rgb(0.61803 * index % 1, 0.7, 0.9)
        return (round(255 * r), round(255 * g), round(255 * b)) if index else (0, 0, 0)

    return [ClassInfo(f"class {i}", color(i)) for i in range(count)]


def one_hot_maps(maps: Tensor, classes: int) -> Tensor:
    """Integer maps [... h w] to float32 [... k h w]; a value outside the classes (a missing rater's 255) is all zero."""
    ids = torch.arange(classes, device=maps.device, dtype=maps.dtype)
    return (maps.unsqueeze(-3) == ids[:, None, None]).float()


def model_folder(path: Path) -> Path:
    """The folder with config.json and model.safetensors of a run directory or an exported folder."""
    for folder in (path / "model", path):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    if not path.exists():
        raise InputError(f"{path}: no such run; train one with `stochseg train --out {path}`")
    if not path.is_dir() or (path / "index.json").is_file():
        kind = "store" if path.is_dir() else "file"
        raise InputError(f"{path}: is a {kind}, no run; give the folder of a run or of an exported model")
    raise InputError(f"{path}: holds no model yet; let the training reach its first validation, or train again")


def load_weights(networks: nn.Module, file: Path) -> None:
    """Load a safetensors file into the networks; InputError names what is missing, unknown or of another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: damaged or not readable ({error}); copy or train the model again") from error
    own = networks.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        raise InputError(f"{file}: does not fit its config.json at {_few(wrong)}")
    networks.load_state_dict(state)


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tuples(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
