"""Tests that the draft counts values in the form in which preparing stores them: 7, 7.0 and 7.00 are one value."""

import tempfile
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.scan import LayoutHints, scan_files
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.vocabulary import load_vocabulary
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, Split

ROWS = 60
FORMS = ("{0}", "{0}.0", "{0}.00", "v{0}", "v{0}.0", "0{0}")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(FORMS)), min_size=ROWS, max_size=ROWS), st.booleans())
def test_a_draft_counts_the_values_that_preparing_finds(values, parquet):
    texts = [form.format(number) for number, form in values]
    frame = pl.DataFrame({"x": texts, "click": [row % 2 for row in range(ROWS)]})
    column = CategoricalColumn("x", "vocabulary", min_count=1)
    everything = Split(by="random", validation_fraction=0.0, test_fraction=0.0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("rows.parquet" if parquet else "rows.csv")
        source = Source("parquet" if parquet else "csv")
        frame.write_parquet(file) if parquet else frame.write_csv(file)
        scan = scan_files([file], LayoutHints(("click",)), Limits())
        counted = next(profile for profile in scan.columns if profile.name == "x")
        schema = Schema("rows", source, labels=(LabelColumn("click"),), categorical=(column,), split=everything)
        prepare_data(schema, [file], Path(folder) / "prepared")
        stored = load_vocabulary(Path(folder) / "prepared" / "vocabulary", "x")
    assert (counted.exact, counted.distinct) == (True, len(stored.values))
