"""The whole way in one call: generated data, training, evaluation, report."""

import shutil
import time
from pathlib import Path

from stochseg.errors import InputError
from stochseg.progress import say


def demo(out: Path = Path("runs/demo"), minutes: float = 3.0, seed: int = 0) -> Path:
    """Generate ambiguous images, train on them, judge the model on unseen ones and write the report page.

    Args:
        out: run directory; the generated store goes into it too. An earlier demo there is replaced.
        minutes: time for training; the rest takes about a minute.
        seed: of data, training and samples.
    """
    from stochseg.data.ambiguous import prepare_ambiguous
    from stochseg.evaluation import evaluate
    from stochseg.report.page import write_report
    from stochseg.report.table import scores_table
    from stochseg.training.run import train

    start = time.monotonic()
    if out.exists():
        if any(out.iterdir()) and not (out / "store").is_dir():
            raise InputError(f"--out {out}: holds something else than an earlier demo; choose another directory")
        shutil.rmtree(out)
    say("1/4 generating images whose distribution of answers is known")
    generated = prepare_ambiguous(out.with_name(f".{out.name}-store"), seed=seed, overwrite=True)
    say(f"2/4 training for {minutes:g} minutes")
    train(data=generated, out=out, config="demo", minutes=minutes, seed=seed)
    store = out / "store"
    generated.rename(store)
    say("3/4 judging the model on images it has not seen")
    result = evaluate(out, store, "test", seed=seed)
    say("4/4 drawing the report")
    page = write_report(out)
    print(scores_table(result))
    print(
        f"\nThe best reachable GED is that of the true distribution. Whole demo: {(time.monotonic() - start) / 60:.1f} minutes."
    )
    print(f"Open in a browser: {page.resolve()}")
    return out
