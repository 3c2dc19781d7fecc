"""The Open Bandit reader on files in its format."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ctr.datasets.open_bandit import OPEN_BANDIT_FIELDS, OpenBandit
from stream_ctr.errors import DataError
from tests.support.dataset_files import open_bandit_folder

GOOD = "2019-11-24 00:00:34.762830+00:00,1,3,1,0.0125,ua,ub,uc,ud,7.0,2.0"


def test_item_context_and_own_affinity_are_joined(tmp_path: Path) -> None:
    folder = open_bandit_folder(tmp_path, [GOOD, GOOD.replace(".762830", "").replace(",1,3,1,", ",0,1,0,")])
    first, second = OpenBandit().read(folder)
    assert first.features == {
        "item_id": "1",
        "position": "3",
        "user_feature_0": "ua",
        "user_feature_1": "ub",
        "user_feature_2": "uc",
        "user_feature_3": "ud",
        "affinity": 2.0,
        "item_feature_0": 0.25,
        "item_feature_1": "fd",
        "item_feature_2": "fb",
        "item_feature_3": "fe",
    }
    assert set(first.features) == {field.name for field in OPEN_BANDIT_FIELDS}
    assert second.features["affinity"] == 7.0
    assert (first.propensity, first.label, second.label) == (0.0125, 1, 0)
    assert (first.time_ms, second.time_ms) == (1574553634762, 1574553634000)
    assert (first.event_id, second.event_id) == ("random-men-0", "random-men-1")
    assert first.user == "ua-ub-uc-ud"


def test_file_and_folder_give_the_same(tmp_path: Path) -> None:
    folder = open_bandit_folder(tmp_path, [GOOD])
    assert list(OpenBandit().read(folder)) == list(OpenBandit().read(folder / "men.csv.gz"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD.replace("+00:00", ""), "line 2, column timestamp"),
        (GOOD.replace(",1,3,1,", ",1,3,yes,"), "column click: 'yes' is not 0 or 1"),
        (GOOD.replace(",1,3,1,", ",5,3,1,"), "column item_id: '5' is not an item of item_context"),
        (GOOD.replace("0.0125", "nan"), "column propensity_score: 'nan' is not a number"),
        (GOOD.replace(",2.0", ",much"), "column user-item_affinity_1: 'much'"),
        (GOOD + ",1", "13 columns instead of 12"),
    ],
)
def test_bad_rows_are_named(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(OpenBandit().read(open_bandit_folder(tmp_path, [row])))


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = open_bandit_folder(tmp_path, [GOOD])
    (folder / "item_context.csv.gz").unlink()
    with pytest.raises(DataError, match=r"no item_context\.csv\.gz"):
        list(OpenBandit().read(folder))
    with pytest.raises(DataError, match=r"no random\.csv\.gz"):
        list(OpenBandit().read(folder.parent))
