"""Convolutions and dropout that a CPU is quick with compute what those of `torch.nn` do."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stochseg.models.convolutions import DoublingConv, ReflectedConv, Reflection, TwiceDifferentiable
from stochseg.models.dropout import Dropout


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_reflection_stays_in_bfloat16_under_autocast() -> None:
    x = torch.randn(2, 3, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        padded = Reflection()(x.bfloat16())
        assert padded.dtype == torch.bfloat16
    assert torch.equal(padded, F.pad(x.bfloat16(), (1, 1, 1, 1), mode="reflect"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reflected_convolution_is_that_of_torch(dtype: torch.dtype) -> None:
    ours, theirs = ReflectedConv(3, 4), nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 6, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = ours(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), theirs(x), atol=1e-6 if dtype == torch.float32 else 0.02, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: TwiceDifferentiable(3, 4, 4, stride=2, padding=1), lambda: nn.Conv2d(3, 4, 4, stride=2, padding=1)),
        (
            lambda: TwiceDifferentiable(3, 4, 3, padding=1, bias=False),
            lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False),
        ),
        (lambda: ReflectedConv(3, 4), lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        (lambda: DoublingConv(3, 4), lambda: nn.ConvTranspose2d(3, 4, 2, stride=2)),
    ],
)
def test_gradients_and_theirs_are_those_of_torch(
    ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]
) -> None:
    one, other = ours().double(), theirs().double()
    other.load_state_dict(one.state_dict())
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64)

    def gradients(conv: nn.Module) -> list[Tensor]:
        """Of a loss that holds gradients of the input, as R1 does, and of the weights."""
        x = image.clone().requires_grad_()
        y = conv(x).tanh()
        inner = torch.autograd.grad(y.sum(), [x, *conv.parameters()], create_graph=True)
        loss = y.square().sum() + sum(each.square().sum() for each in inner)
        return list(torch.autograd.grad(loss, [x, *conv.parameters()]))

    for a, b in zip(gradients(one), gradients(other), strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_of_bfloat16_keeps_the_rest_and_the_mean() -> None:
    x = torch.ones(4, 8, 63, 65, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = Dropout(0.3)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert set(y.float().unique().tolist()) == {0.0, torch.tensor(1 / 0.7).bfloat16().item()}
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_dropout_of_bfloat16_goes_by_the_seed_and_differs_from_place_to_place() -> None:
    x = torch.ones(3, 5, 7, dtype=torch.bfloat16)  # a number of elements that four does not divide

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(x)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    rows = torch.stack([Dropout(0.5)(torch.ones(1000, dtype=torch.bfloat16)) for _ in range(50)]).float() / 2
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.2
    assert torch.corrcoef(rows.T.reshape(4, -1)).fill_diagonal_(0).abs().max() < 0.05


@pytest.mark.parametrize("p", [0.0, 1e-7, 1 - 1e-7, 1.0])
def test_dropout_of_bfloat16_takes_any_rate(p: float) -> None:
    assert (Dropout(p)(torch.ones(100, dtype=torch.bfloat16)) != 0).float().mean() == (p < 0.5)


def test_dropout_is_that_of_torch_in_float32_and_none_in_evaluation() -> None:
    x = torch.randn(100)
    torch.manual_seed(3)
    one = Dropout(0.4)(x)
    torch.manual_seed(3)
    assert torch.equal(one, nn.Dropout(0.4)(x))
    low = x.bfloat16()
    assert torch.equal(Dropout(0.4).eval()(low), low)
