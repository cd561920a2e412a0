"""The schemas that come with the package: criteo, avazu, frappe, census_income, and the sets of published comparisons.

Choices that the data sets leave open, and ours:

* criteo: log1p of the 13 counts (DLRM's convention; criteo_log is one word away), one vocabulary per categorical
  column with values seen once unknown, rows cut in file order, which is time order, at 80 / 10 / 10 %.
* avazu: every column categorical but `id`, which is unique, and `hour`, which is the timestamp (its hour of the day
  is not a feature here); values seen once unknown; a random split of 80 / 10 / 10 %, as the published baselines have.
* frappe: every value of the training rows has an id of its own, as the published baselines have; split by file.
* census_income: the labels of the multi-task literature (income above 50,000; never married), so marital status is
  no feature, nor is the survey's instance weight; the year is the domain. Amounts are log1p, other numbers
  standardised. The test file is halved at random into validation and test.
* avazu_x4, criteo_terabyte, criteo_x1, kuai_video, micro_video, movielens_latest, taobao_ads: columns and splits of the
  published files; each choice stands in the header of the config of that name.
* hotel_bookings, kuai_video_objectives, kuairand_pure, movielens_1m, movielens_small: several domains or objectives;
  the same. The last three read what `wukong-jax convert_kuairand` and `wukong-jax convert_movielens` write.
"""

from importlib import resources
from pathlib import Path

from wukong_jax.errors import UserError
from wukong_jax.schema import Schema, load_schema

BUILTIN_SCHEMAS = (
    "avazu",
    "avazu_x4",
    "census_income",
    "criteo",
    "criteo_terabyte",
    "criteo_x1",
    "frappe",
    "hotel_bookings",
    "kuai_video",
    "kuai_video_objectives",
    "kuairand_pure",
    "micro_video",
    "movielens_1m",
    "movielens_latest",
    "movielens_small",
    "taobao_ads",
)


def load_builtin_schema(name: str) -> Schema:
    """Loads a schema that comes with the package.

    Args:
      name: one of BUILTIN_SCHEMAS.

    Returns:
      The schema, not resolved.

    Raises:
      UserError: an unknown name.
    """
    if name not in BUILTIN_SCHEMAS:
        raise UserError(f"schema = {name!r}: not a built-in one ({', '.join(BUILTIN_SCHEMAS)}) and no such file")
    with resources.as_file(resources.files("wukong_jax.data.raw") / "schemas" / f"{name}.json") as path:
        return load_schema(path)


def find_schema(name_or_path: str) -> Schema:
    """Loads a built-in schema by its name, or a schema file by its path.

    Raises:
      UserError: neither, or the file is not a schema.
    """
    if name_or_path in BUILTIN_SCHEMAS or not Path(name_or_path).exists():
        return load_builtin_schema(name_or_path)
    return load_schema(name_or_path)
