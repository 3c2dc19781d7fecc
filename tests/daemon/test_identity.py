"""The message about a configuration that does not match a saved state."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_ctr.config.settings import load_settings
from stream_ctr.daemon.identity import check_identity, identity
from stream_ctr.datasets.base import resolve_fields
from stream_ctr.errors import StateError
from tests.support.faulty_streams import write_config

FOLDER = Path("state/main")
REMEDY = "or set train.state to a new folder"


@pytest.fixture
def saved(tmp_path: Path) -> dict[str, Any]:
    """The identity of a trainer with the fields ad, age, price and tags, as a manifest holds it."""
    settings = load_settings(write_config(tmp_path, "state"))
    found = identity(settings, settings.arm(None), resolve_fields(settings.features))
    loaded: dict[str, Any] = json.loads(json.dumps(found))
    return loaded


def set_value(found: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        found = found[section]
    found[key] = value


def set_values(**values: Any) -> Callable[[dict[str, Any]], None]:
    """A change of settings; ``__`` stands for the dot in a key."""

    def change(found: dict[str, Any]) -> None:
        for path, value in values.items():
            set_value(found, path.replace("__", "."), value)

    return change


def edit_fields(
    removed: tuple[str, ...] = (), added: tuple[str, ...] = (), changed: tuple[str, ...] = ()
) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        fields = [field for field in found["features"]["fields"] if field["name"] not in removed]
        for field in fields:
            if field["name"] in changed:
                field["kind"] = "another"
        found["features"]["fields"] = fields + [{**fields[0], "name": name} for name in added]

    return change


def both(found: dict[str, Any]) -> None:
    edit_fields(added=("item",))(found)
    found["join"]["window_seconds"] = 21.0


CASES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "fields": (
        edit_fields(removed=("ad", "tags"), added=("item",), changed=("price",)),
        "state/main was trained with different fields (removed: ad, tags; added: item; changed: price). "
        f"Restore features.fields, {REMEDY}",
    ),
    "one field": (
        edit_fields(removed=("age",)),
        f"state/main was trained with different fields (removed: age). Restore features.fields, {REMEDY}",
    ),
    "order of fields": (
        lambda found: found["features"]["fields"].reverse(),
        "state/main was trained with different fields (another order: ad, age, price, tags; now tags, price, "
        f"age, ad). Restore features.fields, {REMEDY}",
    ),
    "many fields": (
        edit_fields(added=tuple(f"f{number}" for number in range(30))),
        "state/main was trained with different fields (added: f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 and 20 "
        f"more). Restore features.fields, {REMEDY}",
    ),
    "a number": (
        set_values(join__window_seconds=21.0),
        "state/main was created with join.window_seconds = 20.0 (now 21.0). Restore join.window_seconds, "
        + REMEDY,
    ),
    "a list": (
        set_values(model__hidden=[8]),
        f"state/main was created with model.hidden = [8, 4] (now [8]). Restore model.hidden, {REMEDY}",
    ),
    "the name of a topic": (
        set_values(topics__clicks="other"),
        f'state/main was created with log.clicks = "clicks" (now "other"). Restore log.clicks, {REMEDY}',
    ),
    "a setting that is saved only without its default": (
        set_values(learn_from="own"),
        f'state/main was created with learn_from = "all" (now "own"). Restore learn_from, {REMEDY}',
    ),
    "a setting without a value": (
        set_values(optimizer__later=1),
        "state/main was created with optimizer.later = not set (now 1). Restore optimizer.later, " + REMEDY,
    ),
    "several settings": (
        set_values(learner__seed=9, model__backbone="dcn"),
        'state/main was created with learner.seed = 1 (now 9), model.backbone = "dnn" (now "dcn"). '
        f"Restore learner.seed, model.backbone, {REMEDY}",
    ),
    "fields and settings": (
        both,
        "state/main was trained with different fields (added: item) and was created with join.window_seconds "
        f"= 20.0 (now 21.0). Restore features.fields, join.window_seconds, {REMEDY}",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mismatch_names_the_settings_with_both_values(saved: dict[str, Any], case: str) -> None:
    change, message = CASES[case]
    configured = copy.deepcopy(saved)
    change(configured)
    with pytest.raises(StateError) as raised:
        check_identity(saved, configured, FOLDER)
    assert str(raised.value) == message


def test_a_match_raises_nothing(saved: dict[str, Any]) -> None:
    check_identity(saved, copy.deepcopy(saved), FOLDER)


def test_a_retired_setting_of_an_older_checkpoint_is_ignored(saved: dict[str, Any]) -> None:
    older = copy.deepcopy(saved)
    older["order"]["max_lead_seconds"] = 60.0
    check_identity(older, saved, FOLDER)


def test_a_recreated_labelled_topic_is_named_with_both_ids() -> None:
    saved = {"topics": {"labelled": "labelled"}, "labelled_topic_id": "a"}
    with pytest.raises(StateError, match=r"topic 'labelled' was deleted and created again .*\(id a, now b\)"):
        check_identity(saved, {**saved, "labelled_topic_id": "b"}, FOLDER)
    renamed = {"topics": {"labelled": "elsewhere"}, "labelled_topic_id": "b"}
    with pytest.raises(StateError, match=r'log.labelled = "labelled" \(now "elsewhere"\)\. Restore log.lab'):
        check_identity(saved, renamed, FOLDER)
