"""Flags that several commands share: a run's config, its folder, seeds, rows that are assumed."""

import dataclasses
from typing import Annotated

from wukong_jax.cli.flags import ConfigChanges
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFlags:
    """`--config=F --config.key=value`: a config, and changes of its keys."""

    config: Annotated[str, "the run's config: a Python file with get_config(), F or F:variant"]
    changes: ConfigChanges

    def refuse_changes(self, prefix: str, why: str) -> None:
        """Refuses changes that the command would undo.

        Args:
          prefix: a key, or the start of several (`mesh.`).
          why: the end of the message.

        Raises:
          UserError: such a change was given.
        """
        for change in self.changes:
            key = change.partition("=")[0]
            if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                raise UserError(f"--config.{change}: {why}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags(ConfigFlags):
    """A config and the folder of its run."""

    workdir: Annotated[str, "the run's folder: made if missing, continued if not"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedFlags(ConfigFlags):
    """A config that is trained with several seeds."""

    seeds: Annotated[tuple[int, ...], "the seeds to train with"]
    workdir: Annotated[str, "the folder of the runs: each in a folder of its own, continued if it is there"]
    output: Annotated[str, "the folder of results.json, such as docs/results/NAME"]

    def __post_init__(self) -> None:
        """Refuses seeds that are none, or given twice."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"--seeds = {','.join(map(str, self.seeds))!r}: give one or more, none twice")
        self.refuse_changes("seed", "--seeds says the seeds; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssumedRowsFlags(ConfigFlags):
    """A config whose rows are not here: the schema and the sizes of tables that they would have."""

    schema: Annotated[str, "a built-in schema's name or a schema file, in place of the config's"] = ""
    data: Annotated[str, "a folder of prepared data, for its schema"] = ""
    table_rows: Annotated[
        tuple[int, ...], "rows of the tables that only data would size: one number, or one for each", AtLeast(2)
    ] = ()
