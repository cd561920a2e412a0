"""Trials of a search: their records, and the decisions made with Optuna: the next point, and early stopping.

Both decisions are pure functions of the trials so far. Optuna's storages keep trials but not the random state of the
sampler, so a resumed search would continue differently. Here each suggestion has a separate random stream, derived from
the search's seed and the trial's number, and the trials are stored by `search.py`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import optuna

from lattice.sketch.objective import compute_objective
from lattice.sketch.space import ParameterRange, SearchOptions, Values

RUNNING: Final = "running"
COMPLETE: Final = "complete"
PRUNED: Final = "pruned"  # stopped early, or diverged
REFUSED: Final = "refused"  # never trained
_ATTEMPTS = 64  # if no draw among this many is a new point, the space counts as exhausted


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of the space and its results."""

    number: int  # 0: the hand-made run
    values: Mapping[str, Any]  # value of every searched key
    state: Literal["running", "complete", "pruned", "refused"]
    reason: str = ""  # why it was pruned or refused
    flops: float | None = None  # training FLOPs per example; None: the model refused the values
    dense_parameters: int | None = None
    milliseconds: float | None = None  # time of a predict step; None: not measured
    within_budget: bool = True  # only the hand-made run is also trained above the budget
    evaluations: tuple[tuple[Any, ...], ...] = ()  # (step, validation AUC) during training
    auc: float | None = None  # validation AUC of the checkpoint to evaluate
    test: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # test metrics; the search does not read them
    objective: float | None = None

    @property
    def was_trained(self) -> bool:
        """Whether the trial was trained, completely or in part."""
        return self.state in (COMPLETE, PRUNED)


def choose_best(trials: Sequence[Trial]) -> Trial | None:
    """Returns the complete trial with the highest objective within the budget, the earlier of equal ones, or None."""
    found = [trial for trial in trials if trial.state == COMPLETE and trial.within_budget]
    return max(found, key=lambda trial: (trial.objective, -trial.number), default=None)


def suggest_values(trials: Sequence[Trial], options: SearchOptions, number: int) -> Values | None:
    """Suggests the next point: random for `startup_trials`, then by a multivariate tree-structured Parzen estimator.

    Pruned points count as worse than all complete ones, and refused points as worse than all others, so that the
    sampler learns where the budget ends.

    Args:
      trials: finished trials.
      options: options of the search.
      number: number of the next trial.

    Returns:
      A point that has not been tried; None if 64 draws found none, since the space is exhausted.
    """
    tried = {_write_point(trial.values) for trial in trials}
    startup = options.startup_trials + sum(not trial.was_trained for trial in trials)
    distributions = {key: _build_distribution(options.space[key]) for key in options.space}
    study = _build_study(trials, options)
    for attempt in range(_ATTEMPTS):
        seed = int(np.random.SeedSequence((options.seed, number, attempt)).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=False
        )
        asked = study.ask(distributions)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # the sampler ignores failed trials
        values = {key: _read_parameter(options.space[key], asked.params[key]) for key in options.space}
        if _write_point(values) not in tried:
            return values
    return None


def is_hopeless(trials: Sequence[Trial], options: SearchOptions, flops: float, aucs: Sequence[Sequence[float]]) -> bool:
    """Returns whether a trial's best objective so far is below the median of complete trials at the same step.

    Args:
      trials: the earlier trials.
      options: options of the search.
      flops: training FLOPs per example of the trial.
      aucs: (step, validation AUC) of the trial so far.
    """
    study = _build_study(trials, options)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    asked = study.ask()
    for step, auc in aucs:
        asked.report(compute_objective(auc, flops, options.exponent), int(step))
    return asked.should_prune()


def _build_study(trials: Sequence[Trial], options: SearchOptions) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=options.startup_trials)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    distributions = {key: _build_distribution(options.space[key]) for key in options.space}
    for trial in trials:
        if trial.state == RUNNING:
            continue
        complete = trial.state == COMPLETE
        along = {
            int(step): compute_objective(auc, trial.flops or 0, options.exponent) for step, auc in trial.evaluations
        }
        study.add_trial(
            optuna.trial.create_trial(
                params={key: _write_parameter(options.space[key], value) for key, value in trial.values.items()},
                distributions=distributions,
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                value=trial.objective if complete else None,
                intermediate_values=along,
            )
        )
    return study


def _build_distribution(values: ParameterRange) -> optuna.distributions.BaseDistribution:
    if values.choices:
        return optuna.distributions.CategoricalDistribution([json.dumps(choice) for choice in values.choices])
    if values.is_whole:  # in units of the step, because Optuna does not combine log with step
        low, high = values.low // values.step, values.high // values.step
        return optuna.distributions.IntDistribution(low, high, log=values.log)
    return optuna.distributions.FloatDistribution(float(values.low), float(values.high), log=values.log)


def _write_parameter(values: ParameterRange, value: Any) -> Any:
    if values.choices:
        return json.dumps(value)
    return value // values.step if values.is_whole else float(value)


def _read_parameter(values: ParameterRange, parameter: Any) -> Any:
    if values.choices:
        return json.loads(parameter)
    return parameter * values.step if values.is_whole else parameter


def _write_point(values: Values) -> str:
    return json.dumps(values, sort_keys=True)
