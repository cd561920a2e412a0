"""Tests the comparison of id maps with plain hashing on a log."""

import pytest

from tests.online.small_log import make_config, write_days
from wukong_jax.bench.online import Variant, format_table, summarise_variants, train_variant, vary_schema
from wukong_jax.data.raw.builtin_schemas import find_schema
from wukong_jax.errors import UserError
from wukong_jax.reports.period_pictures import draw_runs
from wukong_jax.schema import CategoricalColumn


def test_a_variant_is_a_kind_and_rows():
    assert Variant.parse("hash:1000") == Variant("hash", 1000, "hash, 1,000 rows")
    for text in ("hash", "hash:1", "map:10", "hash:x"):
        with pytest.raises(UserError, match=f"--variants = '{text}': give kind:rows"):
            Variant.parse(text)


def test_only_named_columns_are_hashed():
    schema = find_schema("flights_log")
    hashed = vary_schema(schema, ["route"], Variant.parse("hash:9"))
    assert hashed.categorical[-1] == CategoricalColumn("route", "hash", rows=9)
    assert hashed.categorical[:-1] == schema.categorical[:-1]
    assert vary_schema(schema, ["route"], Variant.parse("least_recent:9")) == schema
    with pytest.raises(UserError, match="--columns = 'price': no categorical column with a vocabulary"):
        vary_schema(schema, ["price"], Variant.parse("hash:9"))


def test_variants_are_trained_and_summarised_by_seed(tmp_path):
    config = make_config(write_days(tmp_path / "log", range(3)))
    schema = find_schema(config.data.schema)
    path = tmp_path / "schema.json"
    text = path.read_text(encoding="utf-8").replace('"vocabulary_of": "item"', '"vocabulary_of": null')
    path.write_text(text, encoding="utf-8")
    assert schema.categorical[2].vocabulary_of == "item"
    rows, drawn = [], {}
    for seed in (0, 1):
        for text in ("least_recent:9", "hash:9"):
            variant = Variant.parse(text)
            folder = tmp_path / f"{variant.kind}{seed}"
            row, lines = train_variant(config, variant, ["item"], 20, "day", folder, lambda text: None)
            rows.append({"seed": seed, **row, "log_loss": row["log_loss"] + seed})
            drawn[variant.name] = lines
    first = rows[0]
    assert first["rows_scored"] == 300
    assert first["rows_with_a_value_at_the_end"] == 9
    assert rows[1]["rows_with_a_value_at_the_end"] is None
    assert first["late_log_loss"] == pytest.approx(drawn["least recent, 9 rows"][-1]["log_loss"])
    summaries = summarise_variants(rows)
    assert [row["variant"] for row in summaries] == ["least recent, 9 rows", "hash, 9 rows"]
    assert summaries[0]["log_loss"] == pytest.approx(first["log_loss"] + 0.5)
    assert summaries[0]["log_loss_std"] == pytest.approx(0.5**0.5)
    assert format_table(summaries).splitlines()[3].startswith("| hash, 9 rows | ")
    assert draw_runs(drawn, "made up").startswith(b"\x89PNG")
