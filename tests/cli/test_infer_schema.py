"""Tests the three commands of the README on a file that no one prepared, and what infer_schema refuses."""

import csv
import datetime
import json
import os
import random
import subprocess
import sys

import pytest

from tests.cli.command import run_command
from tests.repository import ROOT
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.errors import UserError
from wukong_jax.schema import load_schema

ROWS = 3000


def write_ugly_csv(path):
    """Writes a log as such files are: odd names, marks, quotes, blanks, an index, a leak, dates with offsets."""
    draw = random.Random(5)
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    header = [
        "",
        "Clicked?",
        " Größe ",
        "__proto__",
        "price, EUR",
        'said "what"',
        "user id",
        "zip",
        "ts",
        "paid_at",
        "paid",
        "x",
    ]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
        writer.writerow(header)
        for row in range(ROWS):
            size, user = draw.choice(["S", "M ", "L", "größer"]), draw.randrange(60)
            click = draw.random() < (0.6 if user % 3 == 0 or size == "M " else 0.1)
            writer.writerow(
                [
                    row,
                    "yes" if click else "no",
                    size,
                    draw.choice(["a|b", "b", "c|a", ""]),
                    draw.choice(["N/A", f"{draw.gammavariate(2, 9):.2f}"]) if row % 9 == 0 else f"{draw.random():.4f}",
                    draw.choice(['he said "no"', "line one\nline two", "plain; with semicolon"]),
                    f"{user}.0",
                    f"{draw.randrange(90):05d}",
                    (start + datetime.timedelta(minutes=17 * row)).strftime("%Y-%m-%dT%H:%M:%S+02:00"),
                    (start + datetime.timedelta(minutes=17 * row)).isoformat() if click else "",
                    round(draw.gammavariate(2, 9), 2) if click else 0,
                    "constant",
                ]
            )


def infer(*flags):
    run_command("infer_schema", *flags)


def test_ugly_file_is_drafted_as_a_person_would(tmp_path, capsys):
    path, output = tmp_path / "ugly log.csv", tmp_path / "ugly.json"
    write_ugly_csv(path)
    infer(str(path), "--label=Clicked?", f"--output={output}")
    schema = load_schema(output)
    assert (schema.source.separator, schema.source.strip) == (";", True)
    assert schema.source.missing == ("", "N/A")
    assert (schema.labels[0].name, schema.labels[0].positive) == ("Clicked?", ("yes",))
    assert (schema.timestamp, schema.split.by, schema.group) == ("ts", "time", "user id")
    assert [column.name for column in schema.dense] == ["price, EUR"]
    bags = {column.name: column.separator for column in schema.id_columns}
    assert bags == {"Größe": None, "__proto__": "|", 'said "what"': None, "user id": None, "zip": None}
    shown = capsys.readouterr().out
    assert "paid_at" in shown
    assert "tells Clicked? by itself" in shown
    assert "--config=own:small" in shown
    assert f"--config.data.path='{path}'" in shown
    assert all(line.isprintable() for line in shown.splitlines())


@pytest.mark.slow
def test_three_commands_train_and_score_the_ugly_file(tmp_path):
    write_ugly_csv(tmp_path / "ugly.csv")
    commands = (
        ("infer_schema", "ugly.csv", "--label=Clicked?"),
        (
            "train",
            "--config=own:small",
            "--workdir=runs/ugly",
            "--config.data.path=ugly.csv",
            "--config.data.schema=schema.json",
            "--config.training.epochs=2",
        ),
        ("predict", "--workdir=runs/ugly", "--input=ugly.csv", "--output=scores.csv"),
    )
    for command, *flags in commands:
        script = [sys.executable, str(ROOT / "scripts" / f"{command}.py"), *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/ugly/summary.json").read_text(encoding="utf-8"))
    assert summary["test"]["auc"] > 0.6
    assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == ROWS + 1


def test_output_is_not_replaced_unasked_and_not_left_half_written(tmp_path):
    path, output = tmp_path / "rows.csv", tmp_path / "schema.json"
    path.write_text("click,a\n" + "1,x\n0,y\n0,x\n1,z\n" * 20, encoding="utf-8")
    output.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists; choose another file or pass --overwrite"):
        infer(str(path), "--label=click", f"--output={output}")
    assert output.read_text(encoding="utf-8") == "mine"
    infer(str(path), "--label=click", f"--output={output}", "--overwrite")
    assert load_schema(output).name == "rows"
    with pytest.raises(UserError, match="no such column"):
        infer(str(path), "--label=clicks", f"--output={tmp_path / 'other.json'}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.csv", "schema.json"]
    with pytest.raises(UserError, match="no folder"):
        infer(str(path), "--label=click", f"--output={tmp_path / 'none' / 'schema.json'}")


def test_several_files_are_read_as_one_and_prepared_first(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("click,a\n" + "1,x\n0,y\n0,x\n1,z\n" * 20, encoding="utf-8")
    infer(str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--label=click", f"--output={tmp_path / 's.json'}")
    shown = capsys.readouterr().out
    assert "160 rows" in shown
    assert f"--input={tmp_path / 'a.csv'},{tmp_path / 'b.csv'}" in shown
    assert "--config.data.factory=blocks" in shown
    assert "--on_bad_row" not in shown


def test_bad_rows_are_skipped_by_the_next_command(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("click,a\n" + "1,x\n0,y\n0,x\n1,z\n" * 20 + "1,2,3\n", encoding="utf-8")
    infer(str(path), "--label=click", f"--output={tmp_path / 's.json'}")
    shown = capsys.readouterr().out
    assert "line 82" in shown
    assert "--on_bad_row=skip" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--positive=other=1",), "not LABEL=TEXT with a label of click"),
        (("--threshold=click=x",), "'x' is not a number"),
        (("--threshold=click=nan",), "the range of its values"),
        (("--threshold=click=1", "--positive=click=1"), "give one"),
        (("--columns=a",), "1 names for 2 columns"),
        (("--separator=ab",), "must be one byte"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("click,a\n" + "1,x\n0,y\n0,x\n1,z\n" * 20, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        infer(str(path), "--label=click", f"--output={tmp_path / 's.json'}", *flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows", ["small", "middle", "large"])
def test_config_for_own_rows_asks_for_the_path_and_takes_a_schema(rows, tmp_path):
    name = f"own:{rows}"
    with pytest.raises(UserError, match=r"config\.data\.path = ''"):
        build_run_config(load_config(name))
    built = build_run_config(load_config(name, {"data.path": "clicks.csv", "data.schema": "criteo"}))
    assert built.data.factory == "raw"
