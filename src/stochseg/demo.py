"""The whole way in one call: generated data, training, evaluation, report."""

import json
import shutil
import time
from pathlib import Path

from stochseg.errors import InputError
from stochseg.progress import say


def demo(out: str | Path = Path("runs/demo"), minutes: float = 3.0, seed: int = 0) -> Path:
    """Generate ambiguous images, train on them, judge the model on unseen ones and write the report page.

    Args:
        out: run directory; the generated store lies beside it, as OUT-store. An earlier demo there is replaced.
        minutes: time for training; the rest takes about half a minute.
        seed: of data, training and samples.
    """
    from stochseg.data.ambiguous import prepare_ambiguous
    from stochseg.evaluation import evaluate
    from stochseg.presets import load_config
    from stochseg.report.page import write_report
    from stochseg.report.table import scores_table
    from stochseg.training.run import train

    start = time.monotonic()
    out = Path(out)
    store = out.resolve().with_name(f"{out.resolve().name}-store")
    load_config("demo", {"minutes": minutes, "seed": seed})  # refuses bad numbers before anything is replaced
    for place in (store, out):
        if place.exists() and not _is_demo(store):
            raise InputError(f"--out {out}: {place} is there and no earlier demo; choose another directory")
    say("1/4 generating images whose distribution of answers is known")
    prepare_ambiguous(store, seed=seed, overwrite=store.exists())
    if out.exists():
        shutil.rmtree(out)
    say(f"2/4 training for {minutes:g} minutes")
    train(data=store, out=out, config="demo", minutes=minutes, seed=seed)
    say("3/4 judging the model on images it has not seen")
    result = evaluate(out, store, "test", seed=seed)
    say("4/4 drawing the report")
    page = write_report(out)
    print(scores_table(result))
    print("\nThe best reachable GED is that of the true distribution.")
    print(f"The whole demo took {(time.monotonic() - start) / 60:.1f} minutes. Open in a browser: {page.resolve()}")
    return out


def _is_demo(store: Path) -> bool:
    """Whether this is a store that a demo generated: then the run beside it is the demo's too."""
    try:
        index = json.loads((store / "index.json").read_text())
        return bool(index["notes"]["generator"] == "ambiguous")
    except (OSError, ValueError, KeyError, TypeError):
        return False
