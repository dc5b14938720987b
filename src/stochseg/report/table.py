"""The table that `evaluate` prints and the page shows."""

from typing import Any

ROWS = {
    "raters": "the raters' own population",
    "truth": "the true distribution",
    "all_empty": "always empty",
    "argmax": "most likely map of q, repeated",
    "independent_pixels": "independent pixels drawn from q",
}
COLUMNS = {
    "ged": "GED",
    "hm_iou": "matched IoU",
    "diversity": "diversity",
    "distance_to_labels": "distance to labels",
}


def scores_rows(result: dict[str, Any]) -> list[list[str]]:
    """Header, the model's row, then one row a trivial answer; cells as text."""
    rows = [["", *COLUMNS.values()], ["this model", *(_cell(result, key) for key in COLUMNS)]]
    for name, text in ROWS.items():
        if name in result["baselines"]:
            rows.append([text, *(_number(result["baselines"][name].get(key)) for key in COLUMNS)])
    return rows


def scores_table(result: dict[str, Any]) -> str:
    """The scores as aligned text."""
    rows = scores_rows(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[1]))
    return "\n".join([caption(result), "", *lines, "", details(result)])


def caption(result: dict[str, Any]) -> str:
    return (
        f"{result['images']} images of {result['groups']} groups, split {result['split']}, {result['samples']} samples an "
        f"image, convention {result['convention']}; [95 % interval over groups]"
    )


def details(result: dict[str, Any]) -> str:
    return (
        f"Dice of the mean {_cell(result, 'dice')}; calibration error of q {result['ece_q']:.4f}, of the samples' mean "
        f"{result['ece_mean']:.4f}; diversity of the raters {_number(result.get('raters_diversity'))}; "
        f"{result['seconds']:.1f} s"
    )


def _cell(result: dict[str, Any], key: str) -> str:
    interval = result.get(f"{key}_interval")
    return _number(result.get(key)) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
