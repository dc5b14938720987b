"""A step shared by several processes: one all-reduce of all that they must agree on.

DistributedDataParallel does not fit: it knows neither several forward passes before one backward nor the gradient of a
gradient (R1). So every process computes the gradients of its own rows, weighted by their share of the whole batch, and
the sums are those of one process with all rows.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from stochseg.errors import InputError
from stochseg.processes import World
from stochseg.training.profile import timed


class Exchange:
    """What the processes of a run tell each other once a step, so that all take the same update and end at the same one.

    stop_asked: whether this process got a signal to stop; elapsed: seconds of training, of which the first process's
    count.
    """

    def __init__(self, world: World, stop_asked: Callable[[], bool], elapsed: Callable[[], float]) -> None:
        self.world, self._stop_asked, self._elapsed = world, stop_asked, elapsed
        self._agreed = (False, 0.0)

    @property
    def stop(self) -> bool:
        """Whether any process was to stop at the last `add_up`; where there is one process, whether it is to now."""
        return self._stop_asked() if self.world.size == 1 else self._agreed[0]

    @property
    def seconds(self) -> float:
        """The first process's seconds of training at the last `add_up`; where there is one process, its seconds now."""
        return self._elapsed() if self.world.size == 1 else self._agreed[1]

    def add_up(
        self, updated: Iterable[nn.Module], networks: nn.Module, numbers: dict[str, float], device: torch.device
    ) -> dict[str, float]:
        """Add up, over all processes, the gradients of the networks that are to be updated, and the numbers by name.

        networks: all of them, whose running statistics (batch norm) become the means over the processes. Numbers must
        have the same names everywhere. A parameter without a gradient in every process keeps none.
        """
        if self.world.size == 1:
            return numbers
        with timed("exchange"):
            return self._add_up(updated, networks, numbers, device)

    def _add_up(
        self, updated: Iterable[nn.Module], networks: nn.Module, numbers: dict[str, float], device: torch.device
    ) -> dict[str, float]:
        parameters = [p for network in updated for p in network.parameters() if p.requires_grad]
        statistics = [b for b in networks.buffers() if b.is_floating_point()]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        names = sorted(numbers)
        facts = [float(p.grad is not None) for p in parameters] + [numbers[name] for name in names]
        facts += [float(self._stop_asked()), self._elapsed() if self.world.first else 0.0]
        flat = torch.cat(
            [t.detach().reshape(-1).float() for t in (*gradients, *statistics)] + [torch.tensor(facts, device=device)]
        )
        self.world.sum_(flat)
        parts = flat.split([t.numel() for t in (*gradients, *statistics)] + [len(facts)])
        found = parts[-1].tolist()
        for p, total, present in zip(parameters, parts, found):
            if present:
                p.grad = torch.empty_like(p) if p.grad is None else p.grad
                p.grad.copy_(total.view_as(p))
        for statistic, total in zip(statistics, parts[len(parameters) :]):
            statistic.copy_(total.view_as(statistic) / self.world.size)
        self._agreed = found[-2] > 0, found[-1]
        return dict(zip(names, found[len(parameters) :]))


def check_shares(world: World, batch: int, accumulate: int) -> None:
    """InputError where the processes cannot share a batch equally."""
    if batch % (world.size * accumulate):
        parts = f" in {accumulate} parts each" if accumulate > 1 else ""
        raise InputError(
            f"--training.batch {batch}: {world.size} processes share it{parts}; it must be a multiple of "
            f"{world.size * accumulate}"
        )


def check_same(world: World, facts: dict[str, object]) -> None:
    """InputError, in all processes, where a fact is not the same in all of them."""
    seen = world.gather(facts)
    with world.as_one():
        for name in facts:
            other = next((rank for rank in range(world.size) if seen[rank][name] != seen[0][name]), 0)
            if other:
                raise InputError(
                    f"process {other} has another {name} than process 0: {seen[other][name]}, not {seen[0][name]}; all "
                    "must read the same store and run directory, with the same flags"
                )


def copy_first(world: World, tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's tensors, in place: a model of the user's own may have started differently."""
    if world.size > 1:
        for tensor in tensors:
            tensor.copy_(world.first_(tensor.detach().contiguous()))
