"""Builds the rules of id maps from settings, and checks what of a run's config has no effect on a log."""

import dataclasses

from wukong_jax.config import RunConfig, TrainingConfig
from wukong_jax.data.raw.id_map import IdMapRule
from wukong_jax.errors import UserError
from wukong_jax.online.settings import OnlineSettings
from wukong_jax.schema import CategoricalColumn, Schema

# Settings of training by validation rows, and others that a log does not have.
_IDLE = (
    "steps",
    "early_stop_patience",
    "plateau_factor",
    "evaluate_every_steps",
    "checkpoint_every_steps",
    "profile_steps",
    "trackers",
)


def build_rules(settings: OnlineSettings, schema: Schema) -> dict[str, IdMapRule]:
    """Returns the rule of each table with a vocabulary; `min_count` of its column are the sightings it asks for.

    Args:
      settings: the settings.
      schema: schema of the log.

    Raises:
      UserError: a table has no rows, or a name is not that of such a table.
    """
    owners = {column.name: column for column in schema.id_columns if is_mapped(column)}
    for name in settings.table_rows:
        if name not in owners:
            raise UserError(
                f"--table_rows = {name}: no column that owns a vocabulary; known: {', '.join(owners) or 'none'}"
            )
    rules = {}
    for name, column in owners.items():
        rows = settings.table_rows.get(name, settings.rows)
        if rows is None:
            raise UserError(f"--rows: how many rows table {name!r} has is not given; give --rows or --table_rows")
        rules[name] = IdMapRule(rows, column.min_count, settings.evict, settings.candidates * rows)
    return rules


def is_mapped(column: CategoricalColumn) -> bool:
    """Whether a column owns a vocabulary, and so has an id map."""
    return column.vocabulary_of is None and column.encoding == "vocabulary"


def check_config(config: RunConfig) -> None:
    """Refuses settings that training on a log would ignore.

    Raises:
      UserError: there is one; the message names all of them.
    """
    if config.data.factory != "raw":
        raise UserError(f"config.data.factory = {config.data.factory!r}: a log is read from raw files; set it to 'raw'")
    if config.data.join.factory:
        raise UserError(f"config.data.join.factory = {config.data.join.factory!r}: is not possible here; leave it out")
    if config.data.lanes != 1:
        raise UserError(f"config.data.lanes = {config.data.lanes}: every process reads a whole log; leave it out")
    for key in ("reference_run", "warm_start"):
        if getattr(config, key):
            raise UserError(f"config.{key} = {getattr(config, key)!r}: is not possible here; leave it out")
    usual = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}
    idle = [name for name in _IDLE if getattr(config.training, name) != usual[name]]
    if idle:
        given = ", ".join(f"{name} = {getattr(config.training, name)!r}" for name in idle)
        fix = ", ".join(f"{name}={usual[name]}" for name in idle)
        raise UserError(f"config.training: {given}: has no effect on a log; set {fix}")
