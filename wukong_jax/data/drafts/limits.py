"""Defines the limits of the rules by which a schema is drafted."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the rules; docs/results/drafted_schemas shows what they give on public sets."""

    # memory
    kept_values: int = 1 << 17  # distinct values of a column that are kept; above, a known share of them is
    kept_cells: int = 8_000_000  # the same over all columns, and the cells of the row sample
    sample_rows: int = 1 << 17  # rows in the row sample
    # kinds
    few_integers: int = 64  # an integer column of at most so many values is a category ...
    rows_per_few: int = 20  # ... if each value has so many rows on average
    one_a_row: float = 0.95  # from this share of distinct values on, a column is one a row
    one_a_row_rows: int = 50  # the least number of rows to say so
    frequent_mark: float = 0.01  # share of rows from which a mark such as NULL means "no value" in any column
    free_text: int = 60  # mean length in characters from which values that hardly repeat are free text
    heavy_skew: float = 1.0  # skewness from which an amount is heavy-tailed
    # tables
    hash_above: int = 1 << 20  # distinct values above which a column is hashed instead of having a vocabulary
    rare_above: int = 100  # distinct values above which values seen once share the unknown row
    bag_quantile: float = 0.99  # quantile of the lengths of bags that gives max_length ...
    longest_bag: int = 64  # ... up to this number
    # label
    leak_auc: float = 0.99  # AUC of the label by a single column from which the column is left out
    suspect_auc: float = 0.9  # AUC from which the column is kept, but named
    # split
    new_values: float = 0.5  # share of the newest rows whose value no earlier row has, from which a column is left out
    shared_values: float = 0.5  # common values of a sequence and a category, of all of both, to share a vocabulary
    time_share: float = 0.02  # a split by time needs this share of rows in validation and in test
