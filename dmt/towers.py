"""Tower layout: the feature columns and tokens of each tower.

A *tower* is a group of feature columns whose embeddings are combined before they cross the slow link (paper 3.1). The
number of towers `T` is a setting of the model and a multiple of the number of hosts: each host holds `T / H`
consecutive towers, so a trained model can run on fewer hosts, down to one. Towers may differ in their number of tokens:
arrays over towers are padded to the largest (`F_max`), and padding is dropped after the last exchange.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TowerLayout:
    """The towers of a model: their columns, and the positions of their tokens among the model's N."""

    columns: tuple[tuple[str, ...], ...]  # columns of each tower, in the schema's order
    tokens: tuple[tuple[int, ...], ...]  # token positions of each tower, ascending

    @property
    def count(self) -> int:
        """T."""
        return len(self.columns)

    @property
    def sizes(self) -> tuple[int, ...]:
        """F_t, the number of tokens of each tower."""
        return tuple(len(tokens) for tokens in self.tokens)

    @property
    def largest(self) -> int:
        """F_max, the number of tokens of the largest tower, to which the others are padded."""
        return max(self.sizes)

    def tower_of(self, column: str) -> int:
        """Returns the tower of a column."""
        return next(index for index, columns in enumerate(self.columns) if column in columns)

    def padded_tokens(self, padding: int) -> np.ndarray:
        """Returns [T, F_max] int32 token positions, filled with `padding` where a tower has fewer tokens."""
        padded = np.full((self.count, self.largest), padding, np.int32)
        for index, tokens in enumerate(self.tokens):
            padded[index, : len(tokens)] = tokens
        return padded


def build_tower_layout(token_columns: Sequence[str], towers: Sequence[Sequence[str]]) -> TowerLayout:
    """Assigns the tokens of every column to its tower.

    Args:
      token_columns: column of each of the N tokens; "" for tokens projected from several columns.
      towers: columns of each tower; every column is in exactly one.

    Returns:
      The layout; within a tower, columns and tokens keep the schema's order.

    Raises:
      UserError: a column is missing, unknown or listed twice, a tower is empty, or a column is narrower than D.
    """
    if "" in token_columns:
        raise UserError(
            "towers: columns narrower than config.embeddings.width share projected tokens, which belong to no tower; "
            "give them the full width"
        )
    columns = list(dict.fromkeys(token_columns))
    listed = [column for tower in towers for column in tower]
    for column in listed:
        if column not in columns:
            raise UserError(f"towers: column {column!r} is not among the data's {len(columns)}: {', '.join(columns)}")
        if listed.count(column) > 1:
            raise UserError(f"towers: column {column!r} is in more than one tower; leave it in one")
    missing = [column for column in columns if column not in listed]
    if missing:
        raise UserError(f"towers: no tower holds {', '.join(missing)}; add each column of the data to one")
    if not all(towers):
        raise UserError(f"towers: {len(towers)} towers for {len(columns)} columns leave one empty; take fewer towers")
    tokens = [tuple(i for i, column in enumerate(token_columns) if column in tower) for tower in towers]
    ordered = tuple(tuple(column for column in columns if column in tower) for tower in towers)
    return TowerLayout(ordered, tuple(tokens))


def stride_towers(columns: Sequence[str], count: int) -> list[list[str]]:
    """Returns the paper's naive grouping (3.3): tower t holds columns t, t + T, t + 2T, ...

    Raises:
      UserError: `count` is below 1 or above the number of columns.
    """
    if not 1 <= count <= len(columns):
        raise UserError(
            f"towers = {count}: at least 1, and at most the {len(columns)} columns; splitting a column over towers is "
            "not supported"
        )
    return [list(columns[index::count]) for index in range(count)]


def load_towers(path: str | Path) -> list[list[str]]:
    """Reads the `towers` of a `towers.json` written by `wukong-jax partition_towers`.

    Raises:
      UserError: the file is missing, is not JSON, or holds no list of towers.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"towers = {str(path)!r}: {error.strerror}; give a towers.json or a number") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    towers = content.get("towers") if isinstance(content, dict) else None
    valid = isinstance(towers, list) and all(
        isinstance(tower, list) and all(isinstance(column, str) for column in tower) for tower in towers
    )
    if not valid or not towers:
        raise UserError(f'{path}: holds no "towers", a list of lists of column names; make it with partition_towers.py')
    return towers


def check_hosts_divide(towers: TowerLayout, hosts: int) -> None:
    """Checks that the hosts of a mesh can share the towers evenly.

    Raises:
      UserError: `hosts` does not divide T; a tower cannot span several hosts.
    """
    if towers.count % hosts:
        raise UserError(
            f"config.mesh.hosts = {hosts}: does not divide the model's {towers.count} towers (a tower cannot lie on "
            f"several hosts); choose a divisor of {towers.count}, or another number of towers"
        )
