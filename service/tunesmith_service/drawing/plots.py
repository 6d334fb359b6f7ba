"""The dashboard's charts as figures: from the same views, so that they say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith_service.drawing.figure import (
    HEATS,
    Area,
    Band,
    Bars,
    Box,
    Crosses,
    Dots,
    Drawing,
    Figure,
    Line,
    Ring,
    Rule,
    Scale,
    Spot,
    steps,
)
from tunesmith_service.ui import formats

View = Mapping[str, Any]

ALONG = {"trial": "trial", "time": "seconds since the first began", "gpu_hours": "slot-hours"}
KINDS = 8
MAP_SAID = "As measured, nothing interpolated. Cells: the first grid; circles: later; a ring: the best."


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with its heading, and what is to be said of it."""

    title: str
    drawing: Drawing
    said: str = ""


def _measured(view: View) -> str:
    """The metric and which way it is better."""
    return f"{view['metric']} {'↓' if view['direction'] == 'minimize' else '↑'}"


def history(view: View) -> Plot | None:
    """The objective of every trial and the best so far; None while no trial has a value."""
    if not view["at"] or view["range"] is None:
        return None
    low, high = view["range"]
    worst = high if view["direction"] == "minimize" else low
    at = [*view["at"], *view["infeasible"]["at"]]
    x = Scale(ALONG[view["x"]], min(at), max([*at, min(at) + 1]))
    what = f"{view['metric']} of {view['total']} trials; the best so far is a line"
    figure = Figure(what, x.padded(0.015), Scale(_measured(view), low, high).padded())
    for i, band in enumerate(view["bands"]):
        figure.add(Band(band["from"], band["to"], band["stage"], even=i % 2 == 0))
    figure.add(Crosses([(a, worst) for a in view["infeasible"]["at"]]))
    for i, stage in enumerate(view["stages"]):
        own = [(a, v) for a, v, s in zip(view["at"], view["value"], view["stage"], strict=True) if s == i]
        if own:
            figure.add(Dots([(a, min(max(v, low), high)) for a, v in own], _kind(i)))
            figure.legend(_kind(i), "dots", stage)
    best = [*zip(view["best"]["at"], view["best"]["value"], strict=True)]
    if best:
        figure.add(Line(steps([*best, (max(at), best[-1][1])]), "best"))
        figure.legend("best", "line", "best so far")
    if view["infeasible"]["at"]:
        figure.legend("lost", "crosses", "diverged")
    left_out = f" {view['shown']} of {view['total']} trials are drawn, no extreme left out."
    said = "Values far off stand at the edge." + (left_out if view["shown"] < view["total"] else "")
    return Plot("History", figure, said)


def map_(view: View) -> Plot | None:
    """Two hyperparameters against each other; darker is better on paper. None without two of them."""
    if not view["layers"] or view["range"] is None:
        return None
    low, high = view["range"]

    def heat(value: float | None) -> int:
        share = 0.5 if value is None or high == low else (value - low) / (high - low)
        better = 1 - share if view["direction"] == "minimize" else share
        return round(min(max(better, 0), 1) * (HEATS - 1))

    x, y = (_place_scale(view, name) for name in ("x", "y"))
    figure = Figure(f"{view['metric']} over {x.name} and {y.name}", x, y, is_tall=True)
    best = None
    for layer in view["layers"]:
        cells = zip(layer["number"], layer["x"], layer["y"], layer["value"], strict=True)
        for i, (number, across, up, value) in enumerate(cells):
            told = (
                f"#{number} {layer['stage']}: {x.name} {layer['xs'][i]}, {y.name} {layer['ys'][i]}, "
                f"{'diverged' if value is None else formats.number(value)}"
            )
            best = (across, up) if number == view["best"] else best
            if value is None:
                figure.add(Crosses([(across, up)]))
            elif layer["tiles"] and layer["stage"] == view["layers"][0]["stage"]:
                figure.add(Box(tuple(layer["box"][i]), heat(value), told))
            else:
                figure.add(Spot((across, up), heat(value), told))
    if best:
        figure.add(Ring(best))
    ends = (low, high) if view["direction"] == "minimize" else (high, low)
    for value, word in zip(ends, ("best", "worst"), strict=True):
        figure.legend(f"heat-{heat(value)}", "spot", f"{word} {formats.number(value)}")
    if any(v is None for layer in view["layers"] for v in layer["value"]):
        figure.legend("lost", "crosses", "diverged")
    return Plot(f"{x.name} × {y.name}", figure, MAP_SAID)


def _place_scale(view: View, name: str) -> Scale:
    """Places are on the hyperparameter's own scale already; its ends are where the cells end."""
    ends = [v for layer in view["layers"] for v in layer[name]]
    side = slice(0, 2) if name == "x" else slice(2, 4)
    ends += [v for layer in view["layers"] for box in layer["box"] for v in box[side]]
    pad = 0.03 * ((max(ends) - min(ends)) or 1)
    labels = [(tick["at"], tick["text"]) for tick in view[name]["labels"]]
    return Scale(view[name]["name"], min(ends) - pad, max(ends) + pad, labels=labels)


def curves(view: View) -> Plot | None:
    """The best curves in colours, what runs or was pruned softer; None while nothing was reported."""
    drawn = [c for c in view["curves"] if c["at"]]
    if not drawn or view["range"] is None:
        return None
    low, high = view["range"]
    places = [s for c in drawn for s in c["at"]]
    x = Scale("epoch", min(places), max([*places, min(places) + 1]))
    figure = Figure(
        f"{view['metric']} of {view['shown']} trials", x, Scale(view["metric"], low, high).padded()
    )
    if band := view["band"]:
        figure.add(
            Area([*zip(band["at"], band["low"], band["high"], strict=True)], "soft"),
            Line([*zip(band["at"], band["median"], strict=True)], "soft"),
        )
        figure.legend("soft", "line", f"median of {band['trials']}, and their middle half")
    for curve in sorted(drawn, key=_behind):
        rank = curve["rank"]
        kind, again = ("soft", False) if rank is None else (_kind(rank), rank >= KINDS)
        is_train = curve["split"] == "train" and not view["metric"].startswith("train/")
        figure.add(Line([*zip(curve["at"], curve["value"], strict=True)], kind, again, thin=is_train))
        if not is_train:
            figure.add(Crosses([(at, high) for at in curve["lost"]]))
    for curve in drawn:
        if curve["rank"] is not None and curve["split"] != "train":
            told = f"#{curve['number']} {formats.number(curve['value'][-1])}"
            figure.legend(_kind(curve["rank"]), "line", told, again=curve["rank"] >= KINDS)
    return Plot("Curves", figure, view["said"])


def _behind(curve: View) -> tuple[bool, int]:
    """For an order in which the best comes last, over all others."""
    return curve["rank"] is not None, -(curve["rank"] or 0)


def importance(view: View) -> Plot | None:
    """A bar for each hyperparameter that could be judged; None while there is none."""
    if not view["names"]:
        return None
    bars = Bars("importance of each hyperparameter", [*zip(view["names"], view["shares"], strict=True)])
    few = " That is few: do not rely on it." if view["few"] else ""
    return Plot("What matters", bars, f"{view['evaluator']} over {view['n']} complete trials.{few}")


def edf(view: View) -> Plot | None:
    """Which share of the trials came out at least so good, a line a stage; None while nothing is complete."""
    if not view["lines"] or view["range"] is None:
        return None
    better = "≤" if view["direction"] == "minimize" else "≥"
    share = Scale(f"share of trials with {view['metric']} {better} x", 0.0, 1.0)
    figure = Figure("distribution of the objective", Scale(_measured(view), *view["range"]).padded(), share)
    for line in view["lines"]:
        points = [(line["at"][0], 0.0), *zip(line["at"], line["share"], strict=True)]
        figure.add(Line(steps(points), _kind(line["kind"]), line["dashed"]))
        figure.legend(_kind(line["kind"]), "line", f"{line['name']} ({line['n']})", again=line["dashed"])
    return Plot("Distribution", figure, "A line ends below 1 by what was pruned or diverged.")


def range_test(view: View) -> Plot | None:
    """Smoothed losses over the rate with what was read of them; None while no sweep has reported."""
    drawn = [s for s in view["sweeps"] if s["rate"]]
    if not drawn or view["range"] is None:
        return None
    ends = [r for s in drawn for r in s["rate"]]
    x = Scale("learning rate", min(ends), max(ends), log=True)
    figure = Figure("loss while the learning rate rises", x, Scale(view["metric"], *view["range"]).padded())
    for i, sweep in enumerate(drawn):
        smooth = sweep["smooth"] or sweep["loss"]
        read = [tuple(at) for name, at in sweep["marks"].items() if name != "begun"]
        figure.add(
            Line([*zip(sweep["rate"], sweep["loss"], strict=True)], "soft", thin=True),
            Line([*zip(sweep["rate"], smooth, strict=True)], _kind(i), i >= KINDS),
            Dots(read, _kind(i)),
        )
        figure.legend(_kind(i), "line", f"#{sweep['number']} {sweep['name']}", again=i >= KINDS)
    for chosen in view["chosen"]:
        label = f"chosen {formats.number(chosen['lr'], pad=False)} {chosen['name']}".strip()
        figure.add(Rule(chosen["lr"], label))
    said = [view["why"], *view["taken"], f"Rule: {view['rule']}."]
    return Plot("Range test", figure, " ".join(said).strip())


def _kind(i: int) -> str:
    return f"kind-{i % KINDS}"


PLOTS: Mapping[str, Callable[[View], Plot | None]] = {
    "history": history,
    "curves": curves,
    "map": map_,
    "importance": importance,
    "edf": edf,
    "range_test": range_test,
}
"""By the name of the view that each draws."""
