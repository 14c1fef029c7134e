"""What a comparison comes to, in sentences: who won, by how much, how sure that is, and what fell short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.summary import Row, Summary
from titanlab.sweeps.inference.comparisons import (
    FEWEST_PAIRS,
    LARGE_EFFECT,
    LEVEL,
    Comparison,
    compare,
    correct,
    fewest_for_ranks,
    seeds_needed,
    verdict,
)
from titanlab.sweeps.inference.intervals import BOOTSTRAP_FROM, CONFIDENCE
from titanlab.sweeps.planning.tuning_lines import border_lines
from titanlab.sweeps.readable import readable, readable_interval, readable_p, readable_signed

UNSURE = ("no clear difference", "too few seeds to tell")
SHOWN = 4
"""How many of several are named before 'and N more'."""


def conclusion(summary: Summary) -> list[str]:
    """The sentences that somebody who reads nothing else should read."""
    return [
        line
        for part in (_progress, _best, _against_baseline, _verdicts, _effects, _published, _lost, _tuned)
        for line in part(summary)
    ]


def method(summary: Summary) -> list[str]:
    """How the numbers were made, and what a reader must know to read them right."""
    plan = summary.plan
    lines = []
    if any(len(row.values) > 1 for row in summary.rows):
        lines.append(f"Intervals are {CONFIDENCE:.0%} of Student's t over the seeds.")
    if any(row.bootstrap for row in summary.rows):
        lines.append(
            f"Bootstrap intervals are BCa of 9,999 resamples (from {BOOTSTRAP_FROM} seeds on); with few seeds they are "
            "too narrow and serve as a check of t only."
        )
    if any(len(row.values) == 1 for row in summary.rows):
        lines.append("One seed gives no interval: run more with `--set seeds=5`.")
    if plan.baseline is None:
        lines.append("No baseline is named, so no difference is shown: add `baseline` to the sweep.")
    elif not any(row.cell.is_baseline and row.values for row in summary.rows):
        lines.append(f"The baseline ({plan.baseline.variant}) has no result yet, so no difference is shown.")
    elif any(row.comparison is not None for row in summary.rows):
        lines += _test_method(summary)
    if any(row.places for row in summary.rows):
        lines.append(
            "Ranks in brackets are those that overlapping intervals allow: a rule of thumb that calls a tie too often, "
            "since it leaves out that the seeds are paired. 'Not told apart' is an overlap without a significant "
            "paired difference to the best cell."
        )
    if len(summary.ranked) >= 5:
        lines.append(
            f"The best of {len(summary.ranked)} cells is chosen by the same seeds that it is measured by, so its mean "
            "is likely a little too good."
        )
    if isinstance(summary.effects, Effects):
        lines += summary.effects.remarks
    else:
        lines.append(f"No effects of axes are shown: {summary.effects}.")
    return [*lines, *plan.notes]


def unfinished_lines(summary: Summary) -> list[str]:
    """Every trial without a result, and why; seeds of a cell that share the reason stand in one line."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    for one in summary.unfinished:
        alike.setdefault((one.variant, one.status, one.reason), []).append(one.trial.seed)
    return [
        f"{variant} seed{'s' if len(seeds) > 1 else ''}={','.join(map(str, seeds))}: {status}"
        + (f": {reason}" if reason else "")
        for (variant, status, reason), seeds in alike.items()
    ]


def _progress(summary: Summary) -> Iterator[str]:
    total = len(summary.plan.trials)
    waiting = summary.complete + sum(count for row in summary.rows for count in row.lost.values()) < total
    yield f"{summary.complete} of {total} trials complete{'; this is preliminary' if waiting else ''}."


def _best(summary: Summary) -> Iterator[str]:
    if not summary.ranked:
        yield "No trial has a result, so nothing can be concluded."
        return
    best, metric = summary.ranked[0], summary.plan.objective.metric
    assert best.estimate is not None
    interval = readable_interval(*best.estimate[1:])
    own = " (the baseline)" if best.cell.is_baseline else ""
    seeds = f"{len(best.values)} seed{'s' if len(best.values) > 1 else ''}"
    warning = f", but {best.lost_words}: the mean is of the other seeds only" if best.lost else ""
    measured = f"{readable(best.estimate.mean)}{' ' if interval else ''}{interval}"
    yield f"Best: {best.cell.variant}{own}, {metric} {measured} over {seeds}{warning}."
    if len(summary.ranked) > 1 and best.places is None:
        yield "With one seed there is no telling how sure that order is."
        return
    tied = _tied(best, summary)
    if tied:
        yield f"No sure winner: it is not told apart from {_named([row.cell.variant for row in tied])}."


def _tied(best: Row, summary: Summary) -> list[Row]:
    """The cells whose intervals overlap with the best one's and that no paired test sets apart from it."""
    direction = summary.plan.objective.direction
    near = [row for row in summary.ranked[1:] if row.places is not None and row.places.first == 1]
    compared = correct([compare(best.values, row.values) for row in near])
    return [
        row for row, found in zip(near, compared, strict=True) if found is None or verdict(found, direction) != "better"
    ]


def _against_baseline(summary: Summary) -> Iterator[str]:
    if not summary.ranked or not any(row.cell.is_baseline and row.values for row in summary.rows):
        return
    baseline = next(row for row in summary.rows if row.cell.is_baseline)
    subject, name = "It is", f"the baseline ({baseline.cell.variant})"
    best = summary.ranked[0]
    if best is baseline:
        if len(summary.ranked) == 1:
            return
        best, name = summary.ranked[1], "it"
        subject = f"The best other cell, {best.cell.variant}, is"
    if best.comparison is None:
        yield f"It shares no seed with {name}: too few seeds to tell."
    else:
        yield f"{subject} {_difference(best.comparison)} from {name}: {_sureness(summary, best)}."


def _difference(comparison: Comparison) -> str:
    interval = readable_interval(*comparison.difference[1:])
    return f"{readable_signed(comparison.difference.mean)}{' ' if interval else ''}{interval}"


def _sureness(summary: Summary, row: Row) -> str:
    found = row.comparison
    assert found is not None
    if found.test == "exact":
        return "certain, no seed changes this measure"
    if found.p_holm is None:
        return f"too few seeds to tell ({found.pairs} in common; at least {FEWEST_PAIRS} are needed)"
    count = summary.comparisons
    after = f" after Holm's correction for {count} comparisons" if count > 1 else ""
    effect = "" if found.d_z is None else f", d_z = {found.d_z:.2f}"
    p = f"p {readable_p(found.p_holm)}{after}{effect}, {found.pairs} seeds"
    if found.p_holm < LEVEL:
        return f"significant, {row.verdict} ({p})"
    needed = seeds_needed(found, count) if row.verdict == "too few seeds to tell" else None
    advice = f"; about {needed} seeds would tell if the difference is what it looks like" if needed else ""
    return f"{row.verdict} ({p}{advice})"


def _verdicts(summary: Summary) -> Iterator[str]:
    counts = Counter(str(row.verdict) for row in summary.rows)
    shown = [f"{counts[word]} {word}" for word in ("better", "worse", *UNSURE, "no result") if counts[word]]
    if sum(counts[word] for word in ("better", "worse", *UNSURE)) > 1:
        yield f"Against the baseline: {', '.join(shown)}."


def _effects(summary: Summary) -> Iterator[str]:
    found = summary.effects
    if isinstance(found, str):
        return
    sure = [effect for effect in found.effects if effect.verdict in ("better", "worse")]
    mains = [effect for effect in sure if not effect.is_interaction]
    for effect in sorted(mains, key=lambda one: -abs(one.comparison.difference.mean))[:SHOWN]:
        yield f"On average over the grid, {found.label(effect)}: {_difference(effect.comparison)}, {effect.verdict}."
    for effect in [effect for effect in sure if effect.is_interaction][:SHOWN]:
        yield f"They depend on each other: {found.label(effect)}, {_difference(effect.comparison)} beyond the sum."


def _published(summary: Summary) -> Iterator[str]:
    best = summary.ranked[0] if summary.ranked else None
    for reference in summary.plan.references:
        reached = best.metrics.get(str(reference.metric)) if best else None
        own = "" if reached is None else f"; the best cell has {readable(reached)}"
        yield f"Published: {reference.name}, {reference.metric} {readable(reference.value)} ({reference.source}){own}."


def _lost(summary: Summary) -> Iterator[str]:
    lost = [row for row in summary.rows if row.lost]
    if lost:
        named = _named([f"{row.cell.variant} ({row.lost_words})" for row in lost])
        yield f"Fell short: {named}; a mean there is of the seeds that remain."


def _tuned(summary: Summary) -> Iterator[str]:
    tuning = summary.plan.tuning
    if tuning is not None:
        yield f"Each cell has its own {' and '.join(tuning.space)}, chosen by {tuning.aim.metric} on other seeds."
        yield from border_lines(summary.plan)


def _test_method(summary: Summary) -> Iterator[str]:
    compared = [row.comparison for row in summary.rows if row.comparison is not None]
    if all(comparison.test == "exact" for comparison in compared):
        return
    count = summary.comparisons
    yield "Differences to the baseline are taken seed by seed, over the seeds that both completed."
    if count:
        yield (
            f"They are tested by the paired t test, two-sided, with Holm's correction for {count} "
            f"comparison{'' if count == 1 else 's'}; significant is p < {LEVEL:g}. Their intervals are not corrected. "
            "The effect size is Cohen's d_z, the mean of the differences over their standard deviation."
        )
    if any(comparison.test == "sign" for comparison in compared):
        yield "Where all differences are equal, t has no spread to measure by and the sign test stands in."
    if any(row.verdict == "too few seeds to tell" for row in summary.rows):
        yield (
            f"'Too few seeds to tell' is a difference over fewer than {FEWEST_PAIRS} common seeds, or one that looks "
            f"large (d_z of {LARGE_EFFECT:g} or more) without being significant."
        )
    tested = [comparison.pairs for comparison in compared if comparison.p is not None]
    fewest = fewest_for_ranks(count)
    if tested and min(tested) < fewest:
        yield (
            "The t test takes the differences as normally distributed, which few seeds cannot show; a rank test, which "
            f"does not, can reach p < {LEVEL:g} here from {fewest} seeds on."
        )
    doubtful = [
        row.cell.variant
        for row in summary.rows
        if row.verdict in ("better", "worse")
        and row.comparison is not None
        and row.comparison.wilcoxon is not None
        and row.comparison.wilcoxon >= LEVEL
    ]
    if doubtful:
        yield f"Wilcoxon's signed-rank test does not confirm {_named(doubtful)}."


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
