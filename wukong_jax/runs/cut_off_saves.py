"""Removes what saves of checkpoints that were cut off, by a kill or a full disk, have left behind."""

import shutil
from pathlib import Path

_MARK = ".orbax-checkpoint-tmp"  # in the names of folders that Orbax has not finished; it takes none of them for whole


def find_cut_off_saves(folder: Path) -> list[Path]:
    """Lists the folders of saves that were cut off.

    Args:
      folder: `<workdir>/checkpoints`, in which no save is running.
    """
    return sorted(path for path in folder.glob(f"*/*{_MARK}*") if path.is_dir())


def remove_cut_off_saves(folder: Path) -> list[str]:
    """Removes the folders of saves that were cut off; one that cannot be removed stays, and does no harm.

    Returns:
      A message for each removed folder.
    """
    said = []
    for path in find_cut_off_saves(folder):
        shutil.rmtree(path, ignore_errors=True)
        step = path.name.partition(".")[0]
        said.append(
            f"removed {path.relative_to(folder.parent)}: the save of step {step} was cut off, an earlier one stays"
        )
    return said
