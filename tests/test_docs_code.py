"""Tests the examples of README, CONTRIBUTING and the guides: they run, and their commands, flags and configs exist."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

import wukong_jax
from lattice.sketch.space import build_sketch_config
from tests.doc_blocks import EXAMPLE_PAGES, Block, Command, read_blocks, split_blocks, split_commands
from tests.repository import ROOT
from wukong_jax.cli.commands import MODULES, load_command
from wukong_jax.cli.parser import UsageError, parse_settings
from wukong_jax.clusters.assumed_schema import assume_run
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.config_overrides import apply_flags
from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import build_sweep_config
from wukong_jax.training.run import build_run

BUILDERS = {"scaling_curve": build_sweep_config, "search_sketch": build_sketch_config}
# What makes the quickstart a matter of seconds, in Python examples.
SMALL = {
    "data.options.train_rows": 20_000,
    "data.options.validation_rows": 4_000,
    "data.options.test_rows": 4_000,
    "training.steps": 4,
}


def write_files(page: str) -> None:
    """Writes the page's blocks that are files into the current folder."""
    for block in read_blocks(page):
        if block.mark == "file":
            Path(block.argument).write_text(block.text)


def list_page_commands(page: str) -> list[tuple[Block, Command]]:
    """Returns the commands of a page's shell blocks, with the flags that running them would add."""
    commands = []
    for block in read_blocks(page):
        if block.language == "bash":
            added = tuple(block.argument.split()) if block.mark == "run" else ()
            for command in split_commands(block.text):
                commands.append((block, Command(command.script, command.arguments + added, command.environment)))
    return commands


def check_command(command: Command) -> None:
    """Parses a command's flags and builds the configs that it names.

    Raises:
      UserError: a command, flag, config or key that does not exist.
    """
    if command.script.endswith(".sh"):
        if not (ROOT / "scripts" / command.script).is_file():
            raise UserError(f"scripts/{command.script}: no such script")
        return
    if command.script not in MODULES or not (ROOT / "scripts" / f"{command.script}.py").is_file():
        raise UserError(f"{command.script}: no such command, or no script of that name")
    module = load_command(command.script)
    settings = parse_settings(module.Settings, command.arguments, command.script, "")
    if hasattr(settings, "config"):
        changes = [f"--config.{change}" for change in getattr(settings, "changes", ())]
        for name in list_configs(settings):
            config = apply_flags(load_config(name), changes)
            if hasattr(settings, "table_rows"):
                assume_run(config, settings.schema, settings.data, settings.table_rows)
            else:
                BUILDERS.get(command.script, build_run_config)(config)


def list_configs(settings: Any) -> list[str]:
    """Returns the configs that a command's flags name: --config, with each of the variants if there are some."""
    variants = [v for flag in ("variants", "alone", "together") for v in as_tuple(getattr(settings, flag, ()))]
    return [f"{settings.config}:{variant}" for variant in variants] or [settings.config]


def as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def run_commands(block: Block) -> None:
    """Runs a block's commands in the current folder, as a user of a clone does."""
    for command in split_commands(block.text):
        script = str(ROOT / "scripts" / f"{command.script}.py")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        done = subprocess.run(
            [sys.executable, script, *command.arguments, *block.argument.split()],
            env=environment | command.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{block.place}: {command}\n{done.stdout}\n{done.stderr}"


def check_config_block(block: Block) -> None:
    """Applies a block to the config that its mark names, and builds the run's model, loss and exchange."""
    namespace = {"config": load_config(block.argument)}
    exec(compile("from ml_collections import ConfigDict\n" + block.text, block.place, "exec"), namespace)
    config = build_run_config(namespace["config"])
    build_run(config, config.data.build_source().schema())


@pytest.fixture
def small_quickstart(monkeypatch):
    """Makes `wukong_jax.load_config` return runs of seconds."""

    def load_small(name: str, changes: Mapping[str, Any] | None = None) -> ConfigDict:
        return load_config(name, {**(changes or {}), **SMALL})

    monkeypatch.setattr(wukong_jax, "load_config", load_small)


@pytest.mark.slow
@pytest.mark.parametrize("page", EXAMPLE_PAGES)
def test_examples_run(page, tmp_path, monkeypatch, small_quickstart):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in read_blocks(page):
        if block.mark == "file":
            Path(block.argument).write_text(block.text)
        elif block.mark == "config":
            check_config_block(block)
        elif block.mark == "run":
            run_commands(block)
        elif block.mark == "example":
            compile(block.text, block.place, "exec")
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), namespace)


@pytest.mark.parametrize("page", EXAMPLE_PAGES)
def test_commands_flags_and_configs_exist(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(page)
    for block, command in list_page_commands(page):
        try:
            check_command(command)
        except UserError as error:
            pytest.fail(f"{block.place}: {command.script} {' '.join(command.arguments)}: {error}")


def test_the_csv_example_really_runs():
    for page, commands in (
        ("README.md", {"infer_schema", "train", "predict"}),
        ("docs/guides/own_data.md", {"infer_schema", "prepare_data", "train", "evaluate", "predict"}),
    ):
        run = [
            command.script
            for block in read_blocks(page)
            if block.mark == "run"
            for command in split_commands(block.text)
        ]
        assert commands <= set(run)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("python scripts/trian.py --config=quickstart --workdir=x", UserError),
        ("wukong-jax train --confg=quickstart --workdir=x", UsageError),
        ("wukong-jax train --config=quickstrat --workdir=x", UserError),
        ("wukong-jax train --config=quickstart --workdir=x --config.training.stesp=3", UserError),
        ("wukong-jax scaling_curve --config=scaling/small --workdir=x --config.models.Wukong=\"('huge',)\"", UserError),
        ("./scripts/quickstrat.sh", UserError),
    ],
)
def test_checker_finds_a_wrong_command(line, error):
    with pytest.raises(error):
        check_command(split_commands(line)[0])


def test_blocks_and_commands_are_split():
    file = "a\n<!-- file: x.json -->\n```json\n{}\n```\n"
    run = "<!-- run: --a=1 -->\n\n```bash\nX=1 python scripts/train.py \\\n  --b  # why\n```\n"
    first, second = split_blocks(file + run, "page")
    assert (first.mark, first.argument, first.text, first.place) == ("file", "x.json", "{}\n", "page:3")
    assert (second.mark, second.argument) == ("run", "--a=1")
    assert split_commands(second.text) == [Command("train", ("--b",), {"X": "1"})]
    with pytest.raises(ValueError, match="not a command"):
        split_commands("rm -rf x")
