"""Generate a log of clicks whose items come and go, one file a day, with known Bayes log loss.

    wukong-jax make_drifting_log --output=DIR [--days=40] [--turnover=0.05]

Every setting of the generator is a flag. Prints DIR/report.json.
"""

import dataclasses
import json
from typing import Annotated

from wukong_jax.data.planted.drifting_log_config import DriftingLogConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    output: Annotated[str, "folder to create; must not exist"]
    planted: DriftingLogConfig


def run(settings: Settings) -> None:
    """Writes the log and prints its report."""
    from wukong_jax.data.planted.drifting_log import write_drifting_log

    print(json.dumps(write_drifting_log(settings.planted, settings.output), indent=1))
