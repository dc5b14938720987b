"""Several processes that work as one: started by torchrun, or by any launcher that sets the same variables.

RANK (its number, from 0), WORLD_SIZE (how many there are), LOCAL_RANK (its number on its machine), MASTER_ADDR and
MASTER_PORT (where process 0 listens). Without them a process is alone, and all this does nothing. docs/distributed.md.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from stochseg.errors import InputError, LostProcess, SaidElsewhere

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = 1800.0
"""Seconds that a process waits for the others, where no config says."""


@dataclass(frozen=True)
class World:
    """The processes, seen from one of them. Every method but `share`, `rows` and `device` must be called by all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def local_size(self) -> int:
        """How many of them this machine has: LOCAL_WORLD_SIZE, or where the launcher does not say it, all."""
        return _number("LOCAL_WORLD_SIZE", self.size) if self.size > 1 else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: every size-th item, so that long and short ones mix."""
        return items[self.rank :: self.size]

    def rows(self, count: int) -> slice:
        """This process's rows of a batch of `count`, which all processes share equally."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[T | None] = [None] * self.size
        with _told(self):
            dist.all_gather_object(found, value)
        return cast(list[T], found)

    def of_first(self, value: T) -> T:
        """The value that the first process holds."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Go on when all are here."""
        self.gather(None)

    def sum_(self, tensor: "torch.Tensor") -> None:
        """Add up a tensor over all processes, in place, to the same bits everywhere."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _told(self):
            dist.all_reduce(tensor)

    def first_(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Fill a contiguous tensor with the first process's values, and return it."""
        if self.size > 1:
            import torch.distributed as dist

            with _told(self):
                dist.broadcast(tensor, 0)
        return tensor

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """What fails in this block in one process fails in all, and the first of those that failed says why.

        No method that waits for the others may be called within.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self.size == 1:
            if failure is not None:
                raise failure
            return
        kinds = self.gather(None if failure is None else isinstance(failure, InputError))
        failed = [rank for rank, kind in enumerate(kinds) if kind is not None]
        if failure is not None and failed[0] == self.rank:
            raise failure
        if failed:
            raise SaidElsewhere(bad_input=bool(kinds[failed[0]]))

    def device(self, name: str) -> "torch.device":
        """As `resolve_device`; where several processes share a machine, each takes a GPU of its own."""
        import torch

        from stochseg.models.precision import resolve_device

        if self.size == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
            found = resolve_device(name)
            if self.size > 1 and found.type == "cuda":
                raise InputError(f"--device {name}: would be that of all {self.size} processes; leave it at auto")
            return found
        there = torch.cuda.device_count()
        if self.local_rank >= there:
            raise InputError(
                f"process {self.local_rank} of this machine finds {there} GPUs; start no more processes than GPUs here, "
                "or pass --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)


def environment() -> World:
    """What the launcher's variables say; light, so that a process knows whether to speak before torch is loaded."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return World()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size} and {' and '.join(missing)} not set; start with torchrun, or set all of RANK, "
            "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
        )
    rank = _number("RANK", 0)
    if rank not in range(size):
        raise InputError(f"RANK {rank}: must be from 0 to {size - 1}, since WORLD_SIZE is {size}")
    return World(rank, size, _number("LOCAL_RANK", 0))


def current() -> World:
    """The processes that `joined` has brought together; a process that has not met others is alone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), _number("LOCAL_RANK", 0))
    return World()


def several() -> bool:
    """Whether a launcher has started more than this process."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def speaks() -> bool:
    """Whether this process tells people how things go: only the first of several does."""
    return not several() or os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(timeout: float = PATIENCE) -> Iterator[World]:
    """Meet the other processes, and part from them at the end.

    A process group that the caller has made is used, and left as it is. timeout: seconds to wait for a process that
    does not answer; one that ends is noticed at once (on GPUs, when the launcher ends the others).
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        yield current()
        return
    world = environment()
    if world.size == 1:
        yield world
        return
    import torch

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _told(world):
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout), rank=world.rank, world_size=world.size)
    yield world  # after an error the group is left to the end of the process: to close it could wait for the others
    world.wait()  # gloo aborts now and then where one process closes while another still reads
    dist.destroy_process_group()


@contextmanager
def _told(world: World) -> Iterator[None]:
    """LostProcess where another process does not answer."""
    try:
        yield
    except RuntimeError as error:  # gloo's, and the base of all that torch.distributed raises
        reason = " ".join(str(error).split())[:200]
        raise LostProcess(
            f"another process has ended or does not answer ({reason}); its own message says why. Training goes on from "
            "the last checkpoint with --resume"
        ) from error


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name} is '{text}': must be a number; start with torchrun, or leave it unset") from error
