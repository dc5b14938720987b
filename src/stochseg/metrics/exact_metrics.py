"""What the torchmetrics classes have in common: states that add up without rounding, on one process or many."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.data import dim_zero_cat

from stochseg.errors import InputError
from stochseg.metrics.conventions import check_classes
from stochseg.metrics.inputs import check_maps, exact_dtype
from stochseg.metrics.marginals import UNITS, class_frequencies
from stochseg.metrics.reliability import ReliabilityCounts


class ExactMetric(Metric):
    """What the classes here share: a single state, which keeps its type, and a name of its own for it."""

    is_differentiable = False
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0

    def __init__(
        self, function: Callable[..., Any], settings: dict[str, Any], default: Tensor | list[Tensor], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_classes(settings["classes"], settings["ignore"])
        self.settings = settings
        # A MetricCollection takes metrics whose states have equal names and, after the first batch, equal values for
        # one, and from then on updates the first of them alone. On a batch of empty maps many scores are equal; so
        # the name holds what is scored and how, and only metrics that do the same work share it.
        key = sha256(repr((function.__name__, sorted(settings.items()))).encode()).hexdigest()
        self._state = f"state_{key[:12]}"
        self.add_state(self._state, default, dist_reduce_fx="cat" if isinstance(default, list) else "sum")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    @contextmanager
    def _all_processes(self) -> Iterator[Any]:
        """The state of all processes, where there are several and they are not gathered already."""
        gather = not self._is_synced
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=gather and self.sync_on_compute, should_unsync=gather
        ):
            yield getattr(self, self._state)

    def _exact(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=exact_dtype(self.device), device=self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        """Follow `.to`, `.cuda`, `.cpu` to a device, and stay exact whatever `.half`, `.to(dtype)` do to a model."""

        def moved(tensor: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=tensor.device)).device
            return tensor.to(device, exact_dtype(device) if tensor.is_floating_point() else tensor.dtype)

        return super()._apply(moved, exclude_state)


class PerImageMetric(ExactMetric):
    """Mean of a value per image; where no image has a defined one it is nan, with a warning."""

    columns: ClassVar[int] = 1
    """Values an image in the state: scores that come from the same work share it in a MetricCollection."""
    column: ClassVar[int] = 0
    """Which of them is this score."""

    def __init__(self, function: Callable[..., Tensor], settings: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(function, settings, [], **kwargs)
        self._function = function
        self.undefined = 0
        """Images without a defined score, of those behind the value last computed (by `forward`: of the batch)."""

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the values of all processes, of which some may have none yet: empty, but of the right type."""
        if len(getattr(self, self._state)) == 0:
            self._keep(torch.empty(0, self.columns))
        super().sync(*args, **kwargs)

    def compute(self) -> Tensor:
        """The mean over the images whose score is defined: a scalar, float64 (float32 on MPS)."""
        values = self._values(getattr(self, self._state)).tolist()
        defined = [value for value in values if not math.isnan(value)]
        self.undefined = len(values) - len(defined)
        if values and not defined:
            rank_zero_warn(f"{type(self).__name__} is undefined for every image given, the result is nan")
        return self._exact(math.fsum(defined) / len(defined) if defined else math.nan)

    def per_image(self) -> Tensor:
        """The value of every image, float64 [images] on the CPU, nan where undefined; all processes must call it.

        The images of process 0 come first, in the order they were given, then those of process 1, and so on.
        """
        with self._all_processes() as state:
            return self._values(state)

    def reset(self) -> None:
        super().reset()
        self.undefined = 0

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw a value, or a list of values over steps, or what `compute` gives: (figure, axes)."""
        return self._plot(val, ax)

    def _score(self, *args: Any, **more: Any) -> None:
        self._keep(self._function(*args, **more, **self.settings))

    def _keep(self, values: Tensor) -> None:
        rows = values.detach().reshape(len(values), self.columns)
        getattr(self, self._state).append(rows.to(self.device, exact_dtype(self.device)))

    def _values(self, state: list[Tensor] | Tensor) -> Tensor:
        return dim_zero_cat(state)[:, self.column].cpu().double() if len(state) else torch.empty(0).double()


class BinnedMetric(ExactMetric):
    """A calibration error, from sums by bin of confidence: whole numbers, so they too add up without rounding."""

    higher_is_better = False

    def __init__(
        self, function: Callable[..., ReliabilityCounts], settings: dict[str, Any], shape: Sequence[int], **kwargs: Any
    ) -> None:
        super().__init__(function, settings, torch.zeros(3, *shape, dtype=torch.int64), **kwargs)

    def compute(self) -> Tensor:
        """The calibration error over all observations: a scalar, float64 (float32 on MPS); nan where there are none."""
        found = self._counts(getattr(self, self._state))
        if not bool(found.counts.any()):
            if self.update_called:
                rank_zero_warn(f"{type(self).__name__} has nothing to count in any image given, the result is nan")
            return self._exact(math.nan)
        return self._exact(float(found.error().mean()))

    def counts(self) -> ReliabilityCounts:
        """The sums of all processes on the CPU, for `.curve()`; all processes must call it."""
        with self._all_processes() as state:
            return self._counts(state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the reliability curve (of every class, where they are apart), or values as torchmetrics does, if given.

        Returns figure and axes. The area of a dot is the share of observations in its bin.
        """
        if val is not None:
            return self._plot(val, ax)
        from matplotlib import pyplot as plt

        counts = self.counts()
        if ax is None:
            _, ax = plt.subplots()
        ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
        confidence, frequency = (each.reshape(-1, counts.counts.shape[-1]) for each in counts.curve())
        for i, sizes in enumerate(counts.counts.reshape(confidence.shape)):
            used = sizes > 0
            points = confidence[i][used].numpy(), frequency[i][used].numpy()
            (line,) = ax.plot(*points, label=self._curve_names()[i])
            ax.scatter(*points, s=(400 * sizes[used] / sizes.sum()).numpy(), color=line.get_color(), alpha=0.5)
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="frequency of being true")
        if len(confidence) > 1:
            ax.legend()
        return ax.get_figure(), ax

    def _add(self, found: ReliabilityCounts) -> None:
        sums = torch.stack([found.counts, found.confidence * UNITS, found.accuracy]).round().to(torch.int64)
        setattr(self, self._state, getattr(self, self._state) + sums.to(self.device))

    def _counts(self, state: Tensor) -> ReliabilityCounts:
        counts, units, accuracy = state.cpu().double()
        return ReliabilityCounts(counts, units / UNITS, accuracy)

    def _curve_names(self) -> list[str]:
        return [type(self).__name__]


def marginals_of(predictions: Tensor, labels: Tensor, classes: int, from_samples: bool) -> Tensor:
    """Probabilities [b k h w]: the predictions, or the class frequencies of predictions that are samples [b n h w]."""
    if from_samples:
        return class_frequencies(check_maps(predictions, labels, classes)[0], classes)
    soft = isinstance(predictions, Tensor) and predictions.is_floating_point() and predictions.ndim == 4
    if soft and predictions.shape[1] != classes:
        raise InputError(
            f"predictions have shape {list(predictions.shape)}, [b k h w] with k={predictions.shape[1]}; "
            f"this metric was made with classes={classes}"
        )
    return predictions
