"""The black box: what the calibration network sees of it, live or from a store, and that it is never changed."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import stochseg
from stochseg.config import CalibrationConfig, InputConfig, RefinementConfig
from stochseg.data.batches import Batches, augment, in_order
from stochseg.data.store import LESION_CLASSES, open_store
from stochseg.data.store_writer import StoreWriter
from stochseg.errors import InputError
from stochseg.evaluation import evaluate
from stochseg.models.blackbox import BlackBox, as_seen
from stochseg.models.unet import UNet
from stochseg.training.run import train

from .conftest import write_blobs

SMALL: dict[str, Any] = {
    "calibration": CalibrationConfig(net="convnet", width=8, dropout=0),
    "refinement": RefinementConfig(widths=(8, 16)),
}
QUICK: dict[str, Any] = {
    "input.crop": None, "calibration.net": "convnet", "calibration.width": 8, "refinement.widths": [8, 16],
    "training.batch": 6, "training.log_every": 1, "training.cosine": False, "validation.images": 4,
    "validation.samples": 4, "precision": "float32", "objective.samples": 2,
}  # fmt: skip


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> Tensor:
    return seeded(3, 1, 20, 24).clamp(-1, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blobs whose black box is the second rater with a grain of unknown pixels, for `read_rows` to keep in place."""
    path = tmp_path_factory.mktemp("store") / "over"
    plain = open_store(write_blobs(path.with_name("plain"), {"train": 12, "val": 5}))
    with StoreWriter(path, classes=LESION_CLASSES, raters=2) as writer:
        for name, split in plain.splits.items():
            extras = {"blackbox": ((32, 32), np.uint8)}
            new = writer.add_split(name, split.ids, split.groups, (32, 32, 1), "made", extras)
            new.images[:], new.labels[:] = split.images, split.labels
            new.extras["blackbox"][:] = split.labels[:, 1]
            new.extras["blackbox"][:, 3, 4] = 255
    return path


def test_maps_are_seen_one_hot_and_soft_ones_as_they_are() -> None:
    maps = torch.tensor([[[0, 2], [1, 255]]], dtype=torch.uint8)
    seen = as_seen(maps, 3, (1, 2, 2))
    assert seen[0, :, 0, 0].tolist() == [1, 0, 0]
    assert seen[0, :, 0, 1].tolist() == [0, 0, 1]
    assert seen[0, :, 1, 1].tolist() == [0, 0, 0]
    soft = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert as_seen(soft, 4, (1, 2, 2))[0, :, 0, 0].tolist() == [0.75, 0.25, 0, 0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(1, 3, 3).long(), r"shape \[1, 3, 3\]: must be \[1, 2, 2\] or \[1, 3, 2, 2\]"),
        (torch.full((1, 2, 2), 7), "holds class 7; the model has 0 to 2, and 255 is unknown"),
        (torch.full((1, 2, 2), -1), "holds class -1"),
        (torch.zeros(1, 2, 2), "class ids must be integers"),
        (torch.zeros(1, 4, 2, 2), "4 classes, the model has 3"),
        (torch.full((1, 3, 2, 2), 4.0), "values from 4 to 4; give probabilities"),
        (torch.full((1, 3, 2, 2), torch.nan), "give probabilities"),
    ],
)
def test_what_is_no_answer_is_refused(answer: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_seen(answer, 3, (1, 2, 2))


def test_the_calibration_network_sees_the_black_box_and_refinement_does_not(images: Tensor) -> None:
    model = stochseg.CAR(3, 1, (20, 24), blackbox="saved", **SMALL)
    maps = torch.randint(0, 3, (3, 20, 24), generator=torch.Generator().manual_seed(1))
    one_hot = nn.functional.one_hot(maps, 3).movedim(-1, 1).float()
    q = model.probabilities(images, maps)
    with torch.no_grad():
        assert torch.allclose(q, model.calibration(torch.cat([images, one_hot], 1)).softmax(1), atol=1e-6)
    assert torch.equal(model.probabilities(images, one_hot), q)
    other = maps.clone()
    other[0, 5, 5] = (other[0, 5, 5] + 1) % 3
    assert (model.probabilities(images, other) - q)[0].abs().max() > 1e-4
    z = seeded(3, 2, model.latent)
    assert torch.equal(model.sample(images, z=z, blackbox=maps), model.refine(images, q, z).argmax(2).to(torch.uint8))


def test_with_a_residual_the_answer_starts_from_the_black_boxs(images: Tensor) -> None:
    """Before training q is what the black box says; a class that it lacks is learned from one that it has."""
    calibration = CalibrationConfig(widths=(8, 8), residual=True)
    small = RefinementConfig(widths=(8, 16))
    model = stochseg.CAR(3, 1, (20, 24), calibration, small, blackbox="saved")
    model.soft_blackbox = True
    said = torch.rand(3, 2, 20, 24, generator=torch.Generator().manual_seed(1))
    said = torch.cat([said / said.sum(1, keepdim=True), torch.zeros(3, 1, 20, 24)], 1)
    assert torch.allclose(model.probabilities(images, said), said, atol=4e-3)  # e^-7 of the other two, and a thousandth
    assert model.calibration(torch.cat([images, said], 1)).argmax(1).equal(said.argmax(1))
    certain = (
        nn.functional.one_hot(said.argmax(1), 3).movedim(-1, 1).float()
    )  # probabilities may be sure everywhere too
    assert torch.allclose(model.probabilities(images, certain), certain, atol=4e-3)
    nn.init.normal_(model.calibration.head.weight)
    model.soft_blackbox = False  # of class maps: what an ordinary network says that sees them
    ordinary = UNet(4, 3, (8, 8))
    ordinary.load_state_dict({k: v for k, v in model.calibration.state_dict().items() if k != "shown_as"})
    wanted = ordinary.eval()(torch.cat([images, certain], 1)).softmax(1)
    assert torch.allclose(model.probabilities(images, certain), wanted, atol=1e-5)
    nn.init.zeros_(model.calibration.head.weight)
    model.soft_blackbox = True
    sees = said[:, 1] > said[:, 0]
    optimiser = torch.optim.Adam(model.calibration.parameters(), lr=0.002)
    told = torch.stack([~sees, 0.6 * sees, 0.4 * sees], 1)  # what the black box sees as class 1 is in 40 % shown as 2
    for _ in range(200):
        loss = nn.functional.cross_entropy(model.calibration(torch.cat([images, said], 1)), told)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    q = model.probabilities(images, said)
    flipped = (q[:, 2] / q[:, 1:].sum(1))[sees]
    assert float(flipped.mean()) == pytest.approx(0.4, abs=0.1)
    assert float(flipped.std()) < 0.02  # one ratio everywhere
    alone = stochseg.CAR(3, 1, (20, 24), calibration, small)  # no black box: nothing to start from
    assert alone.calibration.shown_as is None


def test_a_model_wants_what_it_was_built_with(images: Tensor) -> None:
    model = stochseg.CAR(3, 1, (20, 24), blackbox="saved", **SMALL)
    for ask in (model.probabilities, model.sample):
        with pytest.raises(InputError, match=r"built on a black box; give its answer .* as blackbox=, or attach"):
            ask(images)
    plain = stochseg.CAR(3, 1, (20, 24), **SMALL)
    with pytest.raises(InputError, match="built without a black box"):
        plain.probabilities(images, torch.zeros(3, 20, 24).long())
    with pytest.raises(InputError, match="built without a black box"):
        plain.attach(nn.Identity())


class Segmenter(nn.Module):
    """With batch norm and dropout, which both differ between training and test."""

    def __init__(self, channels: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, classes, 1)
        )

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


@pytest.mark.parametrize("form", ["logits", "probabilities", "maps", "floats", "one map a channel"])
def test_any_form_of_answer_is_seen_alike(form: str, images: Tensor) -> None:
    net = Segmenter().eval()
    with torch.no_grad():
        logits = net(images)
    answers = {
        "logits": logits,
        "probabilities": logits.softmax(1),
        "maps": logits.argmax(1),
        "floats": logits.argmax(1).float(),
        "one map a channel": logits.argmax(1, keepdim=True),
    }
    seen = BlackBox(lambda x: answers[form])(images, 4)
    assert seen.shape == (3, 4, 20, 24)
    assert torch.equal(seen[:, :3].argmax(1), logits.argmax(1))
    assert torch.equal(seen.sum(1), torch.ones(3, 20, 24))
    if form in ("logits", "probabilities"):
        soft = BlackBox(lambda x: answers[form], soft=True)(images, 4)
        assert torch.allclose(soft[:, :3], logits.softmax(1), atol=1e-6)


class LikeTorchvision(Segmenter):
    def forward(self, x: Tensor) -> Any:
        return {"out": self.net(x), "aux": self.net(x).neg()}


class Output(dict):  # type: ignore[type-arg]
    """As transformers.utils.ModelOutput: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class LikeHuggingFace(Segmenter):
    """Logits at a quarter of the size, in an object."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
        return Output(logits=nn.functional.avg_pool2d(self.net(pixel_values), 4))


class LikeSegmentationModels(Segmenter):
    """Refuses sizes that are no multiples of 16."""

    def forward(self, x: Tensor) -> Any:
        if x.shape[-2] % 16 or x.shape[-1] % 16:
            raise RuntimeError(f"Wrong input shape height={x.shape[-2]}, width={x.shape[-1]}")
        return self.net(x)


@pytest.mark.parametrize("kind", [LikeTorchvision, LikeHuggingFace, LikeSegmentationModels])
def test_the_forms_of_known_libraries(kind: type[Segmenter], images: Tensor) -> None:
    net = kind().eval()
    seen = BlackBox(net, multiple=16 if kind is LikeSegmentationModels else 1, soft=True)(images, 3)
    with torch.no_grad():
        logits = net.net(images)
        if kind is LikeHuggingFace:
            small = nn.functional.avg_pool2d(logits, 4)
            logits = nn.functional.interpolate(small, size=(20, 24), mode="bilinear", align_corners=False)
    inner = (slice(None), slice(None), slice(0, 18), slice(0, 22))  # away from where padding is seen
    assert torch.allclose(seen[inner], logits.softmax(1)[inner], atol=1e-5)
    assert torch.allclose(seen.sum(1), torch.ones(3, 20, 24), atol=1e-5)


def test_another_form_is_read_by_a_function(images: Tensor) -> None:
    box = BlackBox(lambda x: ("features", {"mask": torch.ones(3, 20, 24).long()}), read=lambda out: out[1]["mask"])
    assert torch.equal(box(images, 2)[:, 1], torch.ones(3, 20, 24))
    with pytest.raises(InputError, match=r"returned a tuple; wanted: a tensor, a dict with 'out'"):
        BlackBox(lambda x: ("features", 1))(images, 2)
    with pytest.raises(InputError, match=r"returned a dict of masks"):
        BlackBox(lambda x: {"masks": x})(images, 2)


def test_it_gets_its_own_normalisation_and_size(images: Tensor) -> None:
    got: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        got.append(x)
        return torch.zeros(len(x), x.shape[-2], x.shape[-1]).long()

    mean, std = (0.5, 0.25, 0), (0.5, 0.25, 1)
    BlackBox(watch, range=(0, 1), mean=mean, std=std)(images, 2)
    for c in range(3):  # grey takes as many channels as mean has
        assert torch.allclose(got[-1][:, c], ((images[:, 0] + 1) / 2 - mean[c]) / std[c], atol=1e-6)
    BlackBox(watch, range=(0, 255))(images, 2)
    assert torch.allclose(got[-1], (images + 1) * 127.5, atol=1e-4)
    BlackBox(watch)(images, 2)
    assert torch.allclose(got[-1], images, atol=1e-6)
    assert BlackBox(watch, size=(40, 60))(images, 2).shape == (3, 2, 20, 24)
    assert got[-1].shape == (3, 1, 40, 60)
    BlackBox(watch, scale=0.5, multiple=8)(images, 2)
    assert got[-1].shape == (3, 1, 16, 16)  # 10x12, padded
    BlackBox(lambda x: watch(x.half()).float(), size=(20, 24))(images, 2)
    half = nn.Conv2d(1, 2, 1).half()
    assert BlackBox(half, range=(0, 1))(images, 2).dtype == torch.float32


def test_a_map_comes_back_in_place_through_another_size(images: Tensor) -> None:
    """Blocks of 4x4 pixels survive scaling by 2 and back exactly."""
    blocks = (seeded(3, 1, 5, 6, seed=2) > 0).float().repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    seen = BlackBox(lambda x: (x[:, 0] > 0).long(), scale=2)(blocks, 2)
    assert torch.equal(seen[:, 1], (blocks[:, 0] > 0).float())
    seen = BlackBox(lambda x: (x[:, 0] > 0).long(), multiple=32)(blocks, 2)
    assert torch.equal(seen[:, 1], (blocks[:, 0] > 0).float())


def test_its_classes_are_mapped_onto_the_models(images: Tensor) -> None:
    """Five classes, of which 1 and 3 are the model's 2, and 4 is none of them."""
    table = (0, 2, 1, 2, 255)
    ids = torch.randint(0, 5, (3, 20, 24), generator=torch.Generator().manual_seed(3))
    seen = BlackBox(lambda x: ids, classes=table)(images, 3)
    for ours in range(3):
        wanted = sum((ids == theirs).float() for theirs, to in enumerate(table) if to == ours)
        assert torch.equal(seen[:, ours], torch.as_tensor(wanted))
    p = seeded(3, 5, 20, 24, seed=4).softmax(1)
    soft = BlackBox(lambda x: p, classes=table, soft=True)(images, 3)
    assert torch.allclose(soft, torch.stack([p[:, 0], p[:, 2], p[:, 1] + p[:, 3]], 1), atol=1e-6)
    hard = BlackBox(lambda x: p, classes=table)(images, 3)
    assert torch.equal(hard, BlackBox(lambda x: p.argmax(1), classes=table)(images, 3))
    with pytest.raises(InputError, match=r"returned class [34]; classes names 0 to 2"):
        BlackBox(lambda x: ids, classes=(0, 1, 2))(images, 3)
    with pytest.raises(InputError, match="classes holds 7; the model has 0 to 2"):
        BlackBox(lambda x: ids, classes=(0, 1, 2, 7, 0))(images, 3)


def test_one_channel_must_be_said_what_it_is(images: Tensor) -> None:
    logit = seeded(3, 1, 20, 24, seed=5)
    with pytest.raises(InputError, match=r"say BlackBox\(output='logits'\)"):
        BlackBox(lambda x: logit)(images, 2)
    seen = BlackBox(lambda x: logit, output="logits", soft=True)(images, 2)
    assert torch.allclose(seen[:, 1], logit[:, 0].sigmoid(), atol=1e-6)
    assert torch.allclose(BlackBox(lambda x: logit.sigmoid(), output="probabilities", soft=True)(images, 2), seen)


@pytest.mark.parametrize(
    ("returns", "got"),
    [
        (lambda x: x[0], r"float32 \[1, 20, 24\] for images \[3, 1, 20, 24\]"),
        (lambda x: torch.zeros(3), r"float32 \[3\]"),
        (lambda x: torch.zeros(3, 5, 20, 24), r"float32 \[3, 5, 20, 24\].*which class of the model each of its 5 is"),
        (lambda x: torch.zeros(3, 20, 24, 3), r"\[3, 20, 24, 3\]"),
        (lambda x: torch.zeros(3, 3, 24, 20), r"\[3, 3, 24, 20\].*of the same proportions"),
        (lambda x: x[:, 0] * 0.5, r"\[3, 20, 24\].*no whole numbers"),
        (lambda x: torch.full((3, 3, 20, 24), torch.nan), "not finite"),
    ],
)
def test_a_callable_that_returns_the_wrong_shape(returns: Any, got: str, images: Tensor) -> None:
    model = stochseg.CAR(3, 1, (20, 24), blackbox=returns, **SMALL)
    with pytest.raises(InputError, match=f"blackbox: returned .*{got}") as caught:
        model.sample(images)
    if "finite" not in got:
        assert "wanted: logits or probabilities [3, 3, 20, 24], or class ids [3, 20, 24] as integers" in str(
            caught.value
        )


def test_options_of_a_black_box_are_checked() -> None:
    for options, message in (
        ({"output": "odds"}, "output 'odds'"),
        ({"size": (8, 8), "scale": 2.0}, "give one of them"),
        ({"std": (1, 0)}, "must be above 0"),
        ({"multiple": 0}, "multiple 0"),
    ):
        with pytest.raises(InputError, match=message):
            BlackBox(nn.Identity(), **options)
    with pytest.raises(InputError, match="must be an nn.Module or a callable"):
        BlackBox(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mean of 2 numbers, images have 3 channels"):
        BlackBox(nn.Identity(), mean=(0, 0))(torch.zeros(1, 3, 4, 4), 3)


def test_training_over_a_live_one_never_changes_it(tiny_store: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    box = Segmenter(classes=2).train()
    before = copy.deepcopy(box.state_dict())
    rest = {k: v for k, v in QUICK.items() if not k.startswith(("calibration", "refinement"))}

    def over(box: nn.Module) -> stochseg.CAR:
        return stochseg.CAR(2, 1, (32, 32), blackbox=box, **SMALL)

    model = over(box)
    start = {k: v.clone() for k, v in model.networks.state_dict().items()}
    run = train(model, tiny_store, tmp_path / "run", steps=4, **rest)
    assert box.training, "is left in the mode it was in"
    assert all(p.grad is None and p.requires_grad for p in box.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in box.state_dict().items())
    assert any(not torch.equal(start[k], v) for k, v in model.networks.state_dict().items() if k.startswith("calib"))
    saved = load_file(run / "model/model.safetensors")
    assert saved.keys() == start.keys()
    assert sum(v.numel() for v in saved.values()) == sum(v.numel() for v in start.values())
    images = next(iter(in_order(open_store(tiny_store).split("val"), 9, None))).images
    attached = stochseg.CAR.load(run, blackbox=box)
    assert torch.equal(attached.probabilities(images), model.probabilities(images))
    given = stochseg.CAR.load(run)
    maps = box.eval()(images).argmax(1)
    assert torch.equal(given.probabilities(images, maps), model.probabilities(images))
    with pytest.raises(InputError, match="split 'val' of the store holds no black box"):
        evaluate(run, tiny_store, "val", samples=2)
    assert evaluate(run, tiny_store, "val", samples=2, blackbox=box)["images"] == 9
    part = train(over(box), tiny_store, tmp_path / "part", steps=2, **rest)
    train(over(box), tiny_store, part, resume=True, steps=4)
    ours, theirs = (load_file(r / "checkpoint/state.safetensors") for r in (run, part))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_store_gives_the_black_box_in_training_and_test(store: Path, tmp_path: Path) -> None:
    run = train(data=store, out=tmp_path / "run", steps=3, **QUICK, **{"input.blackbox": True})
    model = stochseg.CAR.load(run)
    assert model.needs_blackbox
    assert model.calibration.blocks[0].conv.in_channels == 3  # type: ignore[index,union-attr]
    result = evaluate(run, store, "val", samples=4)
    batch = next(iter(in_order(open_store(store).split("val"), 5, None, blackbox=True)))
    assert batch.blackbox is not None
    with np.load(run / "evaluation/val_examples.npz") as examples:
        order = [open_store(store).split("val").ids.index(i) for i in examples["ids"]]
        q = model.probabilities(batch.images[order], batch.blackbox[order])
        assert np.allclose(examples["q"], q.numpy(), atol=0.02)
    assert result["images"] == 5
    own = stochseg.CAR(2, 1, (32, 32), blackbox="saved", **SMALL)
    rest = {k: v for k, v in QUICK.items() if not k.startswith(("calibration", "refinement"))}
    mine = train(own, store, tmp_path / "mine", steps=1, **rest)
    assert "blackbox: true" in (mine / "config.yaml").read_text()


def test_a_black_box_that_is_not_there_or_not_wanted(tiny_store: Path, store: Path, tmp_path: Path) -> None:
    wanted = QUICK | {"input.blackbox": True, "steps": 1}
    with pytest.raises(InputError, match=r"split 'train' of the store holds no black box.*blackbox import"):
        train(data=tiny_store, out=tmp_path / "run", **wanted)
    for more, message in (
        ({"method": "ssn"}, "--input.blackbox True: must be false: method ssn sees no black box"),
        ({"calibration.net": "none"}, "calibration.net none sees no black box"),
    ):
        with pytest.raises(InputError, match=message):
            train(data=store, out=tmp_path / "run", **wanted | more)
    plain = stochseg.CAR(2, 1, (32, 32), **SMALL)
    with pytest.raises(InputError, match="the model was built without a black box"):
        train(plain, store, tmp_path / "run", steps=1, **{"input.crop": None, "input.blackbox": True})
    assert not (tmp_path / "run").exists()
    model = stochseg.CAR(2, 1, (32, 32), **SMALL)
    model.save(tmp_path / "plain/model")
    assert evaluate(tmp_path / "plain", store, "val", samples=2)["images"] == 5


@pytest.mark.parametrize("rotate", [0, 30])
def test_it_is_cropped_and_varied_with_its_image(rotate: float, store: Path) -> None:
    """The black box is the second rater but for one pixel: so it must be after any crop, flip and turn."""
    split = open_store(store).split("train")
    config = InputConfig(crop=24, jitter=1, turns=True, intensity=0.2, rotate=rotate, scale=rotate / 100, blackbox=True)
    batch = Batches(split, 12, config, seed=0).at(0)
    assert batch.blackbox is not None
    known = batch.blackbox != 255
    for row in range(12):
        agrees = [bool((batch.blackbox[row] == m)[known[row]].all()) for m in batch.labels[row]]
        assert any(agrees)
    assert 0 < int((~known).sum()) <= (30 if rotate else 12)
    assert Batches(split, 12, InputConfig(crop=24), seed=0).at(0).blackbox is None


def test_asking_for_the_black_box_changes_nothing_else(store: Path) -> None:
    split = open_store(store).split("train")
    without, with_it = (Batches(split, 6, InputConfig(crop=24, jitter=1, blackbox=b), 1).at(2) for b in (False, True))
    assert torch.equal(without.images, with_it.images)
    assert torch.equal(without.labels, with_it.labels)


def test_soft_ones_move_too() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(16, 1, 8, 8, generator=g)
    soft = (torch.cat([images, 1 - images], 1) * 255).round().to(torch.uint8)
    labels = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
    batch = augment(images, torch.cat([labels, soft], 1), InputConfig(crop=None, intensity=0), g, raters=1)
    assert batch.labels.shape == (16, 1, 8, 8)
    assert batch.blackbox is not None
    assert torch.allclose(batch.blackbox[:, :1], (batch.images + 1) / 2, atol=0.5 / 255 + 1e-6)
    assert torch.allclose(batch.blackbox.sum(1), torch.ones(16, 8, 8), atol=1 / 254)


@pytest.mark.parametrize(
    ("shape", "dtype", "value", "message"),
    [
        ((16, 16), np.uint8, 0, r"blackbox.npy: uint8 \[1, 16, 16\]; class ids are uint8 \[1, 8, 8\]"),
        ((3, 8, 8), np.uint8, 0, r"\[1, 3, 8, 8\].*\[1, 2, 8, 8\] or of fewer classes"),
        ((1, 8, 8), np.uint8, 0, r"\[1, 1, 8, 8\]"),
        ((8, 8), np.float32, 0, "float32"),
        ((8, 8), np.uint8, 2, "image 'a' has class 2, the store has 0 to 1"),
    ],
)
def test_a_store_checks_its_black_box(shape: Any, dtype: Any, value: int, message: str, tmp_path: Path) -> None:
    def write() -> None:
        with StoreWriter(tmp_path / "s", classes=LESION_CLASSES, raters=1) as writer:
            extras = {"blackbox": (shape, dtype)}
            writer.add_split("train", ["a"], ["p"], (8, 8, 1), "made", extras).extras["blackbox"][:] = value

    with pytest.raises(InputError, match=message):
        write()
    assert list(tmp_path.iterdir()) == []
