"""Makes small files in the true formats, with made-up values, plain and compressed."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import zstandard

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
AVAZU_HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def write(path: Path, text: str) -> Path:
    """Write the text as UTF-8, its line ends as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def criteo_line(label: str = "0", integers: dict[int, str] | None = None, first: str = "ab12cd34") -> str:
    """A row with ``integers`` by number from 1, C1 = ``first`` and all else missing."""
    values = [(integers or {}).get(number, "") for number in range(1, 14)]
    return "\t".join([label, *values, first, *[""] * 25]) + "\n"


def avazu_line(event: str, click: str = "0", hour: str = "14102100", device: str = "a99f214a") -> str:
    """A row whose unnamed columns hold their own names."""
    cells = AVAZU_HEADER.split(",")
    cells[0], cells[1], cells[2], cells[11] = event, click, hour, device
    return ",".join(cells) + "\r\n"


def taobao_folder(folder: Path, rows: str) -> Path:
    """``raw_sample.csv`` of these rows with its two side tables, quirks included."""
    write(folder / "raw_sample.csv", "user,time_stamp,adgroup_id,pid,nonclk,clk\n" + rows)
    write(
        folder / "ad_feature.csv",
        "adgroup_id,cate_id,campaign_id,customer,brand,price\n11,61,71,81,NULL,170.5\n12,62,72,82,95,2.0\n",
    )
    write(
        folder / "user_profile.csv",
        "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
        "new_user_class_level \n501,0,5,2,5,,3,0,3\n",
    )
    return folder


def open_bandit_folder(root: Path, rows: list[str]) -> Path:
    """One campaign of two items; each row is given from its timestamp on."""
    folder = root / "random" / "men"
    header = (
        ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,"
        "user_feature_3,user-item_affinity_0,user-item_affinity_1\n"
    )
    lines = "".join(f"{number},{row}\n" for number, row in enumerate(rows))
    folder.mkdir(parents=True)
    (folder / "men.csv.gz").write_bytes(gzip.compress((header + lines).encode()))
    items = (
        ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n"
        "0,0,-0.5,fa,fb,fc\n1,1,0.25,fd,fb,fe\n"
    )
    (folder / "item_context.csv.gz").write_bytes(gzip.compress(items.encode()))
    return folder
