"""Judging the model during training: a fixed choice of images, fixed noise, the best model kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from stochseg.card import Origin
from stochseg.config import Config, ValidationConfig
from stochseg.data.store import Store
from stochseg.errors import InputError
from stochseg.metrics.conventions import get_convention
from stochseg.metrics.intervals import bootstrap_interval
from stochseg.models.segmenter import Segmenter
from stochseg.processes import World
from stochseg.scoring.shared import score_shared
from stochseg.scoring.split_scores import images_at_once, score_split
from stochseg.training.log import Log
from stochseg.training.run import keep_model


def replaces(judged: float, best: float | None, config: ValidationConfig) -> bool:
    """Whether a model of this GED takes the place of the one kept, `best` being the lowest GED there was.

    A few hundred images cannot tell models apart that differ by less than the slack; then the newer one is kept, which
    has learned longer and at a lower learning rate.
    """
    return best is None or judged <= best + config.slack or config.select == "last"


class Validation:
    """Scores the model on the same images with the same noise each time, and keeps the best in RUN/model.

    Several processes share the images; the first writes.
    """

    def __init__(self, store: Store, run: Path, config: Config, world: World) -> None:
        self.store, self.run, self.config, self.world = store, run, config, world
        self.split = store.split(config.validation.split)
        self.crop = None if config.input.whole else config.input.crop
        self.ignore = store.ignore
        # repeats to the least common multiple: the same numbers where raters divide samples, and never an error
        self.flips = store.flips or None
        self.convention = replace(get_convention(store.convention, self.flips is not None), matching="transport")
        count, wanted = len(self.split), config.validation.images
        order = np.random.default_rng([config.seed, 3]).permutation(count)
        self.rows = sorted(int(i) for i in order[: min(count, wanted or count)])
        self.groups = np.array(self.split.groups)[self.rows]
        sources = [source for source, _, _ in self.flips or ()]
        if sources and not any(np.isin(self.split.labels[row], sources).any() for row in self.rows):
            raise InputError(
                f"--validation.images {wanted}: no class that flips is in any of the {len(self.rows)} images of split "
                f"'{self.split.name}' that choose the model, and without one there is no GED; take more, or none for all"
            )

    def judge(self, model: Segmenter, step: int, best: float | None, log: Log) -> float | None:
        """Score the model, log it, draw a picture, and keep the model unless a former one was better.

        Selection is by GED less diversity / samples, which takes the pairs of a sample with itself out: the number of
        samples does not move it, and a model cannot win by being less diverse.
        """
        scores = score_shared(
            self.world,
            self.rows,
            images_at_once(self.split, self.crop),
            lambda rows: score_split(
                model,
                self.split,
                self.config.validation.samples,
                self.convention,
                crop=self.crop,
                ignore=self.ignore,
                flips=self.flips,
                seed=self.config.seed,
                rows=rows,
                full=False,
            ),
        )
        values = {name: float(np.nanmean(v)) for name, v in scores.values.items() if not np.isnan(v).all()}
        each = scores.values["ged"] - scores.values["diversity"] / self.config.validation.samples
        judged = float(np.nanmean(each))
        logged = {f"val_{k}": v for k, v in values.items()} | {"val_selection": judged}
        interval = ""
        if len(np.unique(self.groups[~np.isnan(each)])) > 1:  # one patient alone says nothing about others
            low, high = bootstrap_interval(each, self.groups)
            logged |= {"val_selection_low": low, "val_selection_high": high}
            interval = f" [{low:.3f}, {high:.3f}]"
        log.numbers(step, logged | {"val_ece": float(scores.reliability["q", "top"].error())})
        better = replaces(judged, best, self.config.validation)
        log.say(
            f"step {step}: GED {values['ged']:.3f}, matched IoU {values['hm_iou']:.3f}, "
            f"diversity {values['diversity']:.3f}, GED without self pairs {judged:.3f}{interval} on "
            f"{len(self.rows)} images{', kept' if better else ''}"
        )
        if self.world.first:
            self._picture(model, step)
            if better:
                keep_model(model, self.run, step, self._origin(step, values))
        return judged if best is None else min(judged, best)

    def _origin(self, step: int, values: dict[str, float]) -> Origin:
        trained_on = self.store.split("train")
        return Origin(
            self.store.path.name,
            self.store.fingerprint,
            len(trained_on),
            len(set(trained_on.groups)),
            self.store.group_name,
            self.store.raters,
            step,
            self.split.name,
            len(self.rows),
            values["ged"],
            values["hm_iou"],
        )

    def _picture(self, model: Segmenter, step: int) -> None:
        from stochseg.report.panels import save_panel

        save_panel(
            self.run / "progress" / f"step_{step:07d}.png",
            model,
            self.split,
            self.rows[:: max(1, len(self.rows) // 6)][:6],
            self.crop,
            self.config.seed,
        )
