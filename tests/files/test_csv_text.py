"""Tests the quoting of CSV fields with Python's csv reader."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.files.csv_text import quote_csv

TEXTS = st.text(st.sampled_from('a,"\n\r \té;'), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_pythons_csv_reads_the_values_back(values):
    line = ",".join(map(quote_csv, values)) + "\n"
    assert list(csv.reader(io.StringIO(line, newline=""), strict=True)) == [values]
