import json

import pytest

from tests.scaling.report.scaling_rows import make_rows
from wukong_jax.cli.main import main
from wukong_jax.errors import UserError
from wukong_jax.scaling.report.sweep_map import compare_rivals, describe_rival, draw_map, place_cells, read_sweeps

# sizes, smallest MFLOP, floor, scale, exponent of the loss above Bayes
WUKONG = (3, 0.1, 0.0, 0.03, 0.5)


def compare(**rivals):
    rows = make_rows({"Wukong": WUKONG, **rivals}, noise=0.0, passes=(1.0,))
    return {row["model"]: row for row in compare_rivals(rows, "Wukong")}


def test_a_rival_of_the_same_law_with_four_times_the_constant_needs_four_times_the_compute():
    """Twice the loss at the same compute, with exponent 1/2, is the same loss at four times the compute."""
    row = compare(DNN=(5, 0.1, 0.0, 0.06, 0.5))["DNN"]
    assert row["kind"] == "measured"
    assert row["factor"] == pytest.approx(4.0, rel=1e-3)
    assert row["reference_mflop"] == pytest.approx(0.9)
    assert row["reference_loss"] == pytest.approx(0.03 * 0.9**-0.5)


def test_rivals_are_sorted_by_need_and_those_that_never_reach_it_are_last():
    compared = compare(DNN=(5, 0.1, 0.0, 0.06, 0.5), DLRM=(5, 0.1, 0.0, 0.02, 0.5), FM=(4, 0.1, 0.1, 0.01, 0.5))
    assert list(compared) == ["DLRM", "DNN", "FM"]
    assert compared["FM"]["factor"] is None
    assert describe_rival(compared["FM"]) == "none reaches it"
    assert describe_rival(compared["DLRM"]).endswith("x\nDLRM")


def test_a_model_of_one_size_has_no_curve_to_compare():
    assert list(compare(DNN=(5, 0.1, 0.0, 0.06, 0.5), FM=(1, 0.1, 0.0, 0.001, 0.5))) == ["DNN"]


def test_columns_are_in_order_of_their_numbers():
    assert place_cells(["128.all", "12.pairs", "64.all"]) == (["12", "64", "128"], ["all", "pairs"])
    with pytest.raises(UserError, match=r"sweep 'many': its folder must be named NUMBER\.ROW"):
        place_cells(["12.pairs", "many"])


def test_a_picture_is_drawn_for_every_kind():
    compared = compare(DNN=(5, 0.1, 0.0, 0.06, 0.5), DLRM=(5, 0.1, 0.0, 0.001, 0.5), FM=(4, 0.1, 0.1, 0.01, 0.5))
    names = ("12.pairs", "32.pairs", "12.all")
    png = draw_map(dict(zip(names, compared.values(), strict=True)), "title", "fields")
    assert png.startswith(b"\x89PNG")


def write_sweep(folder, rows):
    folder.mkdir(parents=True)
    (folder / "points.json").write_text(json.dumps({"rows": rows}))


def test_the_command_keeps_rows_and_picture(tmp_path, capsys):
    for name in ("12.pairs", "32.pairs"):
        write_sweep(tmp_path / "sweeps" / name, make_rows({"Wukong": WUKONG, "DNN": (5, 0.1, 0.0, 0.06, 0.5)}, noise=0))
    main("map_sweeps", [f"--sweeps={tmp_path / 'sweeps'}", f"--output={tmp_path / 'kept'}"])
    assert "4 x DNN" in capsys.readouterr().out
    rows = json.loads((tmp_path / "kept" / "results.json").read_text())["rows"]
    assert [(row["cell"], row["model"]) for row in rows] == [("12.pairs", "DNN"), ("32.pairs", "DNN")]
    assert (tmp_path / "kept" / "map.png").read_bytes().startswith(b"\x89PNG")


def test_folders_without_points_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no \*/points.json"):
        list(read_sweeps(tmp_path))
    write_sweep(tmp_path / "12.pairs", [])
    with pytest.raises(UserError, match="has no points yet"):
        list(read_sweeps(tmp_path))
    (tmp_path / "12.pairs" / "points.json").write_text('{"rows": [{"model": "DNN"}]}')
    with pytest.raises(UserError, match=r"points.json: rows\[0\] has no"):
        list(read_sweeps(tmp_path))
