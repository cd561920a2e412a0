import pytest

from wukong_jax.models import wukong
from wukong_jax.models.shape import ModelShape
from wukong_jax.scaling.ladders.presets import (
    TABLE_5,
    Preset,
    compare_with_printed,
    criteo_wukong_grid,
    fit_printed_losses,
)

BY_NAME = {(preset.model, preset.size): preset for preset in TABLE_5}


def test_all_rows_of_the_papers_table_are_here():
    counts = {"AFN+": 4, "AutoInt+": 5, "DCN": 5, "DLRM": 7, "FinalMLP": 6, "MaskNet": 5, "Wukong": 7}
    assert {model: sum(preset.model == model for preset in TABLE_5) for model in counts} == counts
    assert len(BY_NAME) == len(TABLE_5) == sum(counts.values())
    assert [preset.size for preset in TABLE_5 if preset.exploded] == [
        "attn 3x512, 16 heads, DNN 3x16384",
        "l=2, rank 512, MLP 4x51200",
    ]


@pytest.mark.parametrize(
    "name",
    [
        ("DLRM", "top 4x2048"),
        ("DCN", "l=2, rank 512, MLP 4x4096"),
        ("FinalMLP", "4x4096 / 2x1024, out 64, no FS"),
        ("FinalMLP", "4x4096 / 2x1024, FS 1x2048"),
        ("AFN+", "DNN 4x8192, afn 4x8192, nlog 4096"),
        ("MaskNet", "MLP 3x2048, 4 blocks, red. 0.05"),
    ],
)
def test_sizes_that_the_paper_discloses_cost_what_it_prints(name):
    """Within 3 %: the dense columns, heads and biases that it does not disclose are missing."""
    row = compare_with_printed(BY_NAME[name])
    assert 0.97 < row["gflop_ratio"] <= 1.0
    assert row["counted_dense_parameters"] == pytest.approx(row["printed_dense_parameters"], abs=0.05)


def test_dlrm_by_hand():
    row = compare_with_printed(Preset("DLRM", "top 2x512", {"top_hidden": (512, 512)}, 1.37, 627.78, 0.0, 0.0))
    pairs = 720 * 719 // 2
    macs = 720 * 720 * 160 + pairs * 512 + 512 * 512 + 512
    assert row["counted_gflop"] == pytest.approx(6 * macs / 1e9, abs=1e-3)


def test_what_differs_is_shown():
    row = compare_with_printed(BY_NAME["AutoInt+", "attn 3x512, 8 heads, DNN 3x8192"])
    assert row["gflop_ratio"] < 0.6
    assert row["counted_dense_parameters"] < row["printed_dense_parameters"] / 3


def test_grid_of_wukong_on_criteo_builds():
    grid = dict(criteo_wukong_grid())
    assert len(grid) == 4 * 2 * 4 * 3
    name = "l=3, n=16, MLP 2x512"
    built = wukong.build(grid[name], ModelShape(13, 26, 128, 1))
    assert (built.options.layers, built.options.fm_rank, built.options.head_hidden) == (3, 24, (512, 512))


def test_the_papers_law_comes_out_of_its_printed_losses():
    """It prints -100 + 99.56 x^0.00071, with GFLOP (section 7.2); a loss that falls needs the other sign."""
    fits = {(fit["model"], fit["task"]): fit for fit in fit_printed_losses()}
    assert round(fits["Wukong", 1]["scale"], 2) == 99.56
    assert round(fits["Wukong", 1]["exponent"], 5) == 0.00071
    assert fits["DCN", 1]["points"] == 4  # the fifth exploded without a number
    assert fits["AFN+", 1]["problem"] == "the loss does not fall with compute"
