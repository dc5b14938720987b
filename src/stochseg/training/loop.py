"""The training loop, readable from top to bottom."""

import math
import time
from collections import Counter
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from stochseg.config import Config
from stochseg.data.ahead import Ahead, workers_for
from stochseg.data.batches import Batches
from stochseg.data.store import Store
from stochseg.errors import Stopped
from stochseg.models.precision import resolve_precision
from stochseg.models.segmenter import Segmenter
from stochseg.processes import World
from stochseg.progress import say
from stochseg.threads import Crowd
from stochseg.training.checkpoint import average_weights, load_checkpoint, save_checkpoint
from stochseg.training.compiled import compiled
from stochseg.training.distributed import Exchange, copy_first
from stochseg.training.log import Log
from stochseg.training.phases import make_phases
from stochseg.training.profile import end_of, end_step, profiling, timed
from stochseg.training.recorded import Recorder
from stochseg.training.schedule import Budget, learning_rate
from stochseg.training.step import take_step
from stochseg.training.stopping import Interrupted, stop_on_signal
from stochseg.training.validation import Validation


def run_training(
    model: Segmenter, store: Store, run: Path, config: Config, resume: bool, world: World, profile: bool = False
) -> None:
    """Train `model` on `store`, leaving everything in the directory `run`.

    With a budget in steps or epochs the result on a CPU depends on the config alone, bit for bit, through any number of
    kills and resumes: batches, noise and dropout are functions of (seed, step), all else is in the checkpoint. With a
    budget in minutes it depends on the speed of the machine too. Several processes share each batch, all hold the same
    weights, and the first writes. profile: measure where the time of its steps goes.
    """
    copy_first(world, model.networks.state_dict().values())
    flips = store.flips if config.input.class_flips else ()
    batches = Batches(store.split("train"), config.training.batch, config.input, config.seed, flips)
    rows = world.rows(config.training.batch)
    draw = partial(batches.at, rows=rows)
    validation = Validation(store, run, config, world)
    budget = Budget.of(config, batches.per_epoch)
    dtype = resolve_precision(config.precision, model.device)
    averaged = average_weights(model.networks, config.training.ema)
    judged = model if averaged is None else model.with_networks(cast(nn.ModuleDict, averaged.module))
    phases = make_phases(model.networks, config)
    numbers: dict[str, Any] = {
        "step": 0,
        "seconds": 0.0,
        "accuracy": 0.0,
        "best": None,
        "unjudged": False,  # whether a signal cut the validation after this step short
        "store": store.fingerprint,
        "processes": world.size,
    }
    if resume:
        numbers |= load_checkpoint(run / "checkpoint", model.networks, averaged, phases)
        if budget.progress(numbers["step"], numbers["seconds"]) >= 1 and not numbers.get("unjudged"):
            say(f"{run} has used up its budget at step {numbers['step']}; raise it with --steps, --epochs or --minutes")
    log = Log(run, config, numbers["step"], world.first)
    start = time.monotonic() - numbers["seconds"]
    sums: Counter[str] = Counter()
    steps_since = 0
    counts: Counter[str] = Counter()  # not every step has every loss: the discriminator's comes and goes
    logged = saved = time.monotonic()

    def elapsed() -> float:
        return float(time.monotonic() - start)

    def judge(step: int) -> None:
        """Validate. That may take long, so a signal ends it at once, and a resumed run does it anew."""
        numbers["unjudged"] = True
        with suppress(Interrupted), stopped.at_once():
            numbers.update(best=validation.judge(judged, step, numbers["best"], log), unjudged=False)

    def save() -> None:
        store.check_unchanged()
        if world.first:
            save_checkpoint(run / "checkpoint", model.networks, averaged, phases, numbers | {"seconds": elapsed()})

    gpus = [model.device] if model.device.type == "cuda" else []
    facts = {
        "batch": config.training.batch,
        "processes": world.size,
        "device": f"{model.device.type}, {torch.get_num_threads()} threads",
        "precision": str(dtype).removeprefix("torch."),
    }
    profiled = profiling(run if profile and world.first else None, model.device, facts)
    quick = compiled(model.networks, config.training.compile_mode) if config.training.compile else nullcontext()
    workers = workers_for(config.training.workers, model.device, world.local_size)
    recorder = None
    if model.device.type == "cuda" and config.training.record and not config.training.compile:
        recorder = (
            Recorder(model.networks) if config.training.accumulate == 1 else None
        )  # parts add up, recordings do not
    with (
        stop_on_signal() as stopped,
        torch.random.fork_rng(gpus),
        closing(log),
        profiled,
        quick,
        Ahead(draw, workers) as ahead,
    ):
        exchange = Exchange(world, stopped.is_set, elapsed)
        crowd = Crowd(torch.get_num_threads() if model.device.type == "cpu" else 1)
        progress = budget.progress(numbers["step"], numbers["seconds"])
        if numbers.get("unjudged"):
            judge(numbers["step"])
            save()
        while progress < 1 and not exchange.stop:
            step = numbers["step"]
            epoch = batches.epoch_of(step)
            if step % batches.per_epoch == 0:
                numbers["accuracy"] = 0.0  # the discriminator's cap starts afresh in each epoch
            rates = {
                phase.name: learning_rate(
                    phase.config, step, epoch, progress, config.training.warmup, config.training.cosine
                )
                for phase in phases
            }
            store.check_unchanged()
            with timed("data"):
                generator = step_generator(config.seed, step)
                shape = config.training.batch, config.objective.samples, model.latent
                z = torch.randn(shape, generator=generator)[rows]
                # dropout draws from the global one, in each process other masks
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + world.rank)
                batch = ahead.at(step)
            losses = take_step(
                model,
                phases,
                batch,
                z,
                replace(config, objective=config.objective.at(progress)),
                store.ignore,
                dtype,
                numbers["accuracy"],
                rates,
                step,
                exchange,
                store.flips,
                recorder,
            )
            if averaged is not None:
                with timed("optimizer"):
                    averaged.update_parameters(model.networks)
            numbers |= {"step": step + 1, "accuracy": losses.get("accuracy", 0.0)}
            step += 1
            progress = budget.progress(step, exchange.seconds)

            sums.update(losses)
            counts.update(losses.keys())
            steps_since += 1
            speed = config.training.batch * step / elapsed()
            log.show(step, progress, budget.seconds_left(step, elapsed()), losses, speed)
            if progress >= 1 or step % config.training.log_every == 0:
                now = time.monotonic()
                means = {name: value / counts[name] for name, value in sums.items()}
                speed = config.training.batch * steps_since / (now - logged)
                pace = {"epoch": epoch, "minutes": elapsed() / 60, "images_per_second": speed}
                log.numbers(step, pace | means | {f"lr_{name}": rate for name, rate in rates.items()})
                sums.clear()
                counts.clear()
                steps_since = 0
                logged = now
                crowd.look()
            end_step()
            if progress >= 1 or step % config.validation.every == 0:
                judge(step)
                saved = -math.inf
                end_of("validation")
            if exchange.stop or time.monotonic() - saved > config.training.save_every:
                save()
                saved = time.monotonic()
                end_of("saving")
        if exchange.stop:
            world.wait()  # a launcher ends the others as soon as one has ended: let the first save
            raise Stopped(f"stopped by a signal at step {numbers['step']}; go on with --resume")


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of a step's noise: a function of (seed, step) alone."""
    return torch.Generator().manual_seed(int(np.random.default_rng([seed, step, 2]).integers(2**62)))
