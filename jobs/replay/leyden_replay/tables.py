"""What is shown of a summary, as tables of text: the terminal and the HTML report show the same ones."""

from collections.abc import Mapping
from typing import NamedTuple

from leyden_replay.comparison import Comparison, Measure
from leyden_replay.statistics import Distribution
from leyden_replay.summary import Summary

_NEGLIGIBLE = 1e-12


class Table(NamedTuple):
    """A title, names of columns, and rows of cells."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(summary: Summary) -> list[Table]:
    """Everything there is to show, most wanted first; empty tables are left out."""
    compared = _compared(summary.comparison) if summary.comparison else []
    everything = [
        *compared,
        _counts(summary),
        _excluded(summary),
        _mapping("Left out by the services", summary.dropped),
    ]
    return [table for table in everything if table.rows]


def headline(summary: Summary) -> str:
    """One sentence."""
    counts, comparison = summary.counts, summary.comparison
    did = f"{counts.rollouts} rollouts scored again, {counts.samples} samples"
    if comparison is None or not (finals := comparison.measures[0]).compared:
        return f"{did}; no live rewards to compare with"
    samples = comparison.samples
    changed = finals.up + finals.down
    if (
        not changed
        and samples.identical
        and not (samples.different or samples.only_before or samples.only_after)
    ):
        return f"{did}: every reward and every sample is what the live services published, bit for bit"
    return (
        f"{did}; {changed} of {finals.compared} final rewards changed, {finals.up} up and {finals.down} down"
    )


def _compared(comparison: Comparison) -> list[Table]:
    order, samples = comparison.order, comparison.samples
    measures = [measure for measure in comparison.measures if measure.compared]
    return [
        Table(
            "Before (live) and after (replay)",
            ("", "rollouts", "before", "after", "rank corr.", "up", "down", "equal"),
            [_measure(measure) for measure in measures],
        ),
        Table(
            "Distributions",
            ("", "least", "10 %", "median", "90 %", "most"),
            [row for measure in measures for row in _spread(measure)],
        ),
        Table(
            "Order within groups",
            ("pairs of rollouts of one task", ""),
            [
                ("kept", str(order.kept)),
                ("reversed", str(order.reversed)),
                ("newly told apart", str(order.newly_told_apart)),
                ("newly equal", str(order.newly_equal)),
            ]
            if any(order.model_dump().values())
            else [],
        ),
        Table(
            "Biggest movers",
            ("rollout", "task", "answer", "before", "after", "change"),
            [
                (
                    str(mover.rollout_id),
                    f"{mover.task_id} #{mover.index}",
                    mover.output,
                    _number(mover.before),
                    _number(mover.after),
                    f"{mover.change:+.4g}",
                )
                for mover in comparison.movers
            ],
        ),
        _mapping("Statuses", comparison.statuses),
        Table(
            "Training samples",
            ("", "rollouts"),
            [(name.replace("_", " "), str(count)) for name, count in samples.model_dump().items() if count],
        ),
    ]


def _measure(measure: Measure) -> tuple[str, ...]:
    rho = measure.rank_correlation
    return (
        measure.name,
        str(measure.compared),
        _mean(measure.before),
        _mean(measure.after),
        "" if rho is None else f"{rho:.3f}",
        str(measure.up),
        str(measure.down),
        str(measure.equal),
    )


def _mean(side: Distribution | None) -> str:
    return "" if side is None else f"{_number(side.mean)} ± {_number(side.std)}"


def _spread(measure: Measure) -> list[tuple[str, ...]]:
    sides = {"before": measure.before, "after": measure.after}
    return [
        (f"{measure.name}, {when}", *map(_number, (s.minimum, s.p10, s.median, s.p90, s.maximum)))
        for when, s in sides.items()
        if s is not None
    ]


def _counts(summary: Summary) -> Table:
    counts, comparison = summary.counts, summary.comparison
    named = {
        "events read": counts.events,
        "events of others passed over": counts.passed_over,
        "events malformed": counts.malformed,
        "events failed": counts.failed,
        "rollouts that ended in the stretch": counts.rollouts,
        "of these without a live reward": comparison.without_before if comparison else 0,
        "rollouts that ended in the lead-in": counts.lead_in,
        "rollouts that began before what was read": counts.began_before,
        "rollouts unfinished at the end, or sessions begun before": counts.unfinished,
        "groups unfinished at the end": counts.groups_unfinished,
        "samples": counts.samples,
        **{f"written: {name}": count for name, count in summary.written.items()},
    }
    return _mapping("Counts", {name: count for name, count in named.items() if count})


def _excluded(summary: Summary) -> Table:
    rows: list[tuple[str, ...]] = [
        (reason, str(count), summary.examples.get(reason, ""))
        for reason, count in sorted(summary.counts.excluded.items(), key=lambda item: -item[1])
    ]
    return Table("Excluded by the replay", ("reason", "rollouts", "for example"), rows)


def _mapping(title: str, counts: Mapping[str, int]) -> Table:
    return Table(title, ("", "count"), [(name, str(count)) for name, count in counts.items()])


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) > _NEGLIGIBLE else "0"
