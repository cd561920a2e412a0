"""Export a trained run as an artefact that scores rows without this package's models or Flax.

    wukong-jax export --workdir=runs/mine --output=served/mine
    wukong-jax export --workdir=runs/mine --output=served/small --tables=int8 --evaluate=test

The folder holds the program (StableHLO, for any number of rows), the tables, the schema, the vocabularies and a
manifest. `wukong_jax.serving.load_scorer` loads it, and `wukong-jax serve` serves it. An artefact in the folder is
replaced in one step. JAX reads it for six months; then export the run again.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.cli.settings import AllowFactories, ProgramFlags
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags):
    """The command's flags."""

    workdir: Annotated[str, "folder of the run, or its URL on an object store", MayBeStore()]
    output: Annotated[str, "folder or URL to create, or an artefact to replace", MayBeStore()]
    platforms: Annotated[tuple[str, ...], "platforms to export for: cpu, cuda, tpu, rocm"] = ("cpu", "cuda", "tpu")
    tables: Annotated[
        Literal["float32", "bfloat16", "int8"] | None,
        "numbers of the tables' rows; int8 has a scale for each row (if not given: as they were trained)",
    ] = None
    format: Annotated[
        Literal["stablehlo", "onnx"], "stablehlo for load_scorer and serve; onnx for onnxruntime (extra onnx)"
    ] = "stablehlo"
    evaluate: Annotated[str, "split on which to compare the artefact's metrics with the run's, such as test"] = ""
    calibrate: Annotated[
        Literal["platt", "isotonic"] | None, "corrects the calibration of scores (if not given: they are the run's)"
    ] = None
    calibrate_on: Annotated[
        str, "split by whose rows to calibrate; progressive: the last period of a log, as scored before training on it"
    ] = "validation"
    delta_of: Annotated[
        str, "artefact of the run: write only what differs from it, for apply_delta, instead of a whole artefact"
    ] = ""
    data: Annotated[
        str | None, "folder of row blocks to read instead of the run's own, if they were moved", MayBeStore()
    ] = None
    allow_factories: AllowFactories = ()

    def __post_init__(self) -> None:
        """Refuses flags that an ONNX model cannot follow, and rows for no calibration."""
        refuse_idle(self, "calibrate_on", self.calibrate is None, "without --calibrate", "--")
        if self.format != "onnx":
            return
        idle = {name: bool(getattr(self, name)) for name in ("evaluate", "calibrate", "delta_of")}
        for name, given in ({"tables": self.tables not in (None, "float32")} | idle).items():
            if given:
                raise UserError(f"--{name} = {getattr(self, name)!r}: not possible with --format=onnx; leave it out")


def run(settings: Settings) -> None:
    """Restores the run and writes the artefact, or what differs from one."""
    from wukong_jax.files.object_store import ObjectFolder, is_store_url, publish_folder, refuse_store
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.runs.store_mirror import make_working_folder
    from wukong_jax.serving.artefact import MANIFEST
    from wukong_jax.serving.deltas import write_delta
    from wukong_jax.serving.export import export_run
    from wukong_jax.serving.stored_artefacts import check_stored_output

    stored = is_store_url(settings.output)
    if settings.delta_of:
        refuse_store("--output", settings.output, "write the delta to a folder of this machine, and copy that")
    if stored:
        check_stored_output(settings.output)
    opened = open_run(settings.workdir, settings.data, settings.allow_factories)
    output = make_working_folder() / "artefact" if stored else Path(settings.output)
    if settings.format == "onnx":
        from wukong_jax.serving.onnx_file import export_onnx

        export_onnx(opened, output)
        if stored:
            publish_folder(output, ObjectFolder(settings.output), MANIFEST)
        print(f"wrote {settings.output}/model.onnx")
        return
    export = functools.partial(
        export_run,
        opened,
        platforms=settings.platforms,
        tables=settings.tables,
        evaluate=settings.evaluate,
        calibrate=settings.calibrate,
        calibrate_on=settings.calibrate_on,
    )
    if settings.delta_of:
        with tempfile.TemporaryDirectory(prefix="wukong-jax-") as made:
            export(Path(made) / "artefact")
            rows = write_delta(Path(settings.delta_of), Path(made) / "artefact", output)
        print(f"wrote {output}: {rows:,} rows of tables, and the files that differ from those of {settings.delta_of}")
        return
    scorer = export(output)
    if stored:
        publish_folder(output, ObjectFolder(settings.output), MANIFEST)
    size = sum(file.bytes for file in scorer.manifest.files.values())
    until = scorer.manifest.readable_until
    print(f"wrote {settings.output}: {size / 1e6:,.1f} MB, readable by later versions of JAX until {until}")
