"""Plans the units of a sweep and their order, by pure functions of the config and of the results so far.

A unit is one training run: a model, a size, settings and a seed. The search and the curve share a unit if both need it,
unless the search uses only a part of the rows.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from wukong_jax.scaling.sweep.config import Settings, SweepConfig
from wukong_jax.scaling.sweep.suggest import SearchSpace, suggest_settings


@dataclasses.dataclass(frozen=True)
class Unit:
    """One training run of a sweep."""

    model: str
    size: str
    settings: Settings
    seed: int
    steps: int = 0  # number of steps of a search trial on a part of the rows; 0 for a whole run

    @property
    def folder(self) -> PurePosixPath:
        """The unit's folder, relative to the sweep's folder."""
        model = self.model.replace(" ", "_").replace("+", "_plus")
        run = f"seed_{self.seed}" + (f"_of_{self.steps}_steps" if self.steps else "")
        return PurePosixPath("units", model, self.size, self.settings.name, run)


# Number of rates in a row that must be no better before a climb ends. With one, the climb ended too early by chance,
# since losses differ more between seeds than between neighbouring rates.
PATIENCE = 2
_DOUBLINGS = 6  # factors of two that a climb may go beyond either end of the rates

# Returns a unit's validation log loss; infinite if it exploded or failed, None if it has not ended.
Losses = Callable[[Unit], float | None]


def plan_search(sweep: SweepConfig, model: str, losses: Losses) -> tuple[dict[Unit, str], dict[str, Settings]]:
    """Plans the search of one model as far as the results so far allow.

    With `search.structure.trials`, trials at one size choose everything but the rate of each size (`StructureConfig`).
    Without, every norm is tried at the smallest size with every initial scale at rate 1. The rate is then searched with
    the best of those, at each size, starting from the best rate of the next smaller one. Rates do not transfer: the
    best rate of the smallest size is two to four times too high for the largest, depending on the model.

    Args:
      sweep: the sweep.
      model: the model's name.
      losses: returns the loss of a unit.

    Returns:
      The trials of all stages so far with the stage of each ("structure" or "norm and scale", "rate"), and the settings
      found by size, without sizes whose trials are incomplete. Among equal losses, the first trial wins; if all trials
      of a stage exploded, its first settings are kept.
    """
    sizes, seed, steps = [size.name for size in sweep.sizes(model)], sweep.search_seed, sweep.search.steps
    if sweep.search.structure.trials:
        trials, settings = _search_structure(sweep, model, losses)
    else:
        grid = itertools.product(sweep.ladder(model).norms, sweep.search.initial_scales)
        placed = [Unit(model, sizes[0], Settings(1.0, scale, norm), seed, steps) for norm, scale in grid]
        trials, settings = dict.fromkeys(placed, "norm and scale"), _choose(placed, losses)
    found = {}
    for size in sizes:
        if settings is None:
            break
        tried, settings = _climb(rate_grid(sweep), Unit(model, size, settings, seed, steps), losses)
        trials |= {unit: "rate" for unit in tried if unit not in trials}
        if settings is not None:
            found[size] = settings
    return trials, found


def rate_grid(sweep: SweepConfig) -> list[float]:
    """Returns the rates along which a climb moves; after a search over structures, beyond the ends of the grid, too."""
    grid = sorted(sweep.search.rates)
    if not sweep.search.structure.trials:
        return grid
    beyond = [2.0**step for step in range(1, _DOUBLINGS + 1)]
    return [*(grid[0] / factor for factor in reversed(beyond)), *grid, *(grid[-1] * factor for factor in beyond)]


def structure_size(sweep: SweepConfig, model: str) -> str:
    """Returns the name of the size at which the structures of a model are searched."""
    names = [size.name for size in sweep.sizes(model)]
    wanted = sweep.search.structure.size
    return wanted if wanted in names else names[(len(names) - 1) // 2]


def _search_structure(sweep: SweepConfig, model: str, losses: Losses) -> tuple[dict[Unit, str], Settings | None]:
    """Plans the trials over structures as far as the results allow.

    Each suggestion is a function of the losses of whole groups of `at_once` trials before it, and of its number alone,
    so a search that is stopped, or shared by shards, suggests the same.
    """
    structure, ladder = sweep.search.structure, sweep.ladder(model)
    space = SearchSpace(
        tuple(sorted(sweep.search.rates)),
        sweep.search.initial_scales,
        structure.weight_decays,
        tuple(ladder.norms),
        tuple((choice, tuple(alternatives)) for choice, alternatives in ladder.structures.items()),
    )
    units: list[Unit] = []
    size, count = structure_size(sweep, model), min(structure.trials, space.points)
    while len(units) < count:
        known = [(unit.settings, losses(unit)) for unit in units]
        ended = tuple((settings, loss) for settings, loss in known if loss is not None)
        if len(ended) < len(units):
            break
        group: list[Settings] = []
        for number in range(len(units), min(count, len(units) + structure.at_once)):
            tried = tuple([settings for settings, _ in ended] + group)
            group.append(suggest_settings(space, ended, tried, structure.seed, number))
        units += [Unit(model, size, settings, structure.seed, sweep.search.steps) for settings in group]
    return dict.fromkeys(units, "structure"), _choose(units, losses) if len(units) == count else None


def _choose(units: Sequence[Unit], losses: Losses) -> Settings | None:
    """Returns the settings of the first unit with the lowest loss; None if any unit has not ended."""
    values = [loss for unit in units if (loss := losses(unit)) is not None]
    return units[values.index(min(values))].settings if len(values) == len(units) else None


def _climb(rates: Sequence[float], start: Unit, losses: Losses) -> tuple[list[Unit], Settings | None]:
    """Searches the rate from a unit's rate down the grid until `PATIENCE` rates in a row are no better, then up.

    Both directions are always searched, since a rate that is better by chance could hide a much better one in the
    other direction.

    Returns:
      The units tried, and the settings of the best one; None if any unit has not ended.
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
    """Lists the trials of the models' searches so far, small sizes first, so that searches advance evenly."""
    trials = [unit for model in models for unit in plan_search(sweep, model, losses)[0]]
    if sweep.search.structure.trials:  # then they begin in the middle
        return trials
    steps = {(model, size.name): step for model in models for step, size in enumerate(sweep.sizes(model))}
    return sorted(trials, key=lambda unit: steps[unit.model, unit.size])


def curve_units(sweep: SweepConfig, found: Mapping[str, Mapping[str, Settings]]) -> list[Unit]:
    """Lists the curve units of all sizes whose settings are found.

    They are ordered by seed, then from small to large sizes, so a sweep that is stopped has whole curves of few seeds.
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
    """Returns the models that a shard searches, every `shards`-th model."""
    return list(models[shard::shards])


def shard_trials(units: Sequence[Unit], shard: int, shards: int) -> list[Unit]:
    """Returns the trials that a shard trains where shards share the search of each model."""
    return [unit for unit in units if sum(map(ord, str(unit.folder))) % shards == shard]


def shard_units(units: Sequence[Unit], shard: int, shards: int) -> list[Unit]:
    """Returns the curve units that a shard trains, which do not depend on the progress of the searches."""
    return [unit for unit in units if _number(unit) % shards == shard]


def _number(unit: Unit) -> int:
    """Hashes a unit; unlike `hash`, the result is the same on every machine and in every process."""
    return sum(map(ord, f"{unit.model} {unit.size} {unit.seed}"))
