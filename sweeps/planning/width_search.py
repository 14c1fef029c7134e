"""Finding the value of one setting at which something is closest to a target, by as few looks as can be.

The values are walked from where the setting stands, by doubling or halving, in the direction that comes closer, until
the target is passed; between the last two values it is then searched by interpolation and bisection. Where that does
not end close enough, the setting is looked at all over its range, since what it decides may rise and fall.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias, get_args

import annotated_types
from pydantic.fields import FieldInfo

Number: TypeAlias = int | float
Look: TypeAlias = Callable[[Number], float | None]
"""What comes of a value; None for one that is refused."""

MOST_DOUBLINGS = 12
MOST_HALVINGS = 6
MOST_REFUSED = 3
"""Values in a row that are refused before a direction is given up."""
MOST_UNMOVED = 3
"""Values in a row that change nothing before a direction is given up."""
REACH = 8
"""How many times smaller and larger the range is that is looked at in the end."""
NARROWEST = 1e-3
"""Of the range of a fraction's values, relative to them, at which its search ends."""
EXACT = 1e-4
"""How far off is as good as equal."""


@dataclass(frozen=True)
class Values:
    """What a setting may be."""

    whole: bool
    low: float
    high: float
    step: int = 1
    """Of whole numbers: what they are multiples of."""

    def at(self, number: float) -> Number | None:
        """The value nearest to a number; None beyond the range, and for 0, which takes a part away."""
        value: Number = self.step * round(number / self.step) if self.whole else number
        return value if self.low <= value <= self.high and value > 0 else None


def values_of(field: FieldInfo) -> Values | None:
    """What a field takes; None if it is no number."""
    kinds = {kind for kind in (field.annotation, *get_args(field.annotation)) if kind in (int, float)}
    if not kinds:
        return None
    low, high, step = -math.inf, math.inf, 1
    limits: list[Any] = field.metadata
    for limit in limits:
        match limit:
            case annotated_types.Ge(ge=bound) | annotated_types.Gt(gt=bound):
                low = max(low, float(bound))  # type: ignore[arg-type]
            case annotated_types.Le(le=bound) | annotated_types.Lt(lt=bound):
                high = min(high, float(bound))  # type: ignore[arg-type]
            case annotated_types.MultipleOf(multiple_of=bound):
                step = int(bound)  # type: ignore[call-overload]
    return Values(float not in kinds, low, high, step)


class WidthSearch:
    """One search.

    Args:
        look: what comes of a value; asked once for each.
        values: that it may be asked for.
    """

    def __init__(self, look: Look, values: Values, start: Number, target: float) -> None:
        self.values, self.start, self.target = values, start, target
        self._look = look
        self.seen: dict[Number, float | None] = {}

    @property
    def found(self) -> dict[Number, float]:
        """What came of the values that are not refused, by value."""
        return dict(sorted((value, amount) for value, amount in self.seen.items() if amount is not None))

    @property
    def has_effect(self) -> bool:
        """Whether different values came to different amounts."""
        return len(set(self.found.values())) > 1

    def deviation(self, value: Number) -> float:
        """How far a value that was found is off, as a fraction of the target."""
        return self.found[value] / self.target - 1

    @property
    def best(self) -> Number:
        """The value that comes closest; of equal ones the one nearest to the start."""
        return min(self.found, key=lambda value: (abs(self.deviation(value)), abs(value - self.start)))

    def run(self, tolerance: float) -> None:
        """Searches; `best` is then the answer, whether or not it is within the tolerance."""
        if self.look(self.start) is None:
            return
        for factor in (2.0, 0.5):
            if self._walk(factor) and abs(self.deviation(self.best)) <= tolerance:
                break
        if self.has_effect and abs(self.deviation(self.best)) > tolerance:
            self._look_all_over()
        if not self.values.whole and self.has_effect:
            self._shorten()

    def look(self, number: float) -> float | None:
        """What comes of the value nearest to a number."""
        value = self.values.at(number)
        if value is None:
            return None
        if value not in self.seen:
            self.seen[value] = self._look(value)
        return self.seen[value]

    def _walk(self, factor: float) -> bool:
        """Goes from the start in one direction until the target is passed or gets farther away; whether it passed."""
        before, value = self.start, float(self.start)
        refused: list[float] = []
        unmoved = 0
        for _ in range(MOST_DOUBLINGS):
            value *= factor
            here, amount = self.values.at(value), self.look(value)
            if here is None or amount is None:
                refused.append(value)
                if here is None or len(refused) == MOST_REFUSED:
                    return self._edge(before, refused[0])
                continue
            if self._passed(before, here):
                self._narrow(before, here)
                return True
            unmoved = unmoved + 1 if amount == self.found[before] else 0
            if abs(self.deviation(here)) > abs(self.deviation(before)) or unmoved == MOST_UNMOVED:
                return False
            before, refused = here, []
        return False

    def _edge(self, inside: Number, beyond: float) -> bool:
        """Looks for the last value before those that are refused; whether the target is passed on the way."""
        last, bound = inside, min(max(beyond, self.values.low), self.values.high)
        for number in (bound, *([None] * MOST_HALVINGS)):
            middle = (last + bound) / 2 if number is None else number
            here = self.values.at(middle)
            if here is None or here == last or self.look(here) is None:
                bound = middle
            elif self._passed(last, here):
                self._narrow(last, here)
                return True
            else:
                last = here
        return False

    def _passed(self, one: Number, other: Number) -> bool:
        return (self.found[one] - self.target) * (self.found[other] - self.target) <= 0

    def _narrow(self, one: Number, other: Number) -> None:
        """Searches between two values on either side of the target."""
        low, high = sorted((one, other))
        turn = 0
        while not self._is_narrow(low, high) and abs(self.deviation(self.best)) > EXACT:
            turn += 1
            guess = self._interpolated(low, high) if turn % 2 else (low + high) / 2
            middle = next((value for value in self._near(guess, low, high) if self.look(value) is not None), None)
            if middle is None:
                return
            low, high = (low, middle) if self._passed(low, middle) else (middle, high)

    def _is_narrow(self, low: Number, high: Number) -> bool:
        return high - low <= self.values.step if self.values.whole else high - low <= NARROWEST * high

    def _interpolated(self, low: Number, high: Number) -> float:
        first, last = self.found[low], self.found[high]
        share = (self.target - first) / (last - first) if last != first else 0.5
        # Not at an end, where the next step would learn nothing.
        return low + (high - low) * min(0.95, max(0.05, share))

    def _near(self, guess: float, low: Number, high: Number) -> Iterator[Number]:
        """The values between two others, the nearest to the guess first; of fractions the guess alone."""
        middle = self.values.at(guess)
        if not self.values.whole or middle is None:
            yield guess
            return
        step = self.values.step
        for distance in range(0, max(32 * step, step), step):
            for value in dict.fromkeys((middle - distance, middle + distance)):
                if low < value < high:
                    yield value

    def _look_all_over(self) -> None:
        """Looks at many values around the start, and searches wherever the target is passed between two of them."""
        span = range(-24, 25)
        for power in span:
            self.look(self.start * REACH ** (power / 24))
        for one, other in pairwise(list(self.found)):
            if self._passed(one, other):
                self._narrow(one, other)

    def _shorten(self) -> None:
        """Finds the shortest fraction that comes as close as the best one."""
        best = self.best
        off = abs(self.deviation(best))
        size = math.floor(math.log10(best))
        for decimals in range(-size, 6 - size):
            for shortened in (math.floor, math.ceil):
                short = round(shortened(best * 10.0**decimals) / 10.0**decimals, max(0, decimals))
                if self.look(short) is not None and abs(self.deviation(short)) <= off:
                    self.start = short  # of equally close values it is the one to take
                    return
