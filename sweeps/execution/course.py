"""What a driver does next: the steps of a plan as they become known, each of them once a session."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from titanlab.sweeps.execution.stages import Step, standing
from titanlab.sweeps.planning.plan import Plan


class Course:
    """A plan on its way from the tuning to the end of the comparison; without a tuning it has one stage.

    Args:
        plan: the sweep.
        trials: the folder with one folder a trial.
    """

    def __init__(self, plan: Plan, trials: Path) -> None:
        self.trials = trials
        self._stand = standing(plan, trials, ())
        self._taken: set[tuple[str, int | None]] = set()

    @property
    def plan(self) -> Plan:
        """With every trial that is known by now."""
        return self._stand.plan

    @property
    def compares(self) -> bool:
        """Whether the tuning is over, if there is one."""
        tuning = self.plan.tuning
        return tuning is None or all(search.ended for search in tuning.searches)

    def take(self) -> list[Step]:
        """The steps that can be done now; what was taken before is not given again, however it ended."""
        steps = [step for step in self._stand.next if (step.trial.key, step.pause_at) not in self._taken]
        self._taken |= {(step.trial.key, step.pause_at) for step in steps}
        return steps

    def look(self, ended: Collection[str]) -> None:
        """Reads what came of the steps.

        Args:
            ended: the keys of trials that ended in this session: those that failed count as they are.
        """
        self._stand = standing(self.plan, self.trials, ended) if self.plan.tuning is not None else self._stand
