"""Loads the built-in schemas: criteo, avazu, frappe, census_income, and the data sets of published comparisons.

Our choices where the data sets leave them open:

* criteo: log1p of the 13 counts (DLRM's convention; the alternative is the transform criteo_log); one vocabulary per
  categorical column, in which values seen once are out-of-vocabulary; rows are split 80 / 10 / 10 % in file order,
  which is time order.
* avazu: all columns are categorical except `id`, which is unique, and `hour`, which is the timestamp (its hour of the
  day is not used as a feature); values seen once are out-of-vocabulary; a random split of 80 / 10 / 10 %, as in the
  published baselines.
* flights: the output of the command convert_flights, split at random, 2.5 / 0.2 / 0.3 of 3 million rows.
* frappe: every value in the training rows has its own id, as in the published baselines; split by file.
* census_income: the labels of the multi-task literature (income above 50,000; never married). Marital status and the
  survey's instance weight are therefore not features; the year is the domain. Amounts are transformed by log1p, other
  numbers are standardised. The test file is divided at random into halves for validation and test.
* avazu_x4, criteo_terabyte, criteo_x1, kuai_video, micro_video, movielens_latest, taobao_ads: columns and splits of the
  published files; the choices are explained in the header of the config of the same name.
* hotel_bookings, kuai_video_objectives, kuairand_pure, movielens_1m, movielens_small: data with several domains or
  objectives, also explained in the configs' headers. kuairand_pure, movielens_1m and movielens_small read the output of
  the commands convert_kuairand and convert_movielens.
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
    "flights",
    "flights_log",
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
    """Loads a built-in schema.

    Args:
      name: one of `BUILTIN_SCHEMAS`.

    Returns:
      The schema, not resolved (without the statistics that come from the data).

    Raises:
      UserError: the name is unknown.
    """
    if name not in BUILTIN_SCHEMAS:
        raise UserError(f"schema = {name!r}: not a built-in one ({', '.join(BUILTIN_SCHEMAS)}) and no such file")
    with resources.as_file(resources.files("wukong_jax.data.raw") / "schemas" / f"{name}.json") as path:
        return load_schema(path)


def find_schema(name_or_path: str) -> Schema:
    """Loads a built-in schema by name, or a schema file by path.

    Raises:
      UserError: there is no such schema or file, or the file is not a schema.
    """
    if name_or_path in BUILTIN_SCHEMAS or not Path(name_or_path).exists():
        return load_builtin_schema(name_or_path)
    return load_schema(name_or_path)
