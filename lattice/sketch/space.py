"""Search space: ranges of a run's config keys, and the run config for a point of the space.

A search is a run's config with an additional section, `config.search`. Its `space` names keys of the run by dotted
names, or nested as in the run; a number in a name is an index into a list (`model.options.head_hidden.0`).
"""

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lattice.sketch.objective import EXPONENT, Budget
from wukong_jax.config import RunConfig, build_run_config, start_config, without_unset
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast, Inside
from wukong_jax.strict_mapping import build_dataclass, to_mapping

Values = Mapping[str, Any]  # dotted key -> value, of every searched key


@dataclasses.dataclass(frozen=True)
class ParameterRange:
    """The values of one key: numbers from `low` to `high`, both included, or one of `choices`."""

    low: Any = None  # values are integers if low and high are
    high: Any = None
    step: int = 1  # integers only: values are multiples of it, such as widths that suit matrix units
    log: bool = False  # drawn uniformly in the logarithm
    choices: tuple[Any, ...] = ()  # values of any type, including lists
    also: tuple[str, ...] = ()  # other keys that take the same value

    def __post_init__(self) -> None:
        """Refuses ranges that are empty or contradictory."""
        if self.choices:
            if self.low is not None or self.high is not None or self.log or self.step != 1:
                raise UserError("choices: have no low, high, step or log; leave out one or the other")
            if len({json.dumps(choice) for choice in self.choices}) != len(self.choices):
                raise UserError(f"choices = {list(self.choices)}: none twice")
            return
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{name} = {value!r}: expected a number, or give choices")
        if not self.low < self.high:
            raise UserError(f"low = {self.low}: must be below high = {self.high}")
        if self.log and self.low <= 0:
            raise UserError(f"low = {self.low}: above 0 with log")
        if self.step != 1 and not self.is_whole:
            raise UserError(f"step = {self.step}: only for whole numbers; low and high are {self.low} and {self.high}")
        if self.step < 1 or (self.is_whole and (self.low % self.step or self.high % self.step)):
            raise UserError(f"step = {self.step}: at least 1, and low = {self.low} and high = {self.high} multiples")

    @property
    def is_whole(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def explain_outside(self, value: Any) -> str:
        """Returns a message why a value is not in the range; empty if it is."""
        if self.choices:
            named = [json.dumps(choice) for choice in self.choices]
            return "" if json.dumps(value) in named else f"not one of {', '.join(named)}"
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return f"expected a {'whole ' if self.is_whole else ''}number"
        if not self.low <= value <= self.high:
            return f"outside {self.low} to {self.high}"
        return f"no multiple of {self.step}" if self.is_whole and value % self.step else ""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """`config.search`: the space, the number of trials and the budget of a search."""

    space: Mapping[str, ParameterRange]
    trials: Annotated[int, AtLeast(1)] = 20  # number of trained models, including the hand-made one and stopped ones
    seed: int = 0  # of the suggestions
    # random trials before the sampler learns, and complete trials before early stopping
    startup_trials: Annotated[int, AtLeast(1)] = 5
    # shares of the steps at which a trial may be stopped; empty: never
    rungs: Annotated[tuple[float, ...], Inside(0, 1)] = (0.25, 0.5)
    # which trials are stopped there: below the median of others, or unable to win by a fitted curve; see `forecast`
    pruning: Literal["median", "curve"] = "median"
    exponent: Annotated[float, AtLeast(0)] = EXPONENT  # of FLOPs in the objective
    budget_flops: Annotated[float | None, Above(0)] = None  # training FLOPs per example
    budget_milliseconds: Annotated[float | None, Above(0)] = None  # time of a predict step
    latency_rows: Annotated[int, AtLeast(1)] = 512  # batch size of the timed predict step
    latency_repeats: Annotated[int, AtLeast(1)] = 15  # number of timings; their median counts

    def __post_init__(self) -> None:
        """Refuses an empty space, and rules and timings that have no effect."""
        if not self.space:
            raise UserError("space = {}: name one or more keys of the run, with low and high or with choices")
        if self.pruning != "median" and not self.rungs:
            raise UserError(f"pruning = {self.pruning!r}: no trial is stopped without rungs; give some, as (0.5,)")
        if self.budget_milliseconds is None:
            for name in ("latency_rows", "latency_repeats"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    value = getattr(self, name)
                    raise UserError(f"{name} = {value}: nothing is timed without budget_milliseconds; leave it out")

    @property
    def budget(self) -> Budget:
        """Limits on the cost of a model."""
        return Budget(self.budget_flops, self.budget_milliseconds)


@dataclasses.dataclass(frozen=True)
class SketchConfig:
    """A search: the hand-made run, and the options of the search."""

    run: Mapping[str, Any]  # a RunConfig as a JSON mapping with all defaults filled in
    search: SearchOptions

    @property
    def hand_made(self) -> Values:
        """Values of the searched keys in the hand-made run."""
        return {key: _read_key(self.run, key) for key in self.search.space}

    def build_run(self, values: Values, data: str | None = None) -> RunConfig:
        """Builds the run config at a point of the space.

        Args:
          values: value of every searched key.
          data: folder of row blocks to read instead of the data in the config; None: keep the config's data.

        Raises:
          UserError: the config refuses a value.
        """
        mapping = copy.deepcopy(dict(self.run))
        for key, value in values.items():
            for name in (key, *self.search.space[key].also):
                _write_key(mapping, name, copy.deepcopy(value))
        if data is not None:
            mapping["data"] |= {"factory": "blocks", "options": {}, "path": data, "schema": ""}
        return build_run_config(mapping)


def start_sketch_config() -> ConfigDict:
    """Returns a run's ConfigDict with a `search` section, for a config file to fill in."""
    config = start_config()
    defaults = {field.name: field.default for field in dataclasses.fields(SearchOptions) if field.name != "space"}
    budgets = {"budget_flops": placeholder(float), "budget_milliseconds": placeholder(float)}
    config.search = ConfigDict({**defaults, **budgets, "space": ConfigDict()})
    return config


def build_sketch_config(mapping: ConfigDict | Mapping[str, Any]) -> SketchConfig:
    """Builds a checked `SketchConfig` from the dict of a config file.

    Raises:
      UserError: an unknown key, a wrong type or a value out of range, in the run or in the search; a searched key that
        the run does not set; a hand-made value outside its range.
    """
    plain = dict(mapping.to_dict() if isinstance(mapping, ConfigDict) else mapping)
    if "search" not in plain:
        raise UserError("config.search: missing; add what is searched, as in lattice/sketch_small")
    search = without_unset(plain.pop("search"))
    # Sorted, because suggestions must not depend on the order of keys in the config file.
    search["space"] = dict(sorted(_flatten_space(search.get("space", {})).items()))
    options = build_dataclass(SearchOptions, search, "config.search")
    run = json.loads(json.dumps(to_mapping(build_run_config(plain))))
    config = SketchConfig(run, options)
    _check_space(config)
    return config


def _flatten_space(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens dotted or nested names to dotted keys; a mapping is a range if empty or with low, high or choices."""
    flat: dict[str, Any] = {}
    for name, node in space.items():
        if isinstance(node, Mapping) and node and not {"low", "high", "choices"} & node.keys():
            flat |= _flatten_space(node, f"{prefix}{name}.")
        else:
            flat[prefix + name] = node
    return flat


def _check_space(config: SketchConfig) -> None:
    seen: set[str] = set()
    for key, values in config.search.space.items():
        where = f"config.search.space.{key}"
        if key.partition(".")[0] in ("data", "name", "reference_run"):
            raise UserError(f"{where}: every trial reads the same rows under one name; leave it out")
        hand_made = _read_key(config.run, key)
        outside = values.explain_outside(hand_made)
        if outside:
            fix = "the hand-made run is the first trial; widen the range or change config." + key
            raise UserError(f"{where}: the run has {hand_made!r}, {outside}; {fix}")
        for name in values.also:
            if _read_key(config.run, name) != hand_made:
                other = _read_key(config.run, name)
                raise UserError(
                    f"{where}.also: the run has {hand_made!r} there and {name} = {other!r}; make them equal"
                )
        twice = seen & {key, *values.also}
        if twice:
            raise UserError(f"{where}: {sorted(twice)[0]} is searched twice; leave one out")
        seen |= {key, *values.also}


def _read_key(mapping: Any, key: str) -> Any:
    node = mapping
    for name in key.split("."):
        try:
            node = node[int(name)] if isinstance(node, list) else node[name]
        except (KeyError, IndexError, TypeError, ValueError):
            node = None
        if node is None:
            fix = "set it in the run to its hand-made value"
            raise UserError(f"config.search.space.{key}: config.{key} is not set; {fix}")
    return node


def _write_key(mapping: dict[str, Any], key: str, value: Any) -> None:
    """Sets an existing key."""
    *path, last = key.split(".")
    node: Any = mapping
    for name in path:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[int(last) if isinstance(node, list) else last] = value
