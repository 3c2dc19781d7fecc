"""Which experiments are valid, and which changes to a running experiment are."""

from __future__ import annotations

from stream_ctr.config.experiment import FOLDER, ArmConfig, ExperimentConfig, intervals
from stream_ctr.errors import ConfigError, UsageError


def check_experiment(experiment: ExperimentConfig) -> None:
    """Reject settings that contradict each other.

    Raises:
        ConfigError: the first of them, with its key and value.
    """
    for arm in experiment.arms:
        _check_arm(arm)
    intervals(experiment)
    _check_guards(experiment)
    control = experiment.arms[0]
    if control.shadow:
        raise ConfigError(
            f"experiment.arms: the first arm, {control.name!r}, is the control and cannot be a shadow; put "
            "another arm first"
        )
    _check_testers(experiment)
    _check_rebuilt(experiment)
    arms = sum(not arm.shadow for arm in experiment.arms)
    if experiment.thompson.share > 0 and arms * experiment.thompson.floor > 1:
        raise ConfigError(
            f"experiment.thompson.floor must be at most {1 / arms:g} with {arms} arms, got "
            f"{experiment.thompson.floor:g}"
        )


def _check_arm(arm: ArmConfig) -> None:
    if not arm.name or not all(c.isalnum() or c in "-_" for c in arm.name):
        raise ConfigError(
            f"experiment.arms: a name must consist of letters, digits, - and _, got {arm.name!r}"
        )
    if arm.name == FOLDER:
        raise ConfigError(
            f"experiment.arms: the name {arm.name!r} is reserved for the experiment's files; choose another"
        )
    if arm.shadow and arm.weight:
        raise ConfigError(
            f"experiment.arms {arm.name!r}: a shadow arm answers no users, but weight = {arm.weight:g}; set "
            "weight = 0 or shadow = false"
        )
    if arm.shadow and arm.testers:
        raise ConfigError(
            f"experiment.arms {arm.name!r}: a shadow arm answers no testers; remove them, or set "
            "shadow = false with weight = 0"
        )


def _check_rebuilt(experiment: ExperimentConfig) -> None:
    """Raises ConfigError for an arm that should serve users but makes no snapshots."""
    sampled = experiment.thompson.share > 0
    for arm in experiment.arms:
        rebuilt = arm.learner is not None and arm.learner.rebuild and not arm.snapshot
        if rebuilt and len(experiment.arms) > 1 and (arm.weight or arm.shadow or arm.testers or sampled):
            raise ConfigError(
                f"experiment.arms {arm.name!r}: learner.rebuild = true makes no snapshots, so the arm cannot "
                "predict for users; set weight = 0, shadow = false, no testers and thompson.share = 0, or "
                "choose river-ftrl, river-lr or river-fm"
            )


def _check_testers(experiment: ExperimentConfig) -> None:
    """Raises ConfigError for a user who is a tester of two arms."""
    owner: dict[str, str] = {}
    for arm in experiment.arms:
        for user in arm.testers:
            if owner.setdefault(user, arm.name) != arm.name:
                raise ConfigError(
                    f"experiment.arms: user {user!r} is a tester of {owner[user]!r} and of {arm.name!r}; "
                    "keep one of the two"
                )


def _check_guards(experiment: ExperimentConfig) -> None:
    """Raises ConfigError for a calibration guard that every arm would violate."""
    own = [(f"experiment.arms {arm.name!r}: guards", arm.guards) for arm in experiment.arms if arm.guards]
    for where, guards in [("experiment.guards", experiment.guards), *own]:
        for name in ("calibration", "observed_calibration"):
            value = getattr(guards, name)
            if 0 < value < 1:
                raise ConfigError(
                    f"{where}.{name} must be 0 for no guard, or a ratio of at least 1, got {value:g}; for a "
                    "mean that may be a third too low or half too high set 1.5"
                )


def refuse_frozen(experiment: ExperimentConfig, name: str) -> None:
    """Raises UsageError for an arm that serves a fixed snapshot: it has nothing to train."""
    for arm in experiment.arms:
        if arm.name == name and arm.snapshot:
            raise UsageError(
                f"arm {name!r} is frozen: it serves the snapshot {arm.snapshot} and needs no trainer; to "
                "train it, remove its snapshot from the configuration and give the experiment a new salt"
            )


def check_change(old: ExperimentConfig, new: ExperimentConfig) -> None:
    """Reject a change that moves users between arms, or changes an arm's model, under the same salt.

    A new salt is a new experiment, where everything may change.

    Raises:
        ConfigError: the setting, its old and new value, and the remedy.
    """
    if old.salt == new.salt and old != new:
        _check_same_salt(old, new)


def _check_same_salt(old: ExperimentConfig, new: ExperimentConfig) -> None:
    if old.name != new.name:
        raise ConfigError(
            f"experiment.name changed from {old.name!r} to {new.name!r}: a changed name requires a new salt"
        )
    if old.arms[0].name != new.arms[0].name:
        raise ConfigError(
            f"the control changed from {old.arms[0].name!r} to {new.arms[0].name!r}: another control "
            "requires a new salt"
        )
    before, after = ([(a.name, a.weight) for a in each.arms if a.weight > 0] for each in (old, new))
    if before != after:
        raise ConfigError(
            f"experiment.arms: the weights changed from {_shown(before)} to {_shown(after)}: a changed "
            f"weight requires a new salt, {new.salt!r} is the running experiment's"
        )
    if new.coverage < old.coverage:
        raise ConfigError(
            f"experiment.coverage was lowered from {old.coverage:g} to {new.coverage:g}, which takes users "
            "out of their arms: that requires a new salt; to stop an arm, kill it"
        )
    known = {arm.name: arm for arm in old.arms}
    for arm in new.arms:
        if arm.name in known and arm.weight > 0 and arm.snapshot != known[arm.name].snapshot:
            raise ConfigError(
                f"experiment.arms {arm.name!r}: snapshot changed from {known[arm.name].snapshot!r} to "
                f"{arm.snapshot!r}: another model in the same arm requires a new salt"
            )


def _shown(weights: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in weights)
