"""`ablate`: the baseline and its variations, the literal meaning of an ablation.

With the factors a, b, c, the baseline's values unmarked and the listed ones with a prime:

    one_at_a_time   (a b c)   (a' b c)    (a b' c)    (a b c')
    leave_one_out   (a b c)   (a' b' c')  (a b' c')   (a' b c')   (a' b' c)

Around a full system, `one_at_a_time` takes each part away and `leave_one_out` adds each part to the bare one; around a
bare system it is the other way round. `both` is all of these cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from titanlab.platform.errors import ConfigError
from titanlab.sweeps.language.grid import Point, Setting
from titanlab.sweeps.language.sweep_file import Sweep


def ablation(sweep: Sweep) -> list[Point]:
    """The cells of `ablate`, the baseline first; none without one.

    Raises:
        ConfigError: `leave_one_out` of a factor with several values: all factors changed is one system.
    """
    written = sweep.config.ablate or {}
    factors = {
        key: [Setting(key, value, ("ablate", key, index)) for index, value in enumerate(values)]
        for key, values in written.items()
        if key != "mode"
    }
    if not factors:
        return []
    mode = written.get("mode", "one_at_a_time")
    baseline = {key: Setting(key, value, ("baseline", key)) for key, value in (sweep.config.baseline or {}).items()}
    points = [_point(baseline, {})]
    if mode != "leave_one_out":
        points += [_point(baseline, {key: setting}) for key, settings in factors.items() for setting in settings]
    if mode != "one_at_a_time":
        _refuse_several_values(sweep, factors)
        points += _all_but_one(baseline, {key: settings[0] for key, settings in factors.items()})
    return list({point.places: point for point in points}.values())


def _all_but_one(baseline: Mapping[str, Setting], changed: Mapping[str, Setting]) -> Iterator[Point]:
    yield _point(baseline, changed)
    for left_out in changed:
        yield _point(baseline, {key: setting for key, setting in changed.items() if key != left_out})


def _point(baseline: Mapping[str, Setting], changed: Mapping[str, Setting]) -> Point:
    """The baseline with some factors changed; a factor that is a block leaves nothing of the baseline's block."""
    paths = [setting.path for setting in changed.values()]
    kept = [old for old in baseline.values() if not any(old.path[: len(path)] == path for path in paths)]
    return Point((*kept, *changed.values()))


def _refuse_several_values(sweep: Sweep, factors: Mapping[str, list[Setting]]) -> None:
    problems = [
        sweep.document.problem(
            ("ablate", key), f"has {len(settings)} values; expected one for the mode `leave_one_out`, which joins them"
        )
        for key, settings in factors.items()
        if len(settings) > 1
    ]
    if problems:
        raise ConfigError(problems)
