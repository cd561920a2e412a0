"""Defines flags that several commands share: the config of a run, its folder, seeds, and assumed table sizes."""

import dataclasses
from typing import Annotated

from wukong_jax.cli.flags import ConfigChanges
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

AllowFactories = Annotated[
    tuple[str, ...],
    "packages, besides those of this project, whose code the run's config may name; give those you trust",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramFlags:
    """Flags of a command that compiles programs worth keeping for its next start."""

    compiled_programs: Annotated[
        str,
        "folder that keeps compiled programs for later starts, or none (if not given: $JAX_COMPILATION_CACHE_DIR, or a "
        "folder in the user's cache folder)",
    ] = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFlags:
    """`--config=F --config.key=value`: a config, and changes of its keys."""

    config: Annotated[
        str, "config of the run: a shipped config such as quickstart, or a Python file, as NAME or NAME:variant"
    ]
    changes: ConfigChanges

    def refuse_changes(self, prefix: str, why: str) -> None:
        """Rejects changes that the command would overwrite.

        Args:
          prefix: a key, or a common prefix of keys such as `mesh.`.
          why: end of the error message.

        Raises:
          UserError: such a change was given.
        """
        for change in self.changes:
            key = change.partition("=")[0]
            if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                raise UserError(f"--config.{change}: {why}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags(ConfigFlags, ProgramFlags):
    """A config and the folder of its run."""

    workdir: Annotated[str, "folder of the run; created if missing, else the run in it is resumed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeamFlags:
    """Flags of a command that several processes run together, each with the same other flags."""

    coordinator: Annotated[
        str, "HOST:PORT where process 0 listens (if not given: what SLURM, Open MPI or a TPU pod says)"
    ] = ""
    processes: Annotated[
        int | None, "processes that run together; 1: alone, whatever a cluster's variables say", AtLeast(1)
    ] = None
    process: Annotated[int | None, "number of this process, from 0", AtLeast(0)] = None
    local_devices: Annotated[
        int | None, "devices of this process; on CPU it is given as many (if not given: all that JAX finds)", AtLeast(1)
    ] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedFlags(ConfigFlags, ProgramFlags):
    """A config that is trained with several seeds."""

    seeds: Annotated[tuple[int, ...], "seeds to train with"]
    workdir: Annotated[str, "folder of the runs; each run has a subfolder and is resumed if it exists"]
    output: Annotated[str, "folder for results.json, such as docs/results/NAME"]

    def __post_init__(self) -> None:
        """Checks that there are seeds and that they are distinct."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"--seeds = {','.join(map(str, self.seeds))!r}: give one or more, none twice")
        self.refuse_changes("seed", "--seeds says the seeds; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssumedRowsFlags(ConfigFlags):
    """A config without data, for which schema and table sizes are assumed."""

    schema: Annotated[str, "name of a built-in schema, or a schema file, instead of the config's schema"] = ""
    data: Annotated[str, "folder of prepared data whose schema to use"] = ""
    table_rows: Annotated[
        tuple[int, ...],
        "rows of the tables whose size depends on the data: one number for all, or one per table",
        AtLeast(2),
    ] = ()
