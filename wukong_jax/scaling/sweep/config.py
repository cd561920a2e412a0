"""The configuration of a sweep: which models at which sizes, with which seeds, searched over what, on which run."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from wukong_jax.config import DataConfig, RunConfig, build_run_config, start_config, without_unset
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast
from wukong_jax.scaling.ladders.ladder import Ladder, Size
from wukong_jax.scaling.ladders.planted_ladders import find_ladder
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is searched: norm and scale at a model's smallest size, the rate at every size."""

    rate: float  # factor on both learning rates of the sweep's run
    initial_scale: float  # standard deviation of the initial embeddings
    norm: str  # a name of the ladder's norms

    @property
    def name(self) -> str:
        """As part of a folder's name."""
        return f"rate_{self.rate:g}_scale_{self.initial_scale:g}_norm_{self.norm.replace(' ', '_')}"


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The same search for every model, by validation log loss of the first seed.

    First norm placement and initial scale together, at the smallest size and rate 1, since they decide each other's use
    (a norm over the embeddings hides their scale). Then the rate, by steps along the grid, down and up, until two in a
    row are no better: from 1 at the smallest size, from the rate of the size below at the others.
    """

    # factors on both learning rates; 1 among them
    rates: Annotated[tuple[float, ...], Above(0)] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    initial_scales: Annotated[tuple[float, ...], AtLeast(0)] = (0.02, 0.1)
    # each trial's, its schedule shortened to them; 0: a whole run, which then is the curve's own unit
    steps: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        """Refuses grids that cannot be searched."""
        if 1.0 not in self.rates or len(set(self.rates)) != len(self.rates):
            raise UserError(f"rates = {list(self.rates)}: none twice, and 1 among them")
        if not self.initial_scales:
            raise UserError("initial_scales = []: one or more")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A sweep: models x sizes x seeds over one run's data and training."""

    name: str
    data_name: str  # what the rows are, in a word or two: a column of the points
    generated: bool  # whether the rows come from a generator; the report says so
    models: Mapping[str, tuple[str, ...]]  # model -> names of its sizes; none: all
    # A RunConfig as a mapping, without what is a unit's own: model, name, seed, and the metric by which its best state
    # is chosen, which is log loss in all.
    run: Mapping[str, Any]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of every model, such as its bottom MLP's
    seeds: tuple[int, ...] = (0, 1, 2)
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    reference: str = ""  # the model drawn strongest, whose losses the others are to match; empty: none
    baseline: str = ""  # the model whose smallest size the paper's form of a law is relative to; empty: no such fits
    keep_checkpoints: bool = False  # of units that are done; nothing here reads them again

    def __post_init__(self) -> None:
        """Refuses unknown models, sizes and repeated seeds."""
        if not self.models:
            raise UserError("models = {}: name one or more")
        for key in ("reference", "baseline"):
            if (name := getattr(self, key)) and name not in self.models:
                raise UserError(f"{key} = {name!r}: not one of the sweep's models, {', '.join(self.models)}")
        for model in self.models:
            self.sizes(model)
            for norm, options in self.ladder(model).norms.items():
                if set_twice := set(options) & set(self.options):
                    name = min(set_twice)
                    raise UserError(f"options.{name}: {model}'s norm {norm!r} sets it, and is searched; leave it out")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds = {list(self.seeds)}: one or more, none twice")

    def ladder(self, model: str) -> Ladder:
        """The model's ladder."""
        return find_ladder(model)

    def sizes(self, model: str) -> tuple[Size, ...]:
        """The sizes that run, from small to large."""
        ladder, chosen = self.ladder(model), set(self.models[model])
        if unknown := sorted(chosen - {size.name for size in ladder.sizes}):
            names = ", ".join(size.name for size in ladder.sizes)
            raise UserError(f"models.{model}: no size {unknown[0]!r}; its ladder has {names}")
        return tuple(size for size in ladder.sizes if not chosen or size.name in chosen)

    def data_config(self) -> DataConfig:
        """Where the rows of all units come from."""
        return build_dataclass(DataConfig, without_unset(self.run["data"]), "config.run.data")

    def run_config(self, model: str, size: str, settings: Settings, seed: int, data: str) -> RunConfig:
        """The run of one unit, over rows that lie prepared in the folder `data`."""
        ladder, run = self.ladder(model), copy.deepcopy(dict(self.run))
        if settings.norm not in ladder.norms:
            raise UserError(f"norm {settings.norm!r}: {model} has {', '.join(ladder.norms)}")
        run["name"] = f"{model}, {size}"
        run["seed"] = seed
        run["training"] |= {"early_stop_metric": "log_loss"}  # the best state is the one that curves speak of
        sources = ("planted", "portfolios", "schema")
        run["data"] = {key: value for key, value in run["data"].items() if key not in sources}
        run["data"] |= {"format": "blocks", "path": data}
        run["model"] = {
            "factory": ladder.factory,
            "options": {**ladder.size(size).options, **ladder.norms[settings.norm], **self.options},
        }
        run["embeddings"] |= {"width": ladder.width, "initial_scale": settings.initial_scale}
        run["optimizer"]["learning_rate"] *= settings.rate
        row_optimizer = dict(run["embeddings"]["optimizer"])
        row_optimizer["learning_rate"] *= settings.rate
        run["embeddings"]["optimizer"] = row_optimizer
        return build_run_config(run)


def start_sweep_config() -> ConfigDict:
    """A ConfigDict with a sweep's keys, its `run` one of `start_config()`, for a config file to fill in."""
    config = ConfigDict()
    config.name = placeholder(str)
    config.data_name = placeholder(str)
    config.generated = False
    config.models = ConfigDict()
    config.options = ConfigDict()
    config.seeds = (0, 1, 2)
    config.search = ConfigDict(dataclasses.asdict(SearchConfig()))
    config.reference = config.baseline = ""
    config.keep_checkpoints = False
    config.run = start_config()
    return config


def build_sweep_config(mapping: ConfigDict | Mapping[str, Any]) -> SweepConfig:
    """Turns the dict of a config file into a checked `SweepConfig`.

    Raises:
      UserError: an unknown or missing key, a wrong type or a value out of range, of the sweep or of any of its runs.
    """
    plain = mapping.to_dict() if isinstance(mapping, ConfigDict) else dict(mapping)
    for key in ("model", "name", "seed"):
        plain.get("run", {}).pop(key, None)  # a unit's own
    sweep = build_dataclass(SweepConfig, plain, "config")
    for model in sweep.models:
        first = Settings(1.0, sweep.search.initial_scales[0], next(iter(sweep.ladder(model).norms)))
        sweep.run_config(model, sweep.sizes(model)[0].name, first, sweep.seeds[0], "rows")
    return sweep
