"""Turn a served artefact into a newer one by a delta that `export --delta_of` wrote.

    wukong-jax apply_delta --artefact=served/log --delta=deltas/2024-01-02

The folder is replaced in one step, and has the files of a whole export, byte by byte. A server that serves it goes over
to it. A delta fits the artefact that it was made for, and no other.
"""

import dataclasses
from pathlib import Path
from typing import Annotated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    artefact: Annotated[str, "folder of the artefact"]
    delta: Annotated[str, "folder of the delta"]


def run(settings: Settings) -> None:
    """Applies the delta."""
    from wukong_jax.serving.artefact import read_manifest
    from wukong_jax.serving.deltas import apply_delta

    apply_delta(Path(settings.artefact), Path(settings.delta))
    print(f"{settings.artefact}: step {read_manifest(Path(settings.artefact)).step}")
