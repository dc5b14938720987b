"""When training ends, and how fast it learns until then."""

import math
from dataclasses import dataclass

from stochseg.config import Config, PhaseConfig


@dataclass(frozen=True)
class Budget:
    """The end of training: whichever of the limits comes first."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> "Budget":
        limits = [config.steps, None if config.epochs is None else config.epochs * steps_per_epoch]
        steps = min((limit for limit in limits if limit is not None), default=None)
        return cls(steps, None if config.minutes is None else 60 * config.minutes)

    def progress(self, step: int, elapsed: float) -> float:
        """The share of the budget that is used up, 0 to 1 (or a little over)."""
        shares = []
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            shares.append(elapsed / self.seconds)
        return max(shares)

    def seconds_left(self, step: int, elapsed: float) -> float:
        """An estimate from the speed so far."""
        done = self.progress(step, elapsed)
        return elapsed / done * (1 - done) if done > 0 else math.inf


def learning_rate(phase: PhaseConfig, step: int, epoch: int, progress: float, warmup: int, cosine: bool) -> float:
    """The learning rate of a network in this step."""
    rate = phase.lr * 0.5 ** sum(epoch >= e for e in phase.halve_at)
    if warmup:
        rate *= min(1.0, (step + 1) / warmup)
    if cosine:
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rate
