"""Figures of what was planned or simulated; the only place that knows matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import SettingsError

_COLOURS = ("#1b6ca8", "#c8553d", "#3c8d5a", "#8a5fa8", "#b08a2e", "#4a4a4a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one thing; one without a label continues the thing before it, in its colour."""

    label: str
    points: Sequence[tuple[float, float]]
    line: bool = True


_NEAREST_LABELS = 1.6
"""Ratio of two places on a logarithmic axis."""


def draw(
    path: Path, series: Sequence[Series], *, title: str, x: str, y: str, log_x: bool = False
) -> None:
    """Draw series into one figure, PNG or SVG by the file's name.

    Raises:
        SettingsError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingsError("figures need matplotlib: pip install '.[planner]'") from None
    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    colour = -1
    for each in series:
        colour += bool(each.label) or colour < 0
        axes.plot(
            *zip(*each.points, strict=True),
            "o-" if each.line else "o",
            color=_COLOURS[colour % len(_COLOURS)],
            markersize=3.5,
            linewidth=1.3,
            alpha=1.0 if each.line else 0.4,
            label=each.label or None,
        )
    axes.set(title=title, xlabel=x, ylabel=y, ylim=(0, None))
    if log_x:
        places = sorted({point[0] for each in series for point in each.points})
        axes.set_xscale("symlog", linthresh=2)
        labels: list[str] = []
        labelled = 0.0
        for place in places:
            # A label that would touch the one before is left out.
            is_far = place >= _NEAREST_LABELS * labelled
            labels.append(f"{place:g}" if is_far else "")
            labelled = place if is_far else labelled
        axes.set_xticks(places, labels=labels)
        axes.minorticks_off()
        axes.set_xlim(-0.2, 1.1 * places[-1])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be drawn: {error}") from None
