"""Compiles the train step for a cluster that is not here: compile time, memory of a device, bytes on each mesh axis.

    python scripts/compile_for_cluster.py --config=configs/criteo_10k.py --target=h100_4x8 --table_rows=1000000
        [--schema=NAME_OR_FILE | --data=FOLDER] [--output=FILE.json] [--config.key=value]

No device is needed, only the platform's compiler: pip install '.[tpu]' for TPUs, '.[compile_gpu]' for GPUs. No rows
are read: tables whose size only data would tell get --table_rows. The mesh is the target's, a TPU slice or a GPU host
being a host; config.mesh may divide these further. Exit code 1 where the step does not fit the device's memory.
"""

import argparse
import json
from pathlib import Path

from assumed_run import build_parser, read_run

from wukong_jax.cli.command_line import run_script
from wukong_jax.clusters.targets import NAMED_TARGETS, find_target
from wukong_jax.errors import UserError


def main() -> None:
    """Parses, compiles, prints, writes."""
    parser = _build_parser()
    arguments, config_flags = parser.parse_known_args()
    if any(flag.startswith("--workdir") for flag in config_flags):
        parser.error("--workdir: nothing is trained here; leave it out")
    target = find_target(arguments.target, _read_description(arguments.target_config))
    from wukong_jax.clusters.compile_ahead import compile_train_step, describe_devices, use_no_accelerator

    use_no_accelerator()
    devices = describe_devices(target)
    from wukong_jax.clusters.compile_report import describe_step, format_step

    config, schema = read_run(arguments, config_flags, __doc__)
    step = compile_train_step(config, schema, target, devices)
    print(format_step(step))
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(describe_step(step), indent=1) + "\n")
    if not step.fits:
        raise UserError(
            f"target = {target.name!r}: a device needs {step.memory.total:,} bytes and has {target.memory_bytes:,}; "
            "choose smaller tables or batches, or spread the tables over more devices"
        )


def _read_description(path: str) -> str | None:
    return Path(path).read_text() if path else None


def _build_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__)
    parser.add_argument(
        "--target",
        required=True,
        help=f"{', '.join(NAMED_TARGETS)}, or tpu:CHIP:SHAPE[:SLICES] as tpu:v5p:4x4x4:4, or gpu:CHIP:HOSTSxGPUS as "
        "gpu:h100:4x8",
    )
    parser.add_argument(
        "--target_config", default="", help="a GPU's description: a GpuTargetConfigProto in XLA's text form"
    )
    parser.add_argument("--output", default="", help="JSON file to write")
    return parser


if __name__ == "__main__":
    run_script(main)
