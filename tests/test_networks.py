"""The paper's networks and our discriminator: sizes, samples, gradients, weights from files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from stochseg.errors import InputError
from stochseg.models import segnet as segnet_module
from stochseg.models.blocks import to_blocks, to_pixels
from stochseg.models.class_maps import class_maps, one_hot_maps
from stochseg.models.convnet import ConvNet, NoCalibration
from stochseg.models.discriminator import PixelDiscriminator, PooledDiscriminator, probability
from stochseg.models.film import FilmRefinement
from stochseg.models.hypotheses import EMBEDDING, TOKEN, Hypotheses
from stochseg.models.interfaces import Choice
from stochseg.models.padding import pad_to_multiple
from stochseg.models.refinement import Refinement
from stochseg.models.segnet import SegNet, load_imagenet_weights
from stochseg.models.unet import UNet
from stochseg.objectives.energy import energy_loss

CHANNELS, CLASSES, LATENT = 1, 3, 4
SIZES = [(37, 50), (32, 64), (5, 70), (2, 3)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _image(b: int, h: int, w: int, channels: int = CHANNELS) -> Tensor:
    return torch.randn(b, channels, h, w)


def _probabilities(b: int, h: int, w: int) -> Tensor:
    return torch.randn(b, CLASSES, h, w).softmax(1)


def _lived_in(net: nn.Module) -> nn.Module:
    """The network with norms that are not the identity, as after training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2)):
                assert tensor is not None
                tensor.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def _refinement(dropout: float = 0.1) -> Refinement:
    net = Refinement(CHANNELS, CLASSES, LATENT, width=4, dropout=dropout)
    _lived_in(net)
    return net.eval()


# --- sizes ---


@pytest.mark.parametrize("size", [*SIZES, (1, 4), (1, 1)])
def test_padding_reflects_and_crops_back(size: tuple[int, int]) -> None:
    x = _image(2, *size)
    padded, crop = pad_to_multiple(x, 16)
    below, right = -size[0] % 16, -size[1] % 16
    assert torch.equal(padded, torch.from_numpy(np.pad(x, ((0, 0), (0, 0), (0, below), (0, right)), mode="reflect")))
    assert torch.equal(crop(padded), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("build", [lambda: SegNet(CHANNELS, CLASSES, 4), lambda: ConvNet(CHANNELS, CLASSES, 4)])
def test_calibration_networks_take_any_size(build: Callable[[], nn.Module], size: tuple[int, int]) -> None:
    logits = build().eval()(_image(2, *size))
    assert logits.shape == (2, CLASSES, *size)
    assert logits.std() > 0


@pytest.mark.parametrize("size", SIZES)
def test_refinement_takes_any_size_as_if_reflected(size: tuple[int, int]) -> None:
    net, x, q, z = _refinement(), _image(2, *size), _probabilities(2, *size), torch.randn(2, 3, LATENT)
    wide, _ = pad_to_multiple(x, 16)
    wide_q, _ = pad_to_multiple(q, 16)
    logits = net(x, q, z)
    assert logits.shape == (2, 3, CLASSES, *size)
    assert torch.allclose(logits, net(wide, wide_q, z)[..., : size[0], : size[1]], atol=1e-5)


def test_segnet_sees_the_image_as_if_reflected() -> None:
    net, x = _lived_in(SegNet(CHANNELS, CLASSES, 4)).eval(), _image(1, 37, 50)
    wide, _ = pad_to_multiple(x, 32)
    assert torch.allclose(net(x), net(wide)[..., :37, :50], atol=1e-5)


def test_pooled_discriminator_takes_any_size_and_judges_each_pair_alone() -> None:
    net = PooledDiscriminator(CHANNELS, CLASSES, 4)
    for size in SIZES:
        x, maps = _image(3, *size), _probabilities(3, *size)
        logits = net(x, maps)
        assert logits.shape == (3,)
        assert torch.allclose(logits[1:2], net(x[1:2], maps[1:2]), atol=1e-6)


def test_pixel_discriminator_is_tied_to_its_size() -> None:
    net = PixelDiscriminator(CHANNELS, CLASSES, (37, 50), 4)
    assert net(_image(2, 37, 50), _probabilities(2, 37, 50)).shape == (2,)
    with pytest.raises(InputError, match=r"37x50 pixels and got 50x37; .*pooled"):
        net(_image(2, 50, 37), _probabilities(2, 50, 37))
    assert PixelDiscriminator(CHANNELS, CLASSES, (24, 24), 4).head.in_features == 4
    with pytest.raises(InputError, match=r"16x64 pixels are too small .*24x24.*pooled"):
        PixelDiscriminator(CHANNELS, CLASSES, (16, 64), 4)


def test_numbers_of_parameters_are_the_papers() -> None:
    def millions(net: nn.Module) -> float:
        return sum(p.numel() for p in net.parameters()) / 1e6

    assert round(millions(SegNet(3, 2)), 1) == 39.8
    assert round(millions(Refinement(3, 2, 8)), 2) == 0.62
    assert round(millions(PixelDiscriminator(3, 2, (128, 128))), 2) == 3.43
    assert millions(PooledDiscriminator(3, 2)) < 0.5


def test_weights_start_as_in_the_official_code() -> None:
    conv = SegNet(3, 2, 32).decoder[1].blocks[0].conv  # 512 channels to 256
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert not conv.bias.any()
    injection = Refinement(3, 2, 8).inject1
    mix = injection.mix.weight.flatten(1)
    assert torch.allclose(mix @ mix.T, torch.eye(len(mix)), atol=1e-5)
    assert 0 < injection.mix.bias.abs().max() <= 0.002
    for linear in (injection.shift, injection.scale):
        assert not linear.bias.any()
        assert linear.weight.abs().max().item() == pytest.approx((6 / (8 + 64)) ** 0.5, rel=0.03)


# --- samples ---


def _decoded_plainly(net: Refinement, x: Tensor, q: Tensor, z: Tensor) -> Tensor:
    """The decoder as the paper draws it: everything repeated for each sample, concatenations, one step at a time."""
    b, n, _ = z.shape
    z = z.flatten(0, 1)

    def repeated(f: Tensor) -> Tensor:
        return f.repeat_interleave(n, 0)

    def injected(part: nn.Module, f: Tensor) -> Tensor:
        shift, scale = part.shift(z)[:, :, None, None], part.scale(z)[:, :, None, None]
        out: Tensor = part.mix((f + shift) * (scale + 1e-5))
        return out

    def raised(part: nn.Module, f: Tensor, skip: Tensor) -> Tensor:
        return F.leaky_relu(part.norm(part.conv(torch.cat([f, repeated(skip)], 1))), 0.2)

    half = net.down1(torch.cat([x, q], 1))
    quarter = net.down2(half)
    eighth = net.down3(quarter)
    coarse = net.up2(torch.cat([net.up1(net.down4(eighth)), eighth], 1))
    f = F.leaky_relu(injected(net.inject1, repeated(coarse)), 0.01)
    f = F.leaky_relu(injected(net.inject2, raised(net.up3, f, quarter)), 0.01)
    return injected(net.inject3, raised(net.up4, f, half)).unflatten(0, (b, n))


@pytest.mark.parametrize("training", [False, True])
def test_shared_work_changes_neither_samples_nor_gradients(training: bool) -> None:
    net = _refinement(dropout=0.0).double().train(training)
    x, q, z = _image(2, 32, 48).double(), _probabilities(2, 32, 48).double(), torch.randn(2, 3, LATENT).double()
    toward = torch.randn(2, 3, CLASSES, 32, 48).double()
    found = []
    for decode in (net, lambda *inputs: _decoded_plainly(net, *inputs)):
        logits = decode(x, q, z)
        found.append([logits, *torch.autograd.grad((logits * toward).mean(), list(net.parameters()))])
    assert all(torch.allclose(ours, plain, rtol=1e-9, atol=1e-12) for ours, plain in zip(*found, strict=True))


def test_one_z_gives_one_map_whatever_its_batch() -> None:
    net, x, q, z = _refinement(), _image(3, 37, 50), _probabilities(3, 37, 50), torch.randn(3, 4, LATENT)
    together = net(x, q, z)
    for image in range(3):
        features = net.encode(x[image : image + 1], q[image : image + 1])
        for sample in range(4):
            alone = net.decode(features, z[image : image + 1, sample : sample + 1])[0, 0]
            assert torch.allclose(alone, together[image, sample], atol=1e-5)
    assert (together[:, 0] - together[:, 1]).abs().max() > 0.1


def test_features_have_one_row_an_image() -> None:
    net, x, q, z = _refinement(), _image(3, 37, 50), _probabilities(3, 37, 50), torch.randn(3, 2, LATENT)
    features = net.encode(x, q)
    last = type(features)(*(f[2:] for f in features))
    assert torch.allclose(net.decode(last, z[2:]), net.decode(features, z)[2:], atol=1e-5)


def test_gradients_reach_z_and_every_weight() -> None:
    net, z = _refinement(dropout=0.0).train(), torch.randn(2, 3, LATENT, requires_grad=True)
    net(_image(2, 32, 32), _probabilities(2, 32, 32), z).softmax(2)[:, :, 0].square().mean().backward()
    assert z.grad is not None
    assert (z.grad != 0).all()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bfloat16_stays_near_float32() -> None:
    net, x, q, z = _refinement(), _image(2, 37, 50), _probabilities(2, 37, 50), torch.randn(2, 3, LATENT)
    with torch.no_grad():
        exact = net(x, q, z).softmax(2)
        with torch.autocast("cpu", torch.bfloat16):
            near = net(x, q, z)
    assert near.dtype == torch.bfloat16
    assert (near.float().softmax(2) - exact).abs().mean() < 0.01


def test_probability_has_a_floor_and_is_float32() -> None:
    found = probability(torch.tensor([-40.0, 0.0, 8.0], dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([1e-7, 0.5, 1 / (1 + np.exp(-8))], rel=1e-6)


# --- ImageNet weights ---


def _torchvision_features(width: int) -> nn.Sequential:
    """VGG19-BN's `features` in torchvision's order."""
    layers: list[nn.Module] = []
    inside = 3
    for times, outside in zip((2, 2, 4, 4, 4), (width, 2 * width, 4 * width, 8 * width, 8 * width), strict=True):
        for _ in range(times):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]
            inside = outside
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).eval()


@pytest.fixture
def published() -> tuple[nn.Sequential, dict[str, Tensor]]:
    """A narrow VGG and its weights as the published file names them: without counters, with a classifier."""
    features = _torchvision_features(4)
    _lived_in(features)
    state = {f"features.{k}": v for k, v in features.state_dict().items() if not k.endswith("num_batches_tracked")}
    return features, {**state, "classifier.0.weight": torch.zeros(2, 2)}


def _encoded(net: SegNet, x: Tensor) -> Tensor:
    for stage in net.encoder:
        x = stage(x)
    return x


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_imagenet_weights_fill_the_encoder(
    tmp_path: Path, published: tuple[nn.Sequential, dict[str, Tensor]], suffix: str
) -> None:
    features, state = published
    file = tmp_path / f"vgg{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    net, x = SegNet(3, CLASSES, 4).eval(), _image(1, 64, 64, channels=3)
    assert not torch.allclose(_encoded(net, x), features(x))
    load_imagenet_weights(net, str(file))
    assert torch.allclose(_encoded(net, x), features(x), atol=1e-6)


def test_first_convolution_stays_random_for_other_channels(
    tmp_path: Path, published: tuple[nn.Sequential, dict[str, Tensor]]
) -> None:
    _, state = published
    torch.save(state, tmp_path / "vgg.pth")
    net = SegNet(1, CLASSES, 4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_imagenet_weights(net, str(tmp_path / "vgg.pth"))
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed >= {"encoder.0.0.norm.weight", "encoder.0.1.conv.weight", "encoder.4.3.norm.running_var"}
    assert not changed & {"encoder.0.0.conv.weight", "encoder.0.0.conv.bias"}
    assert all(name.startswith("encoder.") for name in changed)


def test_unfit_imagenet_weights_are_refused_whole(
    tmp_path: Path, published: tuple[nn.Sequential, dict[str, Tensor]]
) -> None:
    _, state = published
    net, wide = SegNet(3, CLASSES, 4), SegNet(3, CLASSES, 8)
    before = net.encoder[0][0].conv.weight.clone()
    torch.save({k: v for k, v in state.items() if k != "features.49.weight"}, tmp_path / "short.pth")
    torch.save(state, tmp_path / "narrow.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    for name, refused, message in (
        ("short.pth", net, r"short\.pth: no 'features\.49\.weight'"),
        ("narrow.pth", wide, r"'features\.0\.weight' is \[4, 3, 3, 3\] .* \[8, 3, 3, 3\]; .* width 64"),
        ("list.pth", net, "holds a list"),
        ("text.pth", net, "cannot be read as weights"),
        ("text.safetensors", net, "cannot be read as weights"),
        ("absent.pth", net, "no such file"),
        ("absent.safetensors", net, "no such file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_imagenet_weights(refused, str(tmp_path / name))
        assert "\n" not in str(caught.value)
    assert torch.equal(net.encoder[0][0].conv.weight, before)


def test_imagenet_download_checks_the_hash(
    tmp_path: Path, published: tuple[nn.Sequential, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, state = published
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save(state, tmp_path / "vgg.pth")
    digest = hashlib.sha256((tmp_path / "vgg.pth").read_bytes()).hexdigest()[:8]
    right = (tmp_path / "vgg.pth").rename(tmp_path / f"vgg-{digest}.pth")
    wrong = tmp_path / "vgg-00000000.pth"
    wrong.write_bytes(right.read_bytes())
    net = SegNet(3, CLASSES, 4)
    monkeypatch.setattr(segnet_module, "IMAGENET_URL", wrong.as_uri())
    with pytest.raises(InputError, match="invalid hash value"):
        load_imagenet_weights(net, "imagenet")
    monkeypatch.setattr(segnet_module, "IMAGENET_URL", right.as_uri())
    load_imagenet_weights(net, "imagenet")
    assert torch.equal(net.encoder[0][0].conv.weight, features[0].weight)


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (5, 3)])
@pytest.mark.parametrize(("patch", "fine"), [(1, True), (2, True), (2, False), (4, True)])
def test_blocks_of_pixels_change_no_shape_and_start_at_q(patch: int, fine: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    f = UNet(CHANNELS, CLASSES, (4, 8), patch=patch)
    g = FilmRefinement(CHANNELS, CLASSES, (4, 8), latent=3, patch=patch, fine=fine)
    x = torch.randn(2, CHANNELS, *size)
    logits = f(x)
    assert logits.shape == (2, CLASSES, *size)
    q = logits.softmax(1).detach()
    samples = g(x, q, torch.randn(2, 3, g.latent)).softmax(2)
    torch.testing.assert_close(samples, q[:, None].expand(-1, 3, -1, -1, -1))


def test_blocks_are_taken_apart_as_they_were_put_together() -> None:
    x = torch.randn(2, 3, 8, 12)
    blocks = to_blocks(x, 4)
    assert blocks.shape == (2, 48, 2, 3)
    assert torch.equal(to_pixels(blocks, 4), x)
    assert torch.equal(blocks[:, :16, 0, 0], x[:, 0, :4, :4].flatten(1))


def test_the_choice_of_the_empty_map_is_drawn_by_z_as_often_as_the_network_says() -> None:
    torch.manual_seed(0)
    g = FilmRefinement(CHANNELS, CLASSES, (4, 8), latent=3, choice=True)
    assert g.presence is not None
    g.presence[-1].bias.data = torch.tensor([0.7, -1.0])
    nn.init.normal_(g.head.weight)
    x, q = torch.randn(2, CHANNELS, 16, 16), torch.rand(2, CLASSES, 16, 16).softmax(1)
    z = torch.randn(2, 2000, g.latent)
    features = g.encode(x, q)
    shapes, choice = g.hypotheses(features, z)
    assert choice is not None
    drawn = g.decode(features, z)
    nothing = (drawn.argmax(2) == 0).flatten(2).all(2) & (drawn.softmax(2)[:, :, 0] > 0.999).flatten(2).all(2)
    assert torch.allclose(nothing.float().mean(1), choice.drawn, atol=0.03)
    assert torch.equal(drawn[~nothing], shapes[~nothing])
    same = z.clone()
    same[..., -1] = -9  # surely below
    assert (g.decode(features, same).argmax(2) == 0).all()
    assert g.latent == FilmRefinement(CHANNELS, CLASSES, (4, 8), latent=3).latent + 1


def test_the_choice_makes_up_for_shapes_that_are_empty_by_themselves() -> None:
    empty, by_shape = torch.tensor([0.5, 0.3, 0.1, 1.0]), torch.tensor([0.2, 0.0, 0.4, 1.0])
    drawn = Choice(empty, by_shape).drawn
    total = drawn + (1 - drawn) * by_shape
    assert torch.allclose(total, torch.tensor([0.5, 0.3, 0.4, 1.0]))  # of the third more is not to be had


def hypotheses(count: int = 5) -> tuple[Hypotheses, Tensor, Tensor]:
    """With images and q, and probabilities that are far from equal."""
    torch.manual_seed(0)
    g = Hypotheses(CHANNELS, CLASSES, count, (4, 8))
    for last in (g.weight[-1], g.presence[-1]):
        last.weight.data *= 20
    return g, torch.randn(2, CHANNELS, 18, 20), torch.rand(2, CLASSES, 18, 20).softmax(1)


def test_every_sample_is_one_of_the_hypotheses_as_often_as_the_network_says() -> None:
    g, x, q = hypotheses()
    z = torch.randn(2, 4000, 1)
    features = g.encode(x, q)
    shapes, choice = g.hypotheses(features, z)
    assert choice.weights is not None
    assert shapes.shape == (2, 5, CLASSES, 18, 20)
    drawn = g(x, q, z)
    empty = choice.falls(z)
    assert (drawn[empty].argmax(1) == 0).all()
    same = (drawn[:, :, None] == shapes[:, None]).flatten(3).all(3)  # [b n m]
    assert torch.equal(same.sum(2), (~empty).long())
    found = torch.cat([empty.float().mean(1, keepdim=True), same.float().mean(1)], 1)
    wanted = torch.cat([choice.drawn[:, None], (1 - choice.drawn[:, None]) * choice.weights], 1)
    assert (wanted.amax(1) - wanted.amin(1) > 0.05).all()
    assert torch.allclose(found, wanted, atol=4 * 0.5 / 4000**0.5)


def test_numbers_spread_evenly_over_z_draw_each_hypothesis_to_within_one_draw() -> None:
    g, x, q = hypotheses()
    even = torch.special.ndtri((torch.arange(64) + 0.5) / 64)
    features = g.encode(x, q)
    shapes, choice = g.hypotheses(features, even)
    assert choice.weights is not None
    drawn = g.decode(features, even.expand(2, -1)[..., None])
    same = (drawn[:, :, None] == shapes[:, None]).flatten(3).all(3).sum(1)
    assert torch.allclose(same.float(), 64 * (1 - choice.drawn[:, None]) * choice.weights, atol=1.01)


def test_hypotheses_that_mark_nothing_are_counted_as_the_empty_map() -> None:
    g, x, q = hypotheses()
    features = g.encode(x, q)
    shapes = features.shapes.detach().clone()
    shapes[:, 1:3, 0] += 1000
    shapes[:, 3:, 1] += 1000
    choice = g._choice(torch.zeros(2, 5, TOKEN), torch.zeros(2, 16), torch.zeros(2, EMBEDDING, 18, 20), shapes)
    assert choice.weights is not None
    marks_nothing = (shapes.argmax(2) == 0).flatten(2).all(2)
    assert marks_nothing[:, 1:3].all()
    assert torch.allclose(choice.by_shape, (choice.weights * marks_nothing).sum(1))


def test_three_readings_of_an_image_are_learned_with_their_probabilities() -> None:
    """Of 10 raters 2 mark nothing, 5 the left half, 3 all of it: the network says just that."""
    torch.manual_seed(0)
    left, everything, nothing = (torch.zeros(16, 16, dtype=torch.long) for _ in range(3))
    left[:, :8], everything[:] = 1, 1
    labels = one_hot_maps(torch.stack([nothing] * 2 + [left] * 5 + [everything] * 3), 2)[None]
    g = Hypotheses(1, 2, 3, (8, 16))
    x, q = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16), torch.full((1, 2, 16, 16), 0.5)
    optimizer = torch.optim.Adam(g.parameters(), 0.003)
    for _ in range(250):
        optimizer.zero_grad()
        shapes, choice = g.hypotheses(g.encode(x, q), torch.zeros(1, 1, 1))
        energy_loss(
            shapes.softmax(2), labels, sample_weights=choice.weights, empty=choice.empty, whole=True
        ).sum().backward()
        optimizer.step()
    with torch.no_grad():
        maps = class_maps(g(x, q, torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[None, :, None]))[0]
    shares = {
        name: float((maps == one).flatten(1).all(1).float().mean())
        for name, one in (("nothing", nothing), ("left", left), ("everything", everything))
    }
    assert shares == pytest.approx({"nothing": 0.2, "left": 0.5, "everything": 0.3}, abs=0.02)


def test_without_a_calibration_network_every_class_is_equally_likely() -> None:
    logits = NoCalibration(CLASSES)(torch.randn(2, CHANNELS, 5, 7))
    assert torch.equal(logits.softmax(1), torch.full((2, CLASSES, 5, 7), 1 / CLASSES))


@pytest.mark.parametrize("classes", [2, 5, 11])
def test_class_maps_are_the_argmax(classes: int) -> None:
    soft = torch.randint(0, 4, (2, 3, classes, 7, 9), generator=torch.Generator().manual_seed(0)).float()  # many ties
    soft[0, 0] = -1e30
    assert torch.equal(class_maps(soft), soft.argmax(2).to(torch.uint8))


def test_class_noise_draws_classes_together_and_as_often_as_q_says() -> None:
    """Before training: every pixel has the frequencies q, equal pixels are always alike, separate pairs are independent."""
    g = FilmRefinement(CHANNELS, 5, (4, 8), latent=3, field=False, class_noise=True)
    assert g.latent == 3 + 5
    pairs = torch.tensor([[0.6, 0.4, 0, 0, 0], [0, 0, 0.75, 0.25, 0], [0.3, 0.2, 0.1, 0.15, 0.25]])
    q = pairs.T[None, :, :, None].expand(1, 5, 3, 4).repeat_interleave(2, 2).clamp_min(1e-4)  # 6 rows of 4 pixels
    x, z = _image(1, 6, 4), torch.randn(1, 20000, g.latent)
    maps = class_maps(g(x, q, z))[0]  # [n 6 4]
    rows = maps[:, ::2, 0]
    assert (maps == rows.repeat_interleave(2, 1)[:, :, None]).all()
    for row, p in zip(rows.unbind(1), pairs):
        found = torch.bincount(row.long(), minlength=5) / len(row)
        assert torch.allclose(found, p, atol=4 * 0.5 / 20000**0.5)
    together = ((rows[:, 0] == 1) & (rows[:, 1] == 3)).float().mean()
    assert float(together) == pytest.approx(0.4 * 0.25, abs=0.01)
    assert torch.allclose(g(x, q, z[:, 3:5]), g(x, q, z)[:, 3:5], atol=1e-5)
    samples = g(x, q, z[:, :64]).softmax(2)
    assert samples.amax(2).mean() > 0.9  # soft maps are nearly class maps


@pytest.mark.parametrize(("bound", "shown"), [(0.4, {0}), (2.0, {0, 1}), (None, {0, 1, 2})])
def test_corrections_to_q_are_bounded(bound: float | None, shown: set[int]) -> None:
    """Of a network that trained into extremes: with a bound no class is shown that q all but rules out."""
    g = FilmRefinement(CHANNELS, 3, (4, 8), latent=3, bound=bound)
    nn.init.normal_(g.head.weight, std=30)
    q = torch.tensor([0.7, 0.299, 0.001]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    logits = g(_image(1, 8, 8), q, torch.randn(1, 50, g.latent)) - q.log()[:, None]
    assert bool((logits.abs() <= ((bound or torch.inf) + 1e-5)).all())
    assert float(logits.detach().abs().max()) > (bound or 20) * 0.99
    assert (
        set((logits + q.log()[:, None]).argmax(2).unique().tolist()) == shown
    )  # 2 b against log .7 / .3, log .3 / .001


def test_class_noise_is_trained_through() -> None:
    g = FilmRefinement(CHANNELS, 4, (4, 8), latent=3, class_noise=True)
    q = torch.randn(2, 4, 8, 8).softmax(1)
    g(_image(2, 8, 8), q, torch.randn(2, 3, g.latent)).softmax(2)[:, :, 1].mean().backward()
    assert g.head.weight.grad is not None
    assert g.head.weight.grad.abs().sum() > 0
