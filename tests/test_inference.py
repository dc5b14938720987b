"""Copies of the paper's networks to draw from: the same answers, for the weights as they are now."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn

import stochseg
from stochseg.config import CalibrationConfig, RefinementConfig
from stochseg.models.convnet import ConvNet
from stochseg.models.inference import _packs, ready
from stochseg.models.refinement import Refinement
from stochseg.models.segnet import SegNet
from stochseg.models.unet import UNet

pytestmark = pytest.mark.skipif(not _packs(), reason="oneDNN packs no bfloat16 weights here")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def lived_in(net: nn.Module) -> nn.Module:
    """In eval mode, with norms that are not the identity, as after training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


@torch.no_grad()
def low(net: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(*inputs).float()


@pytest.mark.parametrize("size", [(32, 64), (37, 50), (2, 3)])
@pytest.mark.parametrize("kind", ["segnet", "convnet"])
def test_a_copy_is_as_near_to_float32_as_autocast(kind: str, size: tuple[int, int]) -> None:
    net = lived_in(SegNet(3, 2, width=8) if kind == "segnet" else ConvNet(3, 2, width=8))
    x = torch.randn(2, 3, *size)
    made = ready(net)
    assert made is not net
    with torch.no_grad():
        exact = net(x)
    assert (low(made, x) - exact).abs().max() < 2 * (low(net, x) - exact).abs().max() + 0.01


@pytest.mark.parametrize("size", [(32, 64), (37, 50), (2, 3)])
@pytest.mark.parametrize("classes", [2, 3])
def test_samples_of_a_copy_are_as_near_to_float32_as_autocast(classes: int, size: tuple[int, int]) -> None:
    net = lived_in(Refinement(3, classes, 4, width=8))
    x, q, z = torch.randn(2, 3, *size), torch.randn(2, classes, *size).softmax(1), torch.randn(2, 5, 4)
    made = ready(net)
    with torch.no_grad():
        exact = net(x, q, z)
        with torch.autocast("cpu", torch.bfloat16):
            plain, packed = (each.decode(each.encode(x, q), z).float() for each in (net, made))  # type: ignore[operator]
    assert packed.shape == exact.shape
    assert (packed - exact).abs().max() < 2 * (plain - exact).abs().max() + 0.01


def test_a_copy_is_kept_until_weights_change() -> None:
    net = lived_in(SegNet(3, 2, width=4))
    x = torch.randn(1, 3, 32, 32)
    first = ready(net)
    assert ready(net) is first
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().sum().backward()
    optimizer.step()
    second = ready(net)
    assert second is not first
    net.load_state_dict(lived_in(SegNet(3, 2, width=4)).state_dict())
    third = ready(net)
    assert third is not second
    with torch.no_grad():
        exact = net(x)
    torch.testing.assert_close(low(third, x), exact, atol=0.05, rtol=0.05)
    net.load_state_dict(lived_in(SegNet(3, 2, width=4)).state_dict(), assign=True)
    assert ready(net) is not third


def test_a_copy_goes_with_its_network_and_shares_what_is_not_packed() -> None:
    net = lived_in(Refinement(3, 2, 4, width=4))
    made = ready(net)
    own = {t.data_ptr() for t in net.parameters()}
    assert all(t.data_ptr() in own for t in made.parameters())
    gone = weakref.ref(net), weakref.ref(made)
    del net, made
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_a_network_without_batch_norm_stays_itself() -> None:
    net = UNet(3, 2, (4, 8)).eval()
    assert ready(net) is net
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def model() -> stochseg.CAR:
    calibration, refinement = CalibrationConfig(net="segnet", width=4), RefinementConfig(net="paper", width=4, latent=4)
    return stochseg.CAR(2, 3, (32, 32), calibration, refinement, precision="bfloat16")


def test_a_model_that_has_drawn_can_be_copied_pickled_and_trained_on() -> None:
    one = model()
    x, z = torch.randn(1, 3, 32, 32), torch.randn(1, 4, 4)
    maps = one.sample(x, z=z)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert torch.equal(other.sample(x, z=z), maps)
        assert list(other.networks.state_dict()) == list(one.networks.state_dict())
    before = one.probabilities(x)
    with torch.no_grad():
        for p in one.networks.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert not torch.equal(one.probabilities(x), before)


def test_a_module_of_the_users_is_not_touched() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = SegNet(3, 2, width=4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x)
            return y

    own = Own()
    one = stochseg.CAR(2, 3, (32, 32), own, RefinementConfig(net="paper", width=4, latent=4), precision="bfloat16")
    seen = []
    own.net.register_forward_hook(lambda *_: seen.append(1))
    one.sample(torch.randn(1, 3, 32, 32), 2)
    assert seen
