"""The charts of a report as Vega-Lite specifications, made by Altair; the page draws them, and so do the figures.

The names of fields are ours; names of models and data sets are values only, so that no sign in them has a meaning.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.evaluation.metrics import PRIMARY
from bench.report.detail.costs import KINDS, Cost
from bench.report.detail.curves import Point
from bench.report.detail.other_candidates import BothWays
from bench.report.detail.strata import Strata
from bench.report.marks import LEVEL
from bench.report.pairs import PairMatrix
from bench.store.studies import Study

if TYPE_CHECKING:
    import altair as alt

WIDTH = 560  # of a figure; on the page a chart is as wide as its place
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Chart:
    """A chart: `name` for its file, `title` and `note` for the page, `spec` in Vega-Lite."""

    name: str
    title: str
    note: str
    spec: dict[str, Any]


def learning_curves(points: list[Point], name: str, labels: list[str]) -> Chart | None:
    """One value of the curves against the optimiser step, a line for each run."""
    import altair as alt

    of_name = [point for point in points if point.name == name]
    if not of_name:
        return None
    values: list[dict[str, Any]] = [
        {"model": labels[p.number], "stage": p.stage, "seed": p.seed, "step": p.step, "value": p.value} for p in of_name
    ]
    colour, picked = _colour(labels, values)
    chart = (
        alt.Chart(_values(values))
        .mark_line(point=len(values) < 200, interpolate="linear", strokeWidth=1.6)
        .encode(
            x=alt.X("step:Q", title="optimiser step"),
            y=alt.Y("value:Q", title=name, scale=alt.Scale(zero=False)),
            color=colour,
            detail=["seed:N", "stage:N"],
            opacity=_opacity(picked),
            tooltip=["model:N", "seed:N", "stage:N", "step:Q", alt.Tooltip("value:Q", format=".4f")],
        )
        .add_params(picked)
    )
    what = "training loss" if name == "train/loss" else f"{name} on the validation rows"
    return Chart(
        f"curve-{_file(name)}", f"Learning curves: {what}", "A line for each seed and stage.", _spec(chart, 260)
    )


def tuning_chart(studies: list[Study], labels: list[str]) -> Chart | None:
    """The validation metric of every trial, and the best one so far as a line for each search."""
    import altair as alt

    values: list[dict[str, Any]] = []
    for study in studies:
        best = 0.0
        for trial in study.searched:
            if trial.value is None:
                continue
            best = max(best, trial.value)
            values.append(
                {
                    "model": next(
                        (label for label in labels if label.startswith(study.record.title)), study.record.title
                    ),
                    "study": study.record.id,
                    "trial": trial.number,
                    "value": trial.value,
                    "best": best,
                    "status": trial.status,
                    "settings": ", ".join(f"{name}={value}" for name, value in trial.values.items()) or "default",
                }
            )
    if not values:
        return None
    names = [*labels, *dict.fromkeys(each["model"] for each in values if each["model"] not in labels)]
    colour, picked = _colour(names, values)
    base = alt.Chart(_values(values)).encode(
        x=alt.X("trial:Q", axis=alt.Axis(tickMinStep=1, format="d")), color=colour, opacity=_opacity(picked)
    )
    points = base.mark_circle(size=36).encode(
        y=alt.Y("value:Q", title=f"mean {PRIMARY} on validation rows", scale=alt.Scale(zero=False)),
        tooltip=["model:N", "trial:Q", alt.Tooltip("value:Q", format=".4f"), "status:N", "settings:N"],
    )
    lines = base.mark_line(interpolate="step-after", strokeWidth=1.4).encode(y="best:Q", detail="study:N")
    note = "A dot for each trial; the line is the best so far. Trial 0 has the default settings."
    return Chart("tuning", "Trials of the searches", note, _spec(lines + points.add_params(picked), 260))


def pair_chart(pairs: PairMatrix, labels: list[str], task: str) -> Chart:
    """Matrix of differences; a dot where a pair is clear among all pairs of the table."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {
            "row": labels[a],
            "column": labels[b],
            "difference": float(pairs.difference[a, b]),
            "interval": f"{pairs.low[a, b]:+.4f} to {pairs.high[a, b]:+.4f}",
            "p": float(pairs.p_family[a, b]),
            "clear": bool(pairs.p_family[a, b] < LEVEL),
        }
        for a in range(len(labels))
        for b in range(len(labels))
        if a != b
    ]
    most = max((abs(each["difference"]) for each in values), default=1.0) or 1.0
    base = alt.Chart(_values(values)).encode(
        x=alt.X("column:N", sort=labels, title="against", axis=alt.Axis(labelAngle=-60, labelLimit=110)),
        y=alt.Y("row:N", sort=labels, title=None, axis=alt.Axis(labelLimit=130)),
        tooltip=[
            "row:N",
            "column:N",
            alt.Tooltip("difference:Q", format="+.4f"),
            "interval:N",
            alt.Tooltip("p:Q", title="p over all pairs", format=".3f"),
        ],
    )
    scale = alt.Scale(scheme="redblue", domain=[-most, most])
    cells = base.mark_rect().encode(
        color=alt.Color("difference:Q", scale=scale, title="difference", legend=alt.Legend(orient="bottom"))
    )
    dots = base.mark_circle(size=14, color="#111").transform_filter("datum.clear")
    height = max(160, 22 * len(labels))
    note = (
        f"Row minus column; blue: the row is better. A dot: p below {LEVEL:g} after Holm over all pairs of the table."
    )
    return Chart(f"pairs-{task}", f"{task}: differences in {PRIMARY}", note, _spec(cells + dots, height))


def cost_chart(costs: list[Cost], kind: str, labels: list[str], means: dict[int, float], task: str) -> Chart | None:
    """The primary metric against one kind of cost; the models that none beats in both are named."""
    import altair as alt

    known = {number: float(value) for number in means if (value := getattr(costs[number], kind)) is not None}
    if len(known) < 2:
        return None
    values: list[dict[str, Any]] = [
        {
            "model": labels[number],
            "cost": cost,
            "value": means[number],
            "front": not any(
                known[other] <= cost
                and means[other] >= means[number]
                and (known[other], means[other]) != (cost, means[number])
                for other in known
            ),
        }
        for number, cost in known.items()
    ]
    # Logarithms have no place for a model without parameters.
    if kind == "parameters" or min(known.values()) <= 0:
        scale, ticks = alt.Scale(type="symlog", constant=1000), [0, *(10**power for power in range(3, 12))]
        axis = alt.Axis(format="~s", values=[tick for tick in ticks if tick <= 2 * max(known.values())])
    else:
        scale, axis = alt.Scale(type="log", padding=24), alt.Axis(format=",~g", tickCount=4, labelOverlap=True)
    colour, picked = _colour(labels, values)
    base = alt.Chart(_values(values)).encode(
        x=alt.X("cost:Q", title=KINDS[kind], scale=scale, axis=axis),
        y=alt.Y("value:Q", title=str(PRIMARY), scale=alt.Scale(zero=False, padding=14)),
        tooltip=[
            "model:N",
            alt.Tooltip("cost:Q", title=KINDS[kind], format=",.4~g"),
            alt.Tooltip("value:Q", format=".4f"),
        ],
    )
    points = base.mark_circle(size=70).encode(color=colour, opacity=_opacity(picked)).add_params(picked)
    names = base.mark_text(dy=-9, fontSize=10, limit=120).encode(text="model:N").transform_filter("datum.front")
    note = "Named: models that no other beats in both."
    return Chart(f"cost-{task}-{kind}", f"{task}: {PRIMARY} against {KINDS[kind]}", note, _spec(points + names, 240))


def both_ways_chart(both: BothWays, labels: list[str]) -> Chart:
    """The primary metric on the full catalogue against that on drawn candidates."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {"model": labels[number], "drawn": drawn, "full": full}
        for number, drawn, full in zip(both.numbers, both.on_drawn, both.on_full, strict=True)
    ]
    colour, picked = _colour(labels, values)
    chart = (
        alt.Chart(_values(values))
        .mark_circle(size=70)
        .encode(
            x=alt.X("drawn:Q", title=f"{PRIMARY} on {both.drawn}", scale=alt.Scale(zero=False, padding=12)),
            y=alt.Y("full:Q", title=f"{PRIMARY} on {both.full}", scale=alt.Scale(zero=False, padding=12)),
            color=colour,
            opacity=_opacity(picked),
            tooltip=["model:N", alt.Tooltip("drawn:Q", format=".4f"), alt.Tooltip("full:Q", format=".4f")],
        )
        .add_params(picked)
    )
    return Chart(
        f"full-{both.task}", f"{both.task}: drawn candidates against the full catalogue", "", _spec(chart, 260)
    )


def strata_chart(divided: Strata, labels: list[str], task: str) -> Chart:
    """The primary metric by stratum, a line for each model, with intervals at its points."""
    import altair as alt

    values: list[dict[str, Any]] = [
        {
            "model": labels[cell.number],
            "stratum": stratum.name,
            "value": cell.mean,
            # Few users make wide intervals, the metric has bounds; one user has no interval.
            "low": max(0.0, cell.low) if cell.low == cell.low else cell.mean,
            "high": min(1.0, cell.high) if cell.high == cell.high else cell.mean,
            "users": stratum.users,
        }
        for stratum in divided.strata
        for cell in stratum.cells
    ]
    colour, picked = _colour(labels, values)
    base = alt.Chart(_values(values)).encode(
        x=alt.X(
            "stratum:N",
            sort=[stratum.name for stratum in divided.strata],
            title=divided.title,
            axis=alt.Axis(labelAngle=0, labelLimit=90),
        ),
        color=colour,
        opacity=_opacity(picked),
        tooltip=[
            "model:N",
            "stratum:N",
            "users:Q",
            *(alt.Tooltip(f"{n}:Q", format=".4f") for n in ("value", "low", "high")),
        ],
    )
    lines = (
        base.mark_line(point=True, strokeWidth=1.4).encode(y=alt.Y("value:Q", title=str(PRIMARY))).add_params(picked)
    )
    bars = base.mark_rule(strokeWidth=0.8).encode(y="low:Q", y2="high:Q")
    title = f"{task}: {PRIMARY} by {divided.title}"
    return Chart(f"strata-{task}-{_file(divided.title)}", title, "", _spec(bars + lines, 260))


def _values(values: list[dict[str, Any]]) -> "alt.Data":
    import altair as alt

    return alt.Data(values=values)


def _colour(labels: list[str], values: list[dict[str, Any]]) -> "tuple[alt.Color, alt.Parameter]":
    """A colour for each model, the same in all charts of a table, and the choice of models in the legend."""
    import altair as alt

    there = {each["model"] for each in values}
    legend = alt.Legend(
        orient="bottom",
        columns=3,
        labelLimit=105,
        title=None,
        symbolLimit=0,
        values=[label for label in labels if label in there],
    )
    colour = alt.Color("model:N", scale=alt.Scale(scheme="tableau20", domain=labels), legend=legend)
    return colour, alt.selection_point(fields=["model"], bind="legend", toggle="true")


def _opacity(picked: "alt.Parameter") -> Any:
    import altair as alt

    return alt.when(picked).then(alt.value(0.9)).otherwise(alt.value(0.08))


def _spec(chart: "alt.Chart | alt.LayerChart", height: int) -> dict[str, Any]:
    made = chart.properties(width=WIDTH, height=height).configure(font=_FONT).configure_view(stroke="#ddd")
    # Checking thousands of values against the schema takes seconds; a test checks the specifications.
    return made.to_dict(validate=False)


def _file(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text).strip("-")
