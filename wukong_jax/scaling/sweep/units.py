"""The units of a sweep and the order they are due in: pure functions of the config and of what is known so far.

A unit is one training run: a model, a size, settings and a seed. Search and curve share units where they ask for the
same one, unless the search is over a part of the rows.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from wukong_jax.scaling.sweep.config import Settings, SweepConfig


@dataclasses.dataclass(frozen=True)
class Unit:
    """One training run of a sweep."""

    model: str
    size: str
    settings: Settings
    seed: int
    steps: int = 0  # of a trial over a part of the rows; 0: all of them

    @property
    def folder(self) -> PurePosixPath:
        """Where it lies below the sweep's folder."""
        model = self.model.replace(" ", "_").replace("+", "_plus")
        run = f"seed_{self.seed}" + (f"_of_{self.steps}_steps" if self.steps else "")
        return PurePosixPath("units", model, self.size, self.settings.name, run)


# How many rates in a row must be no better before a climb ends. With one, a seed's luck ended it: the losses of seeds
# differ by more than those of neighbouring rates.
PATIENCE = 2

# A unit's validation log loss: infinite where it exploded or failed, None where it has not ended.
Losses = Callable[[Unit], float | None]


def plan_search(sweep: SweepConfig, model: str, losses: Losses) -> tuple[dict[Unit, str], dict[str, Settings]]:
    """The search of one model, as far as what is known lets it be planned.

    At the smallest size every norm with every initial scale at rate 1, then the rate with the best of those; at each
    other size the rate again, from the one that the size below found. Rates do not carry over: what suits the smallest
    size is two to four times too high for the largest, and by how much differs between models.

    Args:
      sweep: the sweep.
      model: which.
      losses: what the units so far came to.

    Returns:
      The trials of all stages so far and the stage of each ("norm and scale", "rate"), and the settings found, by size;
      sizes whose trials are missing are not in it. Equal losses go to the first tried; where every trial of a stage
      exploded its first settings stay.
    """
    sizes, seed, steps = [size.name for size in sweep.sizes(model)], sweep.seeds[0], sweep.search.steps
    grid = itertools.product(sweep.ladder(model).norms, sweep.search.initial_scales)
    placed = [Unit(model, sizes[0], Settings(1.0, scale, norm), seed, steps) for norm, scale in grid]
    trials = dict.fromkeys(placed, "norm and scale")
    settings, found = _choose(placed, losses), {}
    for size in sizes:
        if settings is None:
            break
        tried, settings = _climb(sweep.search.rates, Unit(model, size, settings, seed, steps), losses)
        trials |= {unit: "rate" for unit in tried if unit not in trials}
        if settings is not None:
            found[size] = settings
    return trials, found


def _choose(units: Sequence[Unit], losses: Losses) -> Settings | None:
    """Settings of the first unit with the least loss; None while one has not ended."""
    values = [loss for unit in units if (loss := losses(unit)) is not None]
    return units[values.index(min(values))].settings if len(values) == len(units) else None


def _climb(rates: Sequence[float], start: Unit, losses: Losses) -> tuple[list[Unit], Settings | None]:
    """From a unit's rate down the grid until `PATIENCE` in a row are no better than the best, then up it likewise.

    Both ways, whatever the first finds: a rate that is better by a seed's luck would hide a far better one beyond.

    Returns:
      The units tried, and the best one's settings; None while one has not ended.
    """
    grid = sorted(rates)
    first = grid.index(start.settings.rate)
    best, best_loss, tried = first, losses(start), [start]
    if best_loss is None:
        return tried, None
    for places in (range(first - 1, -1, -1), range(first + 1, len(grid))):
        failures = 0
        for place in places:
            if failures == PATIENCE:
                break
            tried.append(dataclasses.replace(start, settings=dataclasses.replace(start.settings, rate=grid[place])))
            loss = losses(tried[-1])
            if loss is None:
                return tried, None
            if loss < best_loss:
                best, best_loss, failures = place, loss, 0
            else:
                failures += 1
    return tried, dataclasses.replace(start.settings, rate=grid[best])


def due_trials(sweep: SweepConfig, models: Sequence[str], losses: Losses) -> list[Unit]:
    """The trials of some models' searches so far, small sizes first: a sweep that is stopped knows the same of each."""
    trials = [unit for model in models for unit in plan_search(sweep, model, losses)[0]]
    steps = {(model, size.name): step for model in models for step, size in enumerate(sweep.sizes(model))}
    return sorted(trials, key=lambda unit: steps[unit.model, unit.size])


def curve_units(sweep: SweepConfig, found: Mapping[str, Mapping[str, Settings]]) -> list[Unit]:
    """The units of the curves, of the sizes whose settings are found, seeds outermost so that early points span all.

    Small sizes come before large ones, so a sweep that is stopped has whole curves of few seeds.
    """
    steps = max(len(sweep.sizes(model)) for model in sweep.models)
    return [
        Unit(model, size, found[model][size], seed)
        for seed in sweep.seeds
        for step in range(steps)
        for model in sweep.models
        for size in [size.name for size in sweep.sizes(model)][step : step + 1]
        if size in found.get(model, {})
    ]


def shard_models(models: Sequence[str], shard: int, shards: int) -> list[str]:
    """The models that a shard searches: every `shards`-th."""
    return list(models[shard::shards])


def shard_units(units: Sequence[Unit], shard: int, shards: int) -> list[Unit]:
    """The curve units that a shard trains, by a number that does not depend on which models are found already."""
    return [unit for unit in units if _number(unit) % shards == shard]


def _number(unit: Unit) -> int:
    """The same on every machine and in every process, unlike `hash`."""
    return sum(map(ord, f"{unit.model} {unit.size} {unit.seed}"))
