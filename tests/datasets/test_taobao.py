"""The Taobao reader on its three tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from stream_ctr.datasets.taobao import TAOBAO_FIELDS, Taobao
from stream_ctr.errors import DataError
from tests.support.dataset_files import taobao_folder, write

ROWS = (
    "501,1494137644,11,430548_1007,1,0\n"
    "502,1494137000,12,430539_1007,0,1\n"
    "501,1494137645,99,430539_1007,1,0\n"
)


def test_side_tables_are_joined(tmp_path: Path) -> None:
    first, second, third = Taobao().read(taobao_folder(tmp_path, ROWS))
    assert first.features == {
        "user": "501",
        "adgroup_id": "11",
        "pid": "430548_1007",
        "cate_id": "61",
        "campaign_id": "71",
        "customer": "81",
        "price": 170.5,
        "cms_segid": "0",
        "cms_group_id": "5",
        "final_gender_code": "2",
        "age_level": "5",
        "shopping_level": "3",
        "occupation": "0",
        "new_user_class_level": "3",
    }
    assert second.features["brand"] == "95"
    assert "age_level" not in second.features
    assert "price" not in third.features
    assert {name for e in (first, second, third) for name in e.features} <= {f.name for f in TAOBAO_FIELDS}
    assert (first.label, second.label) == (0, 1)


def test_file_order_and_own_times_are_kept(tmp_path: Path) -> None:
    folder = taobao_folder(tmp_path, ROWS)
    examples = list(Taobao().read(folder / "raw_sample.csv"))
    assert [example.time_ms for example in examples] == [1494137644000, 1494137000000, 1494137645000]
    assert [example.event_id for example in examples] == ["taobao-0", "taobao-1", "taobao-2"]
    assert "not sorted by time" in Taobao().note


def test_compressed_side_tables_are_found(tmp_path: Path) -> None:
    folder = taobao_folder(tmp_path, ROWS)
    for name in ("raw_sample.csv", "ad_feature.csv", "user_profile.csv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert len(list(Taobao().read(folder))) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("501,1494137644,11,p,1,1\n", "line 2, column nonclk: '1' is not 1 - clk = 0"),
        ("501,1494137644,11,p,1,\n", "line 2, column clk"),
        ("501,soon,11,p,1,0\n", "column time_stamp: 'soon'"),
        ("501,1494137644,11,p,1\n", "5 columns instead of 6"),
    ],
)
def test_bad_rows_are_named(row: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(Taobao().read(taobao_folder(tmp_path, row)))


def test_bad_or_missing_side_tables_are_named(tmp_path: Path) -> None:
    folder = taobao_folder(tmp_path, ROWS)
    header = "adgroup_id,cate_id,campaign_id,customer,brand,price\n"
    write(folder / "ad_feature.csv", header + "11,61,71,81,NULL,dear\n")
    with pytest.raises(DataError, match=r"ad_feature.csv, line 2, column price: 'dear'"):
        list(Taobao().read(folder))
    (folder / "ad_feature.csv").unlink()
    with pytest.raises(DataError, match=r"no ad_feature\.csv"):
        list(Taobao().read(folder))
