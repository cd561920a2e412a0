"""Suggests the trials of a search over structures with Optuna, by a pure function of the trials so far."""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Mapping, Sequence

from wukong_jax.errors import UserError
from wukong_jax.scaling.sweep.config import Settings

STARTUP_TRIALS = 8  # drawn at random before the estimator has something to learn from
_ATTEMPTS = 64  # draws of the estimator; after that, the first point that has not been tried


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """What a search may choose; the first of each, and rate 1, are the usual."""

    rates: tuple[float, ...]  # ascending, 1 among them
    initial_scales: tuple[float, ...]
    weight_decays: tuple[float, ...]
    norms: tuple[str, ...]
    structures: tuple[tuple[str, tuple[str, ...]], ...]  # (choice, its alternatives)

    @property
    def points(self) -> int:
        """Number of different settings."""
        return math.prod(len(values) for values in self._values().values())

    def settings(self, places: Mapping[str, int]) -> Settings:
        """Returns the settings at the given place of each parameter."""
        return Settings(
            self.rates[places["rate"]],
            self.initial_scales[places["initial scale"]],
            self.norms[places["norm"]],
            tuple((choice, names[places[f"structure {choice}"]]) for choice, names in self.structures),
            self.weight_decays[places["weight decay"]],
        )

    def places(self, settings: Settings) -> dict[str, int]:
        """Inverts `settings`."""
        places = {
            "rate": self.rates.index(settings.rate),
            "initial scale": self.initial_scales.index(settings.initial_scale),
            "weight decay": self.weight_decays.index(settings.weight_decay),
            "norm": self.norms.index(settings.norm),
        }
        chosen = dict(settings.structure)
        return places | {f"structure {choice}": names.index(chosen[choice]) for choice, names in self.structures}

    def usual(self) -> Settings:
        """Returns the settings of the first trial."""
        return self.settings(dict.fromkeys(self._values(), 0) | {"rate": self.rates.index(1.0)})

    def ordered(self) -> dict[str, int]:
        """Returns the number of values of each parameter whose values have an order."""
        return {name: len(values) for name, values in self._values().items() if name in _ORDERED}

    def unordered(self) -> dict[str, int]:
        """Returns the number of values of the other parameters."""
        return {name: len(values) for name, values in self._values().items() if name not in _ORDERED}

    def _values(self) -> dict[str, Sequence[object]]:
        return {
            "rate": self.rates,
            "initial scale": self.initial_scales,
            "weight decay": self.weight_decays,
            "norm": self.norms,
            **{f"structure {choice}": names for choice, names in self.structures},
        }


def check_optuna() -> None:
    """Raises UserError if Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("config.search.structure.trials: needs Optuna; pip install 'wukong-jax[search]'")


_ORDERED = ("rate", "initial scale", "weight decay")


@functools.cache  # a sweep plans all its trials anew for each unit that it trains
def suggest_settings(
    space: SearchSpace, ended: tuple[tuple[Settings, float], ...], tried: tuple[Settings, ...], seed: int, number: int
) -> Settings:
    """Suggests a trial: the usual settings, then random ones, then by a tree-structured Parzen estimator.

    Args:
      space: what may be chosen; fewer points than `tried` are not allowed.
      ended: settings and validation losses of the trials to learn from; a diverged one has an infinite loss, and counts
        as worse than all others.
      tried: settings that must not be suggested again, those of `ended` among them.
      seed: the search's seed. Each number has a random stream of its own, so that a search that goes on draws the same.
      number: number of the trial, from 0.

    Returns:
      Settings that are not among `tried`.
    """
    import numpy as np
    import optuna

    if not tried:
        return space.usual()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.IntDistribution(0, size - 1) for name, size in space.ordered().items()
    }
    ranges |= {
        name: optuna.distributions.CategoricalDistribution(range(size)) for name, size in space.unordered().items()
    }
    study = optuna.create_study(direction="minimize")
    for settings, loss in ended:
        finite = math.isfinite(loss)
        state = optuna.trial.TrialState.COMPLETE if finite else optuna.trial.TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(
                params=space.places(settings), distributions=ranges, state=state, value=loss if finite else None
            )
        )
    for attempt in range(_ATTEMPTS):
        stream = int(np.random.SeedSequence((seed, number, attempt)).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=stream, n_startup_trials=STARTUP_TRIALS, multivariate=True)
        asked = study.ask(ranges)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # which the sampler ignores
        suggested = space.settings(asked.params)
        if suggested not in tried:
            return suggested
    return _first_untried(space, tried)


def _first_untried(space: SearchSpace, tried: Sequence[Settings]) -> Settings:
    sizes = space.ordered() | space.unordered()
    for number in range(space.points):
        places = {}
        for name, size in sizes.items():
            number, places[name] = divmod(number, size)
        if (settings := space.settings(places)) not in tried:
            return settings
    raise ValueError(f"all {space.points} points were tried")
