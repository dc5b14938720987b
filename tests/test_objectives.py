"""The losses: known answers, slow versions, gradients, and what must not get one."""

import math

import pytest
import torch
from torch import Tensor, nn

from stochseg.models.discriminator import PixelDiscriminator, PooledDiscriminator, probability
from stochseg.objectives.adversarial import (
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    r1_penalty,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    straight_through,
)
from stochseg.objectives.calibration import calibration_kl, mask_ignored
from stochseg.objectives.cross_entropy import cross_entropy

B, K, H, W = 2, 3, 4, 5


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _logits() -> Tensor:
    return torch.randn(B, K, H, W, dtype=torch.float64, requires_grad=True)


def _labels() -> Tensor:
    return torch.randint(0, K, (B, H, W))


def _one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels.long(), K).movedim(-1, 1).double()


def _ignored() -> Tensor:
    ignored = torch.zeros(B, H, W, dtype=torch.bool)
    ignored[0, 1:3] = True
    return ignored


# --- cross entropy ---


def test_cross_entropy_of_a_uniform_answer_is_log_k() -> None:
    assert cross_entropy(torch.zeros(B, K, H, W), _labels()).item() == pytest.approx(math.log(K))


def test_cross_entropy_pixel_by_pixel() -> None:
    logits, labels, ignored = _logits(), _labels(), _ignored()
    labels[ignored] = 255
    q = logits.softmax(1)
    losses = [
        -math.log(q[b, labels[b, i, j], i, j].item())
        for b in range(B)
        for i in range(H)
        for j in range(W)
        if labels[b, i, j] != 255
    ]
    assert cross_entropy(logits, labels.to(torch.uint8), 255).item() == pytest.approx(sum(losses) / (B * H * W))
    valid = cross_entropy(logits, labels, 255, normalize="valid")
    assert valid.item() == pytest.approx(sum(losses) / len(losses))


def test_cross_entropy_of_frequencies_is_the_mean_over_raters() -> None:
    logits, raters = _logits(), [_labels() for _ in range(4)]
    apart = torch.stack([cross_entropy(logits, labels) for labels in raters]).mean()
    together = cross_entropy(logits, torch.stack([_one_hot(labels) for labels in raters]).mean(0))
    assert together.item() == pytest.approx(apart.item())


def test_cross_entropy_gradient() -> None:
    logits, labels = _logits(), _labels()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels, ignore=2), logits)
    sure = torch.tensor([100.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    cross_entropy(sure, torch.ones(1, 1, 1)).backward()
    assert sure.grad is not None  # a sure and wrong answer is still pulled back
    assert sure.grad.flatten().tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("normalize", ["all", "valid"])
def test_ignored_pixels_get_no_gradient_from_cross_entropy(soft: bool, normalize: str) -> None:
    logits, labels, ignored = _logits(), _labels() % 2, _ignored()
    labels[ignored] = 2
    target = _one_hot(labels) if soft else labels
    cross_entropy(logits, target, ignore=2, normalize=normalize).backward()
    assert logits.grad is not None
    reached = (logits.grad != 0).all(1)
    assert torch.equal(reached, ~ignored)


def test_nothing_but_ignored_pixels_is_zero_not_nan() -> None:
    labels = torch.full((B, H, W), 2)
    assert cross_entropy(_logits(), labels, ignore=2, normalize="valid").item() == 0


# --- calibration ---


def test_calibration_kl_by_hand() -> None:
    p = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)
    q = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)
    assert calibration_kl(p, q).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    sure = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert calibration_kl(sure, sure.flip(1)).item() == pytest.approx((1 - 2e-3) * math.log(0.999 / 0.001), rel=1e-5)


def test_calibration_kl_is_zero_only_between_equals() -> None:
    p, q = _logits().softmax(1), _logits().softmax(1)
    assert calibration_kl(p, p).item() == 0
    assert calibration_kl(p, q).item() > 0.01
    assert calibration_kl(p, q).item() != pytest.approx(calibration_kl(q, p).item(), rel=1e-3)


def test_calibration_gradient_goes_to_the_samples_alone() -> None:
    logits, other, ignored = _logits(), _logits(), _ignored()
    q = other.softmax(1)
    assert torch.autograd.gradcheck(lambda x: calibration_kl(x.softmax(1), q.detach(), ignored), logits)
    calibration_kl(logits.softmax(1), q, ignored).backward()
    assert other.grad is None
    assert logits.grad is not None
    assert torch.equal((logits.grad != 0).any(1), ~ignored)


@pytest.mark.parametrize("shape", [(B, K, H, W), (B, 3, K, H, W)])
def test_mask_sets_the_ignore_class_and_stops_gradients(shape: tuple[int, ...]) -> None:
    maps = torch.rand(shape, requires_grad=True)
    ignored = _ignored()
    masked = mask_ignored(maps, ignored, 2)
    by_pixel, before = masked.movedim(-3, -1), maps.movedim(-3, -1)  # the classes last
    everywhere = ignored[(slice(None), *(None,) * (maps.ndim - 4))].expand(by_pixel.shape[:-1])
    assert (by_pixel[everywhere] == torch.tensor([0.0, 0.0, 1.0])).all()
    assert torch.equal(by_pixel[~everywhere], before[~everywhere])
    masked.square().sum().backward()
    assert maps.grad is not None
    assert torch.equal((maps.grad.movedim(-3, -1) != 0).all(-1), ~everywhere)


def test_masked_maps_send_no_gradient_through_the_discriminator() -> None:
    samples, ignored = torch.rand(B, K, 24, 24, requires_grad=True), torch.zeros(B, 24, 24, dtype=torch.bool)
    ignored[:, :, 10:] = True
    fake = PixelDiscriminator(1, K, (24, 24), 4)(torch.randn(B, 1, 24, 24), mask_ignored(samples, ignored, 2))
    generator_loss(fake).backward()
    assert samples.grad is not None
    assert torch.equal((samples.grad != 0).any(1), ~ignored)


# --- adversarial ---


def test_adversarial_losses_are_binary_cross_entropies_of_the_probability() -> None:
    real, fake = 3 * torch.randn(50), 3 * torch.randn(50)
    bce, ones = nn.BCELoss(), torch.ones(50)
    assert generator_loss(fake).item() == pytest.approx(bce(probability(fake), ones).item(), rel=1e-5)
    expected = bce(probability(real), ones) + bce(probability(fake), 0 * ones)
    assert discriminator_loss(real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    even = torch.zeros(3)
    assert discriminator_loss(even, even).item() == pytest.approx(2 * math.log(2))


def test_adversarial_gradients() -> None:
    real, fake = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(generator_loss, fake)
    assert torch.autograd.gradcheck(discriminator_loss, (real, fake))


def test_a_sure_discriminator() -> None:
    fooled = torch.tensor([50.0], requires_grad=True)
    discriminator_loss(torch.tensor([1.0]), fooled).backward()
    assert fooled.grad is not None  # where D is 1 in float32 its error still has a gradient
    assert fooled.grad.item() == pytest.approx(1)
    caught = torch.tensor([-50.0], requires_grad=True)
    loss = generator_loss(caught)
    loss.backward()
    assert caught.grad is not None
    assert (loss.item(), caught.grad.item()) == (pytest.approx(-math.log(1e-7)), 0)


def test_r1_of_a_linear_discriminator() -> None:
    x, y = torch.randn(B, 1, H, W, requires_grad=True), torch.randn(B, K, H, W, requires_grad=True)
    a, c = torch.randn(1, H, W), torch.randn(K, H, W)
    logit = (x * a).flatten(1).sum(1) + (y * c).flatten(1).sum(1)
    size = a.square().sum() + c.square().sum()
    assert r1_penalty(logit, (x, y)).item() == pytest.approx(size.item(), rel=1e-5)
    d = probability(logit)
    expected = (d * (1 - d)).square().mean() * size
    assert r1_penalty(d, (x, y)).item() == pytest.approx(expected.item(), rel=1e-4)


def _smooth_discriminator() -> nn.Module:
    return nn.Sequential(nn.Conv2d(K + 1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * (H - 2) * (W - 2), 1)).double()


def test_r1_by_finite_differences() -> None:
    net, step = _smooth_discriminator(), 1e-6
    x, y = torch.randn(B, 1, H, W, dtype=torch.float64), torch.rand(B, K, H, W, dtype=torch.float64)

    def score(pair: Tensor) -> Tensor:
        out: Tensor = net(pair).squeeze(1).sigmoid()
        return out

    pair = torch.cat([x, y], 1)
    slow = 0.0
    with torch.no_grad():
        for place in range(pair[0].numel()):
            nudge = torch.zeros_like(pair).flatten(1)
            nudge[:, place] = step
            slope = (score(pair + nudge.view_as(pair)) - score(pair - nudge.view_as(pair))) / (2 * step)
            slow += slope.square().mean().item()
    x.requires_grad_()
    y.requires_grad_()
    assert r1_penalty(score(torch.cat([x, y], 1)), (x, y)).item() == pytest.approx(slow, rel=1e-6)


def test_r1_can_be_minimised() -> None:
    net = _smooth_discriminator()
    pair = torch.randn(B, K + 1, H, W, dtype=torch.float64, requires_grad=True)
    weight = net[0].weight
    (gradient,) = torch.autograd.grad(r1_penalty(net(pair).squeeze(1), [pair]), weight)
    nudge, step = torch.randn_like(weight), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * nudge
        values.append(r1_penalty(net(pair).squeeze(1), [pair]).item())
        with torch.no_grad():
            weight -= sign * step * nudge
    assert (gradient * nudge).sum().item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("on_probability", [False, True])
def test_r1_reaches_the_weights_of_both_discriminators(autocast: bool, on_probability: bool) -> None:
    for net in (PixelDiscriminator(1, K, (32, 32), 4), PooledDiscriminator(1, K, 4)):
        x, y = torch.randn(B, 1, 32, 32, requires_grad=True), torch.rand(B, K, 32, 32, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logit = net(x, y)
            penalty = r1_penalty(probability(logit) if on_probability else logit, (x, y))
        assert penalty.dtype == torch.float32
        penalty.backward()
        weights = [p for p in net.parameters() if p.ndim == 4]
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in weights)


def test_accuracy_counts_real_and_fake_together() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.5, 0.0]), torch.tensor([-3.0, 1.0, 0.0])
    assert discriminator_accuracy(real, fake).item() == pytest.approx(4 / 7)  # D = 1/2 is a verdict of fake


def test_losses_are_float32_for_bfloat16() -> None:
    logits = _logits().detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (
            cross_entropy(logits, _labels()),
            calibration_kl(logits.softmax(1), logits.softmax(1)),
            generator_loss(logits),
            discriminator_loss(logits, logits),
        ):
            assert loss.dtype == torch.float32


def test_relativistic_losses_see_differences_alone() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 3.0], [-1.0, 0.0]])
    wanted = [math.log(1 + math.exp(float(r - f))) for r, row in zip(real, fake) for f in row]
    assert float(relativistic_generator_loss(real, fake)) == pytest.approx(sum(wanted) / 4, abs=1e-6)
    assert torch.allclose(relativistic_generator_loss(real + 7, fake + 7), relativistic_generator_loss(real, fake))
    wanted = [math.log(1 + math.exp(float(f - r))) for r, f in zip(real, fake[:, 0])]
    assert float(relativistic_discriminator_loss(real, fake[:, 0])) == pytest.approx(sum(wanted) / 2, abs=1e-6)


def test_straight_through_maps_are_one_hot_with_the_soft_maps_gradient() -> None:
    logits = torch.randn(2, 3, 4, 5, 5).requires_grad_()
    weight = torch.randn(2, 3, 4, 5, 5)
    hard = straight_through(logits.softmax(2))
    assert torch.allclose(hard, nn.functional.one_hot(logits.argmax(2), 4).movedim(-1, 2).float(), atol=1e-6)
    (through,) = torch.autograd.grad((hard * weight).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(2) * weight).sum(), logits)
    assert torch.equal(through, soft)
