"""What each score says of a model that is right, and of models that are wrong in one way each: see docs/metrics.md.

    python examples/scores.py [--out docs/images]

prints the tables of that page as Markdown and draws its pictures, in some ten seconds. Nothing is trained or
downloaded: scores_toys.py generates what is scored.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import scores_toys as toys
import torch
from numpy.typing import NDArray
from scores_toys import IMAGES, MODELS, RATERS, SAMPLES, TRUTH, Maps, Toy, samples_of
from torch import Tensor

from stochseg import metrics

Scores = Mapping[str, Mapping[str, Tensor]]
"""By model and by name of the score: [b], or a scalar."""
LOWER, HIGHER, NEITHER = "lower", "higher", ""
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "whole": {
        "GED": (LOWER, ".3f"),
        "d_ys": (LOWER, ".3f"),
        "diversity": (NEITHER, ".3f"),
        "matched IoU": (HIGHER, ".3f"),
        "area CRPS, pixels": (LOWER, ".1f"),
        "P(empty) Brier": (LOWER, ".3f"),
    },
    "best": {
        "Dice of the mean": (HIGHER, ".3f"),
        "soft Dice": (HIGHER, ".3f"),
        "best sample": (HIGHER, ".3f"),
        "D_max": (HIGHER, ".3f"),
        "S_c": (HIGHER, ".3f"),
        "D_a": (HIGHER, ".3f"),
        "D_a by Dice": (HIGHER, ".3f"),
        "CI": (HIGHER, ".3f"),
    },
    "pixels": {
        "ECE top": (LOWER, ".4f"),
        "ECE class-wise": (LOWER, ".4f"),
        "ECE equal mass": (LOWER, ".4f"),
        "Brier": (LOWER, ".4f"),
        "NLL": (LOWER, ".4f"),
        "NCC": (HIGHER, ".3f"),
        "entropy": (NEITHER, ".4f"),
    },
    "modes": {
        "total variation": (LOWER, ".3f"),
        "missed modes": (LOWER, ".2f"),
        "missed probability": (LOWER, ".3f"),
        "off-mode share": (LOWER, ".3f"),
        "P(empty) ECE": (LOWER, ".3f"),
    },
}
FORMATS = {name: column for columns in COLUMNS.values() for name, column in columns.items()}


def scores_of(samples: Tensor, toy: Toy) -> dict[str, Tensor]:
    """Every score of samples [b 16 h w]: [b], or a scalar for those that are no mean over images."""
    labels, modes, p = (torch.from_numpy(each) for each in (toy.labels, toy.modes, toy.probabilities))
    distances = metrics.set_distances(samples, labels)
    parts = metrics.energy_distance_of(distances)
    q = metrics.class_frequencies(samples)
    near = metrics.nearest_modes(samples, modes)
    frequencies = near.frequencies()
    return {
        "GED": parts.ged,
        "d_ys": parts.d_ys,
        "diversity": parts.diversity,
        "matched IoU": metrics.hungarian_iou_of(distances),
        "area CRPS, pixels": metrics.area_crps(samples, labels),
        "P(empty) Brier": metrics.empty_brier(samples, labels),
        "Dice of the mean": metrics.dice_of_mean(samples, labels),
        "soft Dice": metrics.soft_dice(q, labels),
        "best sample": metrics.best_sample(samples, labels),
        "D_max": metrics.max_dice(samples, labels),
        "S_c": metrics.combined_sensitivity(samples, labels),
        "D_a": metrics.diversity_agreement(samples, labels),
        "D_a by Dice": metrics.diversity_agreement(samples, labels, spread="dice"),
        "CI": metrics.collective_insight(samples, labels),
        "ECE top": metrics.expected_calibration_error(q, labels),
        "ECE class-wise": metrics.expected_calibration_error(q, labels, target="class"),
        "ECE equal mass": metrics.expected_calibration_error(q, labels, binning="mass"),
        "Brier": metrics.brier_score(q, labels),
        "NLL": metrics.negative_log_likelihood(q, labels),
        "NCC": metrics.normalized_cross_correlation(samples, labels),
        "entropy": metrics.entropy(q).mean((1, 2)),
        "total variation": metrics.mode_total_variation(frequencies, p),
        "missed modes": metrics.missed_modes(frequencies, p),
        "missed probability": metrics.missed_mass(frequencies, p),
        "off-mode share": near.off_share(),
        "P(empty) ECE": metrics.empty_counts(samples, labels).error(),
    }


def expected_of(toy: Toy, n: int = SAMPLES) -> dict[str, Tensor]:
    """What n independent draws from the truth are expected to score, exactly, where that is known; each [b]."""
    p, modes = torch.from_numpy(toy.probabilities), torch.from_numpy(toy.modes)
    distance = torch.einsum("bi,bij,bj->b", p, 1 - metrics.pairwise_iou(modes, modes), p)
    areas = metrics.class_areas(modes)[..., 0]
    apart = torch.einsum("bi,bij,bj->b", p, (areas[:, :, None] - areas[:, None]).abs(), p)
    return {
        "GED": distance * (1 / n + 1 / RATERS),
        "d_ys": distance,
        "diversity": distance,
        "area CRPS, pixels": apart / 2 * (1 + 1 / n),
        "P(empty) Brier": p[:, 0] * (1 - p[:, 0]) * (1 + 1 / n),
        "total variation": metrics.expected_total_variation(p, n),
        "missed modes": metrics.expected_missed_modes(p, n),
        "missed probability": metrics.expected_missed_mass(p, n),
        "off-mode share": torch.zeros(len(p)),
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(values: Tensor, form: str) -> str:
    """Mean over the images that have a value, and in brackets how many have none."""
    missing = int(values.isnan().sum())
    if missing == values.numel():
        return "none"
    return f"{values.nanmean().item():{form}}" + (f" ({missing})" if missing else "")


def fools(found: Scores, model: str, name: str) -> bool:
    """Whether the printed score of a wrong model is at least as good as that of the truth."""
    better, form = FORMATS[name]
    text, of_truth = (cell(found[one][name], form) for one in (model, TRUTH))
    if model == TRUTH or better == NEITHER or text == "none":
        return False
    value, true = float(text.split()[0]), float(of_truth.split()[0])
    return value <= true if better == LOWER else value >= true


def nearness(found: Scores, models: list[str], names: list[str]) -> NDArray[np.float64]:
    """How near each score puts each model to the truth, [models names]: 1 is as good as the truth, nan no score.

    0 is as bad as the worst of the models, but for "everything marked", beside which all others would be alike.
    """
    signs = {name: 1 if FORMATS[name][0] == HIGHER else -1 for name in names}
    values = {m: np.array([signs[n] * found[m][n].nanmean().item() for n in names]) for m in found}
    worst = np.nanmin([values[m] for m in models if m != "everything marked"], axis=0)
    return np.array([(values[m] - worst) / (values[TRUTH] - worst) for m in models])


def toy_tables(toy: Toy, found: Scores) -> dict[str, str]:
    """The four tables of models and scores; bold: a wrong model that scores as well as the truth does, or better."""
    expected = expected_of(toy)
    reference = metrics.raters_reference(torch.from_numpy(toy.labels), SAMPLES)
    result = {}
    for title, columns in COLUMNS.items():
        rows = []
        for model, scores in found.items():
            row = [model]
            for name, (_, form) in columns.items():
                text = cell(scores[name], form)
                row.append(f"**{text}**" if fools(found, model, name) else text)
            rows.append(row)
        if title in ("whole", "modes"):
            known = [cell(expected[name], form) if name in expected else "" for name, (_, form) in columns.items()]
            rows.append(["*expected of the truth*", *known])
        if title == "whole":
            ged, matched = (cell(each, ".3f") for each in reference)
            rows.append(["*raters' reference*", ged, "", "", matched, "", ""])
        result[title] = table(["", *columns], rows)
    return result


BATCH = 4
"""Images of a batch, where a whole one is dropped."""
CONVENTIONS = ("car", "ccdm", "phiseg", "ssn", "mose", "flow-ssn", "d-persona", "values")


def conventions_table(toy: Toy) -> str:
    """The same maps by every convention that needs no flips."""
    labels = torch.from_numpy(toy.labels)
    sets = [samples_of(toy, TRUTH), samples_of(toy, TRUTH, 32), samples_of(toy, "decent")]
    rows = []
    for name in CONVENTIONS:
        row, statistics = [f"`{name}`"], [f"`{name}`, statistic U"]
        for samples in sets:
            distances = metrics.set_distances(samples, labels, convention=name)
            matching = metrics.get_convention(name).matching
            matched = "" if matching == "none" else cell(metrics.hungarian_iou_of(distances, matching), ".3f")
            row += [cell(metrics.energy_distance_of(distances).ged, ".3f"), matched]
            statistics += [cell(metrics.energy_distance_of(distances, "U").ged, ".3f"), ""]
        rows += [row, statistics] if name == "car" else [row]
    named = ("truth, n = 16", "truth, n = 32", "decent, n = 16")
    return table(["convention", *(f"{score}, {of}" for of in named for score in ("GED", "matched"))], rows)


def sentence(toy: Toy, ged: Tensor) -> str:
    """How to state one number."""
    low, high = metrics.bootstrap_interval(ged.numpy(), toy.patients)
    reference = metrics.raters_reference(torch.from_numpy(toy.labels), SAMPLES).ged.nanmean()
    patients, undefined = len(set(toy.patients.tolist())), int(ged.isnan().sum())
    return (
        f"GED {ged.nanmean():.3f} [{low:.3f}, {high:.3f}] (convention car, V statistic, n = {SAMPLES}, r = {RATERS}; "
        f"{IMAGES} images of {patients} patients,\n{undefined} undefined; 95 % interval over patients; "
        f"raters' reference {reference:.3f})"
    )


def streets_table() -> str:
    """Three models by the conventions for flips, and what is left where an image with an undefined pair is dropped."""
    labels = toys.make_streets()
    models = {"truth": toys.street_truth(labels), "decent": toys.street_guesses(labels)}
    hiding = models["decent"].copy()
    scored = street_score(metrics.generalized_energy_distance, hiding, labels, "car-cityscapes")
    hiding[(scored > scored.nanquantile(0.75)).numpy(), 0] = 0  # one sample of each bad image shows sky alone
    models["decent, hiding its worst"] = hiding
    rows = []
    for name, maps in models.items():
        ged = street_score(metrics.generalized_energy_distance, maps, labels, "car-cityscapes")
        phiseg = street_score(metrics.generalized_energy_distance, maps, labels, "phiseg")
        matched = street_score(metrics.hungarian_iou, maps, labels, "mose")
        counted = (maps > 0) & (maps != toys.IGNORED) & (labels != toys.IGNORED)
        dropped = torch.from_numpy(~counted.any((2, 3)).all(1)) | ged.isnan()  # no class in one sample, or in the label
        batches = dropped.view(-1, BATCH).any(1).repeat_interleave(BATCH)
        kept = [f"{ged[~gone].mean():.3f} of {int((~gone).sum())}" for gone in (dropped, batches)]
        rows.append([name, cell(ged, ".3f"), cell(matched, ".3f"), cell(phiseg, ".3f"), *kept])
    flipping = "GED, `car-cityscapes`, `kohl`, `mose`"
    return table(["", flipping, "matched, `mose`", "GED, `phiseg`", "image dropped", "batch dropped"], rows)


def street_score(score: Callable[..., Tensor], maps: Maps, labels: Maps, convention: str) -> Tensor:
    tensors = torch.from_numpy(maps), torch.from_numpy(labels)
    return score(*tensors, toys.STREET_CLASSES, convention, ignore=toys.IGNORED, flips=toys.FLIPS)


def tables(toy: Toy, found: Scores) -> dict[str, str]:
    """Every table of docs/metrics.md by the name that stands in the comment before it."""
    return {
        **toy_tables(toy, found),
        "sentence": sentence(toy, found["decent"]["GED"]),
        "conventions": conventions_table(toy),
        "streets": streets_table(),
    }


def all_scores(toy: Toy) -> dict[str, dict[str, Tensor]]:
    return {name: scores_of(samples_of(toy, name), toy) for name in MODELS}


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the tables of docs/metrics.md and draw its pictures.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    out = parser.parse_args().out
    torch.set_num_threads(1)  # tensors are small: more threads would only wait for each other
    toy = toys.make_toy()
    found = all_scores(toy)
    for name, text in tables(toy, found).items():
        print(f"<!-- {name} -->\n{text}\n")
    draw(toy, found, out)


def draw(toy: Toy, found: Scores, out: Path) -> None:
    import scores_pictures

    wrong, ranking = [m for m in found if m != TRUTH], [n for n, (better, _) in FORMATS.items() if better != NEITHER]
    dots = np.array([[fools(found, model, name) for name in ranking] for model in wrong])
    floor = {n: float(expected_of(toy, n)["GED"].mean()) for n in (4, 8, 16, 32, 64)}
    beside = {name: {m: float(found[m][name].nanmean()) for m in found} for name in ("GED", "matched IoU", "D_max")}
    figures = {
        "models": scores_pictures.of_models(toy, beside),
        "fooled": scores_pictures.of_nearness(wrong, ranking, nearness(found, wrong, ranking), dots),
        "reliability": scores_pictures.of_reliability(toy),
        "counts": scores_pictures.of_counts(toy, floor),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        scores_pictures.save(figure, out / f"scores_{name}.png")
        print(out / f"scores_{name}.png")


if __name__ == "__main__":
    main()
