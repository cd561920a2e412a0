"""Compile the train step for a cluster without its devices, and print time, memory and traffic.

    wukong-jax compile_for_cluster --config=public/criteo_10k --target=h100_4x8 --table_rows=1000000
        [--schema=NAME_OR_FILE | --data=FOLDER] [--output=FILE.json] [--config.key=value]

Only the platform's compiler is needed: pip install 'wukong-jax[tpu]' for TPUs, 'wukong-jax[compile_gpu]' for GPUs. No
rows are read; --table_rows gives the sizes of tables that would depend on the data. The target determines the mesh: a
TPU slice or a GPU host is a host of the mesh, and config.mesh may divide it further. The exit code is 1 if the step
does not fit in the memory of a device.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.settings import AssumedRowsFlags
from wukong_jax.clusters.targets import NAMED_TARGETS, find_target
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(AssumedRowsFlags):
    """The command's flags."""

    target: Annotated[
        str,
        f"cluster: {', '.join(NAMED_TARGETS)}; tpu:CHIP:SHAPE[:SLICES], such as tpu:v5p:4x4x4:4; or "
        "gpu:CHIP:HOSTSxGPUS, such as gpu:h100:4x8",
    ]
    target_config: Annotated[str, "file that describes a GPU: a GpuTargetConfigProto in XLA's text format"] = ""
    output: Annotated[str, "JSON file to write"] = ""


def run(settings: Settings) -> None:
    """Compiles the step, prints and writes its costs."""
    from wukong_jax.cli.run_config import load_config_dict
    from wukong_jax.clusters.assumed_schema import assume_run
    from wukong_jax.clusters.compile_ahead import compile_train_step, describe_devices, use_no_accelerator
    from wukong_jax.clusters.compile_report import describe_step, format_step

    description = Path(settings.target_config).read_text(encoding="utf-8") if settings.target_config else None
    target = find_target(settings.target, description)
    use_no_accelerator()
    devices = describe_devices(target)
    config, schema = assume_run(load_config_dict(settings), settings.schema, settings.data, settings.table_rows)
    step = compile_train_step(config, schema, target, devices)
    print(format_step(step))
    if settings.output:
        Path(settings.output).write_text(json.dumps(describe_step(step), indent=1) + "\n", encoding="utf-8")
    if not step.fits:
        raise UserError(
            f"target = {target.name!r}: a device needs {step.memory.total:,} bytes and has {target.memory_bytes:,}; "
            "choose smaller tables or batches, or spread the tables over more devices"
        )
