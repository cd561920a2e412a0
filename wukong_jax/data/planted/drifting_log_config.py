"""Defines the settings of a generated log whose items come and go."""

import dataclasses
from typing import Annotated

from wukong_jax.ranges import AtLeast, Between


@dataclasses.dataclass(frozen=True)
class DriftingLogConfig:
    """Settings of the generator; see `drifting_log`."""

    days: Annotated[int, "days of the log", AtLeast(1)] = 40
    rows_per_day: Annotated[int, "rows of each day", AtLeast(1)] = 20_000
    items: Annotated[int, "items that live at the same time", AtLeast(1)] = 1000
    turnover: Annotated[float, "share of the items that a day replaces by new ones", Between(0, 1)] = 0.05
    users: Annotated[int, "users, the same all the time", AtLeast(1)] = 500
    zipf_exponent: Annotated[float, "exponent of the items' frequencies", AtLeast(0)] = 0.7
    latent_width: Annotated[int, "numbers in the latent vectors of users and items", AtLeast(1)] = 4
    item_deviation: Annotated[float, "standard deviation of the logit's part of items alone", AtLeast(0)] = 1.0
    pair_deviation: Annotated[float, "standard deviation of the logit's part of pairs of user and item", AtLeast(0)] = (
        1.0
    )
    bias: Annotated[float, "constant of the logit"] = -1.5
    seed: Annotated[int, "seed of everything that is drawn", AtLeast(0)] = 0
