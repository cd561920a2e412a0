"""Rows of a portfolio group: the data of its portfolios, without other domains and objectives.

A row is kept if a portfolio of the group was observed in it. It keeps the group's objectives; those that the group has
only for other domains are masked. Ids keep their meaning; a missing id (-1) is a zero vector to the model.
"""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from lattice.filter.feature_filter import reduce_schema
from lattice.filter.permutation_importance import list_features
from lattice.filter.reduced_rows import reduce_rows, write_rewritten_rows
from lattice.portfolios.groups import split_name
from wukong_jax.data.blocks.batch import Columns
from wukong_jax.runs.rows import RunData
from wukong_jax.schema import Schema


@dataclasses.dataclass(frozen=True)
class GroupSchema:
    """The schema of a group's rows, and how it maps to the full schema."""

    schema: Schema  # schema of the group
    domains: tuple[int, ...]  # indices into the domains of the full schema, ascending
    objectives: tuple[int, ...]  # indices into the labels of the full schema, ascending
    members: np.ndarray  # [domains of the group, objectives of the group] bool: the portfolios


def build_group_schema(
    whole: Schema, portfolios: Sequence[tuple[str, str]], dropped_columns: Collection[str]
) -> GroupSchema:
    """Builds the schema of a group.

    Args:
      whole: the full schema, resolved.
      portfolios: (domain, objective) names of the group.
      dropped_columns: features that the group's model must not read.

    Returns:
      The schema with the group's domains and objectives in their original order; with one domain, it has no domain
      column.
    """
    all_domains, all_objectives = list(whole.domain_values or ("all",)), [label.name for label in whole.labels]
    domains = sorted({all_domains.index(domain) for domain, _ in portfolios})
    objectives = sorted({all_objectives.index(objective) for _, objective in portfolios})
    members = np.array([[(all_domains[g], all_objectives[o]) in portfolios for o in objectives] for g in domains])
    kept = [name for name in list_features(whole) if name not in dropped_columns]
    schema = dataclasses.replace(
        reduce_schema(whole, tuple(kept)),
        labels=tuple(whole.labels[o] for o in objectives),
        domain=whole.domain if len(domains) > 1 else None,
        domain_values=tuple(all_domains[g] for g in domains) if len(domains) > 1 else (),
    )
    return GroupSchema(schema, tuple(domains), tuple(objectives), members)


def write_group_rows(data: RunData, portfolios: Sequence[str], dropped_columns: Collection[str], output: Path) -> None:
    """Writes the rows of a group as a prepared data directory.

    Args:
      data: the whole rows.
      portfolios: "domain/objective" names of the group.
      dropped_columns: features that its model may not read.
      output: the folder to make.
    """
    group = build_group_schema(data.schema, [split_name(name) for name in portfolios], dropped_columns)
    select = functools.partial(select_group_rows, whole=data.schema, group=group)
    write_rewritten_rows(data, group.schema, select, output)


def select_group_rows(columns: Columns, whole: Schema, group: GroupSchema) -> Columns:
    """Selects the rows of a group and converts them to its schema.

    Args:
      columns: arrays [rows, ...] of the full schema.
      whole: the full schema.
      group: see `build_group_schema`.

    Returns:
      Arrays [kept rows, ...] of the group's schema.
    """
    place = np.full(max(1, len(whole.domain_values)), -1, np.int32)
    place[list(group.domains)] = np.arange(len(group.domains))
    domain = place[columns["domain"]]
    allowed = group.members[np.maximum(domain, 0)] & (domain >= 0)[:, None]
    mask = columns["label_mask"][:, group.objectives] * allowed
    kept = mask.any(axis=1)
    reduced = reduce_rows(columns, whole, group.schema)
    labels = columns["labels"][:, group.objectives] * (mask > 0)
    changed = {"domain": domain, "label_mask": mask.astype(np.float32), "labels": labels.astype(np.float32)}
    return {name: array[kept] for name, array in (dict(reduced) | changed).items()}
