"""The plan of an experiment at one moment: which user is assigned to which arm, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stream_ctr.config.experiment import ArmConfig, ExperimentConfig, intervals
from stream_ctr.experiments.assignment import Assigner, Assignment, Reason
from stream_ctr.experiments.shared_files import Kill
from stream_ctr.experiments.statistics.thompson import draw, uniform_of
from stream_ctr.serving.routing.guards import ArmGuard

NO_KILLS: Mapping[str, Kill] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Choice:
    """The arm chosen to answer a request."""

    assignment: Assignment
    """The user's assignment, whichever arm answers this request."""
    arm: str
    reason: Reason
    propensity: float | None = None
    """Sampling probability of the arm, if it was drawn for this event."""


class Plan:
    """Configuration, killed arms and sampling probabilities. Replaced as a whole and never modified.

    Only its guards have state: each is used by one thread.
    """

    def __init__(
        self,
        experiment: ExperimentConfig,
        killed: Mapping[str, Kill] = NO_KILLS,
        secret: bytes = b"",
        chances: Mapping[str, float] | None = None,
        previous: Plan | None = None,
    ) -> None:
        """``chances`` are the arms' probabilities for sampled events; without them nothing is sampled.

        ``previous`` is the plan that this one replaces; its assigner and guards are reused if still valid.

        Raises:
            ConfigError: weights or coverage are unusable.
        """
        self.experiment = experiment
        self.control = experiment.arms[0].name if experiment.arms else ""
        self.killed = killed
        self.secret = secret
        self.chances = dict(chances or {})
        same = previous is not None and previous.experiment == experiment
        self._assigner: Assigner = previous._assigner if previous and same else Assigner(experiment)
        self.intervals = intervals(experiment)
        self.answering = tuple(arm.name for arm in experiment.arms if not arm.shadow)
        """The arms that answer users, including killed ones."""
        self.live = tuple(name for name in self.answering if name not in killed)
        """The arms that predict every shown candidate before the response."""
        self._shadows = tuple(arm for arm in experiment.arms if arm.shadow and arm.name not in killed)
        self._testers = {user: arm.name for arm in experiment.arms for user in arm.testers}
        self.guards = {arm.name: self._guard(arm, previous) for arm in experiment.arms[1:]}
        """Guards of every arm except the control, which is never killed."""

    def _guard(self, arm: ArmConfig, previous: Plan | None) -> ArmGuard:
        config = arm.guards or self.experiment.guards
        before = None if previous is None else previous.guards.get(arm.name)
        counts_on = previous is not None and arm.name not in previous.killed
        return before if before is not None and counts_on and before.config == config else ArmGuard(config)

    def choose(self, user: str, event_id: str, overridden: str | None = None) -> Choice:
        """The arm for one request; ``overridden`` is the arm in a tester's override header."""
        assignment = self._assigner.assign(user)
        choice = self._choose(assignment, user, event_id, overridden)
        if choice.arm not in self.killed:
            return choice
        # Keep "override" as the reason: impressions of testers must stay excluded from comparisons.
        return Choice(assignment, self.control, "override" if choice.reason == "override" else "killed")

    def _choose(self, assignment: Assignment, user: str, event_id: str, overridden: str | None) -> Choice:
        arm = overridden or self._testers.get(user)
        if arm is not None:
            return Choice(assignment, arm, "override")
        if assignment.arm is not None:
            return Choice(assignment, assignment.arm, "assigned")
        sampled = self._sample(event_id)
        if sampled is not None:
            return Choice(assignment, sampled[0], "sampled", sampled[1])
        return Choice(assignment, self.control, "not_enrolled")

    def _sample(self, event_id: str) -> tuple[str, float] | None:
        """The arm drawn for an event and its probability; None if the event is not sampled."""
        experiment = self.experiment
        if not self.chances or uniform_of(experiment.salt, "sample", event_id) >= experiment.thompson.share:
            return None
        names, chances = list(self.chances), list(self.chances.values())
        index = draw(chances, uniform_of(experiment.salt, "arm", event_id))
        return names[index], chances[index]

    def shadows(self, event_id: str) -> list[str]:
        """The shadow arms that predict this event."""
        salt = self.experiment.salt
        return [
            arm.name
            for arm in self._shadows
            if arm.shadow_sample >= 1 or uniform_of(salt, arm.name, event_id) < arm.shadow_sample
        ]
