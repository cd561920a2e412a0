"""Compares drafted schemas with the hand-written ones of public sets: same model, rows, split and labels.

Only the features differ. The draft reads the training files (all files where the split is not by file), and gets the
labels of the hand-written schema and the columns that the set's description says to leave out.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.data.drafts.draft import Draft, Roles, draft_schema
from wukong_jax.data.drafts.labels import LabelHints
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.scan import LayoutHints, scan_files
from wukong_jax.data.drafts.schema_text import format_schema
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.raw_files import read_raw_rows
from wukong_jax.data.raw.splits import TRAIN
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.schema import Schema, Source


@dataclasses.dataclass(frozen=True)
class PublicSet:
    """A set with a hand-written schema."""

    schema: str  # built-in schema
    config: str  # the shipped config that trains on it
    drop: tuple[str, ...] = ()  # raw columns that the set's description says to leave out; no file tells
    own: str = "own"  # the config for one's own rows of this size


SETS: Mapping[str, PublicSet] = {
    "criteo_10k": PublicSet("criteo", "public/criteo_10k", own="own:small"),
    "hotel_bookings": PublicSet(
        "hotel_bookings",
        "public/hotel_bookings",
        # known only after the booking, or late
        drop=("reservation_status", "reservation_status_date", "assigned_room_type", "booking_changes"),
    ),
    "movielens_small": PublicSet("movielens_small", "public/movielens_small"),
    "census_income": PublicSet("census_income", "public/census_income", drop=("instance_weight",)),
    "frappe": PublicSet("frappe", "public/frappe_wukong"),
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A set's runs: the hand-written schema, and the draft with the same config and with the config `own`."""

    draft: Draft
    configs: Mapping[str, RunConfig]  # "hand-written", "drafted", "drafted, own config"


def build_comparison(name: str, path: Path, folder: Path) -> Comparison:
    """Drafts a schema for a set, and builds the configs of its runs.

    Args:
      name: a name of `SETS`.
      path: the set's file or folder, as the config's header says.
      folder: folder for the drafted schema, and for libfm files written as CSV.

    Returns:
      The draft and the configs.
    """
    chosen = SETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    hand = load_builtin_schema(chosen.schema)
    if hand.source.format == "libfm":
        path, hand = write_as_csv(path, hand, folder / "csv")
    draft = draft_like(hand, path, chosen.drop)
    files = {"hand-written": folder / "hand.json", "drafted": folder / "draft.json"}
    write_text_whole(files["hand-written"], format_schema(hand))
    write_text_whole(files["drafted"], format_schema(take_features(hand, draft.schema)))
    configs = {
        words: build_run_config(load_config(chosen.config, {"data.path": str(path), "data.schema": str(file)}))
        for words, file in files.items()
    }
    own = {"data.path": str(path), "data.schema": str(files["drafted"])}
    configs["drafted, own config"] = build_run_config(load_config(chosen.own, own))
    return Comparison(draft, configs)


def draft_like(hand: Schema, path: Path, drop: Sequence[str]) -> Draft:
    """Drafts a schema for the files and labels of a hand-written one."""
    found = find_input_files([path], hand.source, hand.split)
    labels = {
        label.source_column: LabelHints(label.positive, None if label.positive else label.threshold)
        for label in reversed(hand.labels)
    }
    source = hand.source
    header = source.header if source.format == "csv" else None
    hints = LayoutHints(tuple(labels), source.columns, None, header)
    limits = Limits()
    scan = scan_files([file for file, split in found if split == TRAIN], hints, limits)
    return draft_schema(hand.name, scan, Roles(labels, drop=tuple(drop)), limits)


def take_features(hand: Schema, draft: Schema) -> Schema:
    """Returns the hand-written schema with the features, and how the file is read, of a draft."""
    return dataclasses.replace(
        hand, source=draft.source, dense=draft.dense, categorical=draft.categorical, sequences=draft.sequences
    )


def write_as_csv(path: Path, schema: Schema, folder: Path) -> tuple[Path, Schema]:
    """Writes libfm files as CSV files with a header, which is what the draft reads.

    Returns:
      The folder of the files, and the schema that reads them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, _ in find_input_files([path], schema.source, schema.split):
        rows = read_raw_rows(file, schema.source, schema.source.columns, BadRows())
        pl.concat([raw.frame for raw in rows]).write_csv(folder / file.name.removesuffix(".gz"))
    return folder, dataclasses.replace(schema, source=Source("csv"))


def count_features(schema: Schema) -> dict[str, int]:
    """Counts the features of a schema by kind."""
    return {
        "numbers": len(schema.dense),
        "categories": sum(column.separator is None for column in schema.categorical),
        "bags": sum(column.separator is not None for column in schema.categorical) + len(schema.sequences),
    }


def summarise_difference(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns by how much the drafted schema's AUC is above the hand-written one's, per split, of one set's rows."""
    by_words = {row["schema"]: row for row in rows}
    hand, draft = by_words["hand-written"], by_words["drafted"]
    return {split: draft[f"{split}_auc"] - hand[f"{split}_auc"] for split in ("validation", "test")}
