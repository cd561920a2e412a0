"""The units of a sweep and the order they are due in: pure functions of the config and of what is known so far.

A unit is one training run: a model, a size, settings and a seed. Search and curve share units where they ask for the
same one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from wukong_jax.scaling.sweep_config import Settings, SweepConfig


@dataclasses.dataclass(frozen=True)
class Unit:
    """One training run of a sweep."""

    model: str
    size: str
    settings: Settings
    seed: int

    @property
    def folder(self) -> PurePosixPath:
        """Where it lies below the sweep's folder."""
        model = self.model.replace(" ", "_").replace("+", "_plus")
        return PurePosixPath("units", model, self.size, self.settings.name, f"seed_{self.seed}")


# A unit's validation log loss: infinite where it exploded or failed, None where it has not ended.
Losses = Callable[[Unit], float | None]


def plan_search(sweep: SweepConfig, model: str, losses: Losses) -> tuple[dict[Unit, str], Settings | None]:
    """The search of one model, as far as what is known lets it be planned.

    Args:
      sweep: the sweep.
      model: which.
      losses: what the units so far came to.

    Returns:
      The trials of all stages so far and the stage of each ("norm and scale", "rate"), and the settings found; None
      while trials are missing. Equal losses go to the first tried; where every trial of a stage exploded the first
      settings stay.
    """
    size, seed = sweep.sizes(model)[0].name, sweep.seeds[0]

    def units(stage: Iterable[Settings]) -> list[Unit]:
        return [Unit(model, size, settings, seed) for settings in stage]

    grid = itertools.product(sweep.ladder(model).norms, sweep.search.initial_scales)
    placed = units(Settings(1.0, scale, norm) for norm, scale in grid)
    trials = dict.fromkeys(placed, "norm and scale")
    best = _choose(placed, losses)
    if best is None:
        return trials, None
    rates = sorted(sweep.search.rates, key=lambda rate: rate != 1.0)  # 1 first: it is known already
    rated = units(dataclasses.replace(best, rate=rate) for rate in rates)
    return {**trials, **{unit: "rate" for unit in rated if unit not in trials}}, _choose(rated, losses)


def _choose(units: Sequence[Unit], losses: Losses) -> Settings | None:
    """Settings of the first unit with the least loss; None while one has not ended."""
    values = [loss for unit in units if (loss := losses(unit)) is not None]
    return units[values.index(min(values))].settings if len(values) == len(units) else None


def curve_units(sweep: SweepConfig, found: Mapping[str, Settings]) -> list[Unit]:
    """The units of the curves, of the models whose settings are found, seeds outermost so that early points span all.

    Small sizes come before large ones, so a sweep that is stopped has whole curves of few seeds. The check of the
    largest sizes' rates, where it is asked for, comes last.
    """
    steps = max(len(sweep.sizes(model)) for model in sweep.models)
    units = [
        Unit(model, sweep.sizes(model)[step].name, found[model], seed)
        for seed in sweep.seeds
        for step in range(steps)
        for model in sweep.models
        if model in found and step < len(sweep.sizes(model))
    ]
    return units + [
        unit for model in sweep.models if model in found for unit in check_units(sweep, model, found[model])
    ]


def check_units(sweep: SweepConfig, model: str, found: Settings) -> list[Unit]:
    """The largest size at half and twice the rate found; none where there is one size only, or no check."""
    sizes = sweep.sizes(model)
    if not sweep.search.check_largest or len(sizes) == 1:
        return []
    rates = [dataclasses.replace(found, rate=found.rate * factor) for factor in (0.5, 2.0)]
    return [Unit(model, sizes[-1].name, settings, sweep.seeds[0]) for settings in rates]


def shard_models(models: Sequence[str], shard: int, shards: int) -> list[str]:
    """The models that a shard searches: every `shards`-th."""
    return list(models[shard::shards])


def shard_units(units: Sequence[Unit], shard: int, shards: int) -> list[Unit]:
    """The curve units that a shard trains, by a number that does not depend on which models are found already."""
    return [unit for unit in units if _spread(unit) % shards == shard]


def _spread(unit: Unit) -> int:
    """The same on every machine and in every process, unlike `hash`."""
    return sum(map(ord, f"{unit.model} {unit.size} {unit.seed} {unit.settings.rate:g}"))
