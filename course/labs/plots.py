"""Plots with one look: axes labelled with units, colours that colour-blind readers can tell apart, an alternative text each.

Each function returns the figure, for `show`. Several series are a dict, by their names in the legend.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

# Okabe and Ito's palette without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = "osD^vPX"
STYLE: Any = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.titlesize": "medium",
    "figure.figsize": (6.4, 3.8),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "image.cmap": "viridis",
}


def figure(columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """`plt.subplots` in the course's style: the figure, and its axes (one, or an array of them)."""
    with plt.rc_context(STYLE):
        options.setdefault("figsize", (6.4 if columns == 1 else 4.6 * columns, 3.8 * rows))
        return plt.subplots(rows, columns, layout="constrained", **options)


def lines(
    x: ArrayLike | Mapping[str, ArrayLike],
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    xscale: str = "linear",
    yscale: str = "linear",
    spread: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    predicted: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Lines over one x, or over an x for each series; `spread` shades (low, high) around a line.

    Args:
        predicted: a point (x, y) that the student predicted; drawn where it is not None and y is a number.
    """
    fig, ax = _axes(ax)
    for place, (name, y) in enumerate(series.items()):
        own = x if not isinstance(x, Mapping) else x[name]
        many = len(np.atleast_1d(np.asarray(y))) > 25
        colour = COLOURS[place % len(COLOURS)]
        ax.plot(own, y, label=name, color=colour, marker="" if many else MARKERS[place % len(MARKERS)], markersize=5)
        if spread and name in spread:
            low, high = spread[name]
            ax.fill_between(np.asarray(own), np.asarray(low), np.asarray(high), color=colour, alpha=0.15, linewidth=0)
    if predicted is not None and isinstance(predicted[1], int | float):
        ax.plot(*predicted, marker="*", markersize=14, color="black", linestyle="", label="your prediction")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, xscale=xscale, yscale=yscale)
    if xscale == "log" and not isinstance(x, Mapping) and np.size(x) <= 12:
        ax.set_xticks(list(np.asarray(x)), [f"{value:g}" for value in np.asarray(x)])
        ax.minorticks_off()
    if len(series) > 1 or predicted is not None:
        ax.legend(frameon=False)
    return fig


def bars(
    names: Sequence[str],
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    yscale: str = "linear",
    errors: Mapping[str, ArrayLike] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Groups of bars, a group for each name; `errors` are half-lengths of error bars."""
    fig, ax = _axes(ax)
    width = 0.8 / len(series)
    places = np.arange(len(names))
    for place, (name, values) in enumerate(series.items()):
        offset = (place - (len(series) - 1) / 2) * width
        error = None if errors is None else errors.get(name)
        ax.bar(places + offset, values, width * 0.92, label=name, color=COLOURS[place % len(COLOURS)], yerr=error, capsize=3)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale=yscale)
    ax.set_xticks(places, names, rotation=20 if max(map(len, names)) * len(names) > 60 else 0)
    ax.grid(axis="x", visible=False)
    if len(series) > 1:
        ax.legend(frameon=False)
    return fig


def histograms(
    values: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str = "share of values",
    bins: Any = 60,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Histograms laid over each other, each with area 1 in shares of its values."""
    fig, ax = _axes(ax)
    edges = np.histogram_bin_edges(np.concatenate([np.ravel(np.asarray(v)) for v in values.values()]), bins)
    for place, (name, sample) in enumerate(values.items()):
        flat = np.ravel(np.asarray(sample))
        colour = COLOURS[place % len(COLOURS)]
        ax.hist(flat, list(edges), weights=np.full(len(flat), 1 / len(flat)), alpha=0.45, color=colour, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(values) > 1:
        ax.legend(frameon=False)
    return fig


def heatmap(
    values: ArrayLike,
    *,
    xlabel: str,
    ylabel: str,
    label: str,
    title: str = "",
    xticks: Sequence[str] | None = None,
    yticks: Sequence[str] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    numbers: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """A matrix in colours; `label` names the colour bar, `numbers` writes each value into its cell."""
    fig, ax = _axes(ax)
    array = np.asarray(values)
    image = ax.imshow(array, aspect="auto", vmin=vmin, vmax=vmax, cmap="viridis")
    fig.colorbar(image, ax=ax, label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(visible=False)
    for axis, names in ((ax.xaxis, xticks), (ax.yaxis, yticks)):
        if names is None:
            axis.set_major_locator(MaxNLocator(integer=True))
        else:
            axis.set_ticks(range(len(names)), names)
    if numbers:
        middle = (array.min() if vmin is None else vmin) / 2 + (array.max() if vmax is None else vmax) / 2
        for (row, column), value in np.ndenumerate(array):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value < middle else "black")
    return fig


def pictures(images: Mapping[str, ArrayLike], *, title: str = "", columns: int | None = None) -> Figure:
    """Pictures side by side with their names: (H, W) grey, or (H, W, 3), values from 0 to 1."""
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    tall = max(np.shape(picture)[0] / np.shape(picture)[1] for picture in images.values())
    fig, axes = figure(columns, rows, figsize=(2.6 * columns, (2.5 * tall + 0.35) * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, picture) in zip(axes.flat, images.items(), strict=False):
        ax.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=1)
        ax.set_title(name)
    fig.suptitle(title)
    return fig


def show(fig: Figure, alt: str) -> None:
    """Show a figure in the notebook, with an alternative text that says what one sees.

    Raises:
        ValueError: if axes with data lack a label, or the alternative text is empty.
    """
    from IPython.display import Image, display

    for ax in fig.axes:
        if ax.axison and ax.has_data() and not (ax.get_ylabel() and (ax.get_xlabel() or ax.get_label() == "<colorbar>")):
            raise ValueError("every axis of a plot has a label, with its unit")
    if not alt.strip():
        raise ValueError("a plot has an alternative text")
    data = io.BytesIO()
    fig.savefig(data, format="png", dpi=110)
    plt.close(fig)
    display(Image(data.getvalue(), alt=alt))


def _axes(ax: Axes | None) -> tuple[Figure, Axes]:
    if ax is None:
        return figure()
    fig = ax.get_figure(root=True)
    assert fig is not None
    return fig, ax


def spread(samples: Iterable[ArrayLike]) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Mean over runs, and (lowest, highest), for `lines(spread=…)`; samples of shape (runs, points)."""
    array = np.asarray(list(samples))
    return array.mean(0), (array.min(0), array.max(0))
