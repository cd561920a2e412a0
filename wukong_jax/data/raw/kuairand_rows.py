"""Converts KuaiRand-Pure (Gao et al., CIKM 2022) to one Parquet file of impressions with user and video features.

Reads both standard logs, the random log, `user_features_pure.csv` and `video_features_basic_pure.csv` from the
release's `data` folder. M3oE (arXiv 2404.18465, Table 1) uses three tabs of 178,087, 2,236,414 and 93,165 rows. That
is more than the standard logs contain, so the random log must be included. M3oE's code for this data set was not
published; that the tabs are the largest ones, 0, 1 and 4, is inferred from the tabs' shares in the logs. The rows of
each tab are reported.

Left out because they are known only after the impression: all other signals of the logs (play and stay times, likes,
...) and `video_features_statistic_pure.csv`, whose counts cover the whole period, including the test rows.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from wukong_jax.data.raw.movielens_rows import count_domains
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole
from wukong_jax.messages import first_line

LOGS = (
    "log_standard_4_08_to_4_21_pure.csv",
    "log_standard_4_22_to_5_08_pure.csv",
    "log_random_4_22_to_5_08_pure.csv",
)
TABS = ("0", "1", "4")

_LOG_COLUMNS = ("user_id", "video_id", "hourmin", "time_ms", "is_click", "long_view", "tab")
_USER_COLUMNS = (
    "user_id",
    "user_active_degree",
    "is_lowactive_period",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "follow_user_num_range",
    "fans_user_num",
    "fans_user_num_range",
    "friend_user_num",
    "friend_user_num_range",
    "register_days",
    "register_days_range",
    *(f"onehot_feat{index}" for index in range(18)),
)
_VIDEO_COLUMNS = (
    "video_id",
    "author_id",
    "video_type",
    "upload_type",
    "visible_status",
    "video_duration",
    "server_width",
    "server_height",
    "music_id",
    "music_type",
    "tag",
)


def convert_kuairand(folder: str | Path, output: str | Path, tabs: Sequence[str] = TABS) -> dict[str, int]:
    """Writes the impressions of the given tabs, in the order of the logs, for the schema kuairand_pure.

    Args:
      folder: the release's `data` folder; its files may be plain or .gz.
      output: the Parquet file to write; it must not exist.
      tabs: the tabs to keep.

    Returns:
      Number of rows per tab.

    Raises:
      UserError: a file or column is missing, an id is listed twice, a tab has no rows, or the output exists.
    """
    folder, output = Path(folder), Path(output)
    if output.exists():
        raise UserError(f"output {output}: exists; remove it or choose another file")
    logs = pl.concat([_read_csv(folder, name, _LOG_COLUMNS) for name in LOGS])
    users = _read_csv(folder, "user_features_pure.csv", _USER_COLUMNS)
    videos = _read_csv(folder, "video_features_basic_pure.csv", _VIDEO_COLUMNS)
    rows = join_impressions(logs, users, videos, tabs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(output, "wb") as file:
        rows.write_parquet(file)
    return count_domains(rows["tab"])


def join_impressions(
    logs: pl.DataFrame, users: pl.DataFrame, videos: pl.DataFrame, tabs: Sequence[str]
) -> pl.DataFrame:
    """Joins the three tables, in which all columns are texts; users and videos without features get missing values.

    Args:
      logs: impressions.
      users: features by user_id.
      videos: features by video_id.
      tabs: the tabs to keep.

    Returns:
      The columns of all three tables, in the order of the impressions; hourmin and time_ms are replaced by hour (0 to
      23) and timestamp (seconds since 1970).

    Raises:
      UserError: users or videos list an id twice, a time is not a number, or a tab has no rows.
    """
    for table, key in ((users, "user_id"), (videos, "video_id")):
        if table[key].n_unique() != table.height:
            raise UserError(
                f"{key} = {table[key].filter(table[key].is_duplicated())[0]!r}: listed twice among features"
            )
    kept = logs.filter(pl.col("tab").is_in(list(tabs)))
    empty = sorted(set(tabs) - set(kept["tab"].unique()))
    if empty:
        raise UserError(
            f"tab {empty[0]!r}: no impression has it; the logs have {', '.join(count_domains(logs['tab']))}"
        )
    times = kept.select(
        hour=pl.col("hourmin").cast(pl.Int64, strict=False) // 100,
        timestamp=pl.col("time_ms").cast(pl.Float64, strict=False).floordiv(1000).cast(pl.Int64),
    )
    for column, source in (("hour", "hourmin"), ("timestamp", "time_ms")):
        bad = times[column].is_null().arg_true()
        if len(bad):
            raise UserError(f"{source} = {kept[source][int(bad[0])]!r}: expected a number; fetch the logs again")
    rows = kept.drop("hourmin", "time_ms").hstack(times)
    rows = rows.join(users, on="user_id", how="left", maintain_order="left")
    return rows.join(videos, on="video_id", how="left", maintain_order="left")


def _read_csv(folder: Path, name: str, columns: Sequence[str]) -> pl.DataFrame:
    paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not paths:
        raise UserError(f"{folder}: no {name}; give the data folder of KuaiRand-Pure")
    try:
        table = pl.read_csv(paths[0], infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{paths[0]}: not readable as CSV ({first_line(error)})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{paths[0]}: no column {missing[0]!r}; it has {', '.join(table.columns)}")
    return table.select(columns)
