"""Map several sweeps: how much compute the strongest rival needs for a model's lowest loss.

wukong-jax map_sweeps --sweeps=runs/fields --reference=Wukong --output=docs/results/scaling_fields

--sweeps holds the --workdir of each sweep, named NUMBER.ROW, such as 64.pairs: its column and row of the map. Writes
results.json and map.png.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    sweeps: Annotated[str, "folder with a folder for each sweep, named NUMBER.ROW"]
    reference: Annotated[str, "model whose lowest loss the others should reach"] = "Wukong"
    column: Annotated[str, "what NUMBER is, for the picture"] = "fields"
    output: Annotated[str, "folder for results.json and map.png"]
    command: CommandLine


def run(settings: Settings) -> None:
    """Compares the models of each sweep, prints the strongest rivals, and writes rows and picture."""
    from wukong_jax.files.whole_files import write_bytes_whole
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.scaling.report.sweep_map import compare_rivals, describe_rival, draw_map, place_cells, read_sweeps

    rows, strongest = [], {}
    for name, data, points in read_sweeps(Path(settings.sweeps)):
        compared = compare_rivals(points, settings.reference)
        rows += [{"cell": name, "data": data, **row} for row in compared]
        strongest[name] = compared[0]
    place_cells(list(strongest))
    for name, row in strongest.items():
        loss = f"{settings.reference} {row['reference_size']} {row['reference_loss']:.4f}"
        print(f"{name:16}{loss:24}{describe_rival(row).replace(chr(10), ' ')}")
    output = Path(settings.output)
    kept = write_results(output, settings.command, rows)
    title = f"Compute of the strongest rival for the lowest loss of {settings.reference}"
    write_bytes_whole(output / "map.png", draw_map(strongest, title, settings.column))
    print(f"kept: {kept}")
