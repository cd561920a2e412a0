"""Tests grouping of features into towers: order, padding, files, and errors that name the mistake."""

import json

import numpy as np
import pytest

from dmt.towers import build_tower_layout, check_hosts_divide, load_towers, stride_towers
from wukong_jax.errors import UserError

COLUMNS = ("a", "b", "b", "c", "d", "e")  # b has two tokens


def test_the_papers_naive_grouping_of_26_features() -> None:
    towers = stride_towers([str(i) for i in range(26)], 8)
    assert towers[0] == ["0", "8", "16", "24"]
    assert towers[1] == ["1", "9", "17", "25"]
    assert towers[7] == ["7", "15", "23"]
    assert [len(tower) for tower in towers] == [4, 4, 3, 3, 3, 3, 3, 3]


def test_tokens_keep_the_schemas_order_and_are_padded() -> None:
    layout = build_tower_layout(COLUMNS, [["e", "b"], ["d", "a", "c"]])
    assert layout.columns == (("b", "e"), ("a", "c", "d"))
    assert layout.tokens == ((1, 2, 5), (0, 3, 4))
    layout = build_tower_layout(COLUMNS, [["e"], ["d", "a", "c", "b"]])
    assert (layout.sizes, layout.largest) == ((1, 5), 5)
    np.testing.assert_array_equal(layout.padded_tokens(9), [[5, 9, 9, 9, 9], [0, 1, 2, 3, 4]])
    assert layout.tower_of("c") == 1


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ([["a", "b", "c", "d"]], "no tower holds e"),
        ([["a", "b", "c", "d", "e", "x"]], "column 'x' is not among the data's 5"),
        ([["a", "b", "c"], ["c", "d", "e"]], "column 'c' is in more than one tower"),
        ([["a", "b", "c", "d", "e"], []], "leave one empty"),
    ],
)
def test_groupings_that_do_not_fit_are_refused(towers: list[list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_tower_layout(COLUMNS, towers)


def test_projected_tokens_belong_to_no_tower() -> None:
    with pytest.raises(UserError, match=r"narrower than config\.embeddings\.width"):
        build_tower_layout(("a", ""), [["a"]])


@pytest.mark.parametrize("count", [0, 6])
def test_more_towers_than_columns_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=rf"towers = {count}: at least 1, and at most the 5 columns"):
        stride_towers("abcde", count)


def test_a_tower_over_several_hosts_is_refused() -> None:
    layout = build_tower_layout(COLUMNS, stride_towers("abcde", 4))
    for hosts in (1, 2, 4):
        check_hosts_divide(layout, hosts)
    for hosts in (3, 8):
        with pytest.raises(UserError, match=rf"config.mesh.hosts = {hosts}: does not divide the model's 4 towers"):
            check_hosts_divide(layout, hosts)


def test_files_that_hold_no_towers_are_refused(tmp_path) -> None:
    path = tmp_path / "towers.json"
    with pytest.raises(UserError, match=r"No such file"):
        load_towers(path)
    for text in ("[]", "{}", '{"towers": "ab"}', '{"towers": [["a"], [1]]}', '{"towers": []}'):
        path.write_text(text)
        with pytest.raises(UserError, match='holds no "towers"'):
            load_towers(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_towers(path)
    path.write_text(json.dumps({"towers": [["a"], ["b", "c"]]}))
    assert load_towers(path) == [["a"], ["b", "c"]]
