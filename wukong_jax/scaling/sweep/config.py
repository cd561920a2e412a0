"""Configures a sweep: models, sizes, seeds, the hyperparameter search, and the training run that all units share."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from wukong_jax.config import DataConfig, RunConfig, build_run_config, start_config, without_unset
from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast
from wukong_jax.scaling.ladders.ladder import Ladder, Size
from wukong_jax.scaling.ladders.planted_ladders import find_ladder
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class Settings:
    """The searched hyperparameters: norm, scale and structure once for a model, the learning rate at every size."""

    rate: float  # factor on both learning rates of the sweep's run
    initial_scale: float  # standard deviation of the initial embeddings
    norm: str  # a name of the ladder's norms
    structure: tuple[tuple[str, str], ...] = ()  # (choice, alternative) of the ladder's structures, in their order
    weight_decay: float = 0.0  # decoupled, of the dense weights

    @property
    def name(self) -> str:
        """The settings as part of a folder name."""
        text = f"rate_{self.rate:g}_scale_{self.initial_scale:g}_norm_{self.norm}"
        if self.weight_decay:
            text += f"_decay_{self.weight_decay:g}"
        return "_".join([text, *(name for pair in self.structure for name in pair)]).replace(" ", "_")


@dataclasses.dataclass(frozen=True)
class StructureConfig:
    """The search over structures, norms, scales, weight decay and rates together, with as many trials for every model.

    The first trial is the ladder's usual structure, the next ones are drawn at random, then a multivariate
    tree-structured Parzen estimator suggests them (`sweep.suggest`). All run at one size in the middle of the ladder,
    with a seed that no reported mean contains. The best one's rate is then searched again at every size, on a grid that
    goes on, by factors of two, beyond the ends of `rates`.
    """

    trials: Annotated[int, AtLeast(0)] = 0  # for each model; 0: no such search
    size: str = ""  # the size of the trials, by name; models without it take the middle one of theirs
    at_once: Annotated[int, AtLeast(1)] = 1  # trials that are suggested from the same results, for as many shards
    seed: int = 1000  # of all trials; none of the sweep's seeds
    weight_decays: Annotated[tuple[float, ...], AtLeast(0)] = (0.0,)  # decoupled (AdamW); needs an Adam


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The hyperparameter search, which is the same for every model, by validation log loss of one seed.

    Without `structure.trials`, norm placement and initial scale are searched first, jointly, at the smallest size and
    rate 1, because they interact (a norm over the embeddings hides their scale). The rate is then searched at every
    size, starting from 1 at the smallest size and from the rate of the next smaller size at the others. The search
    moves along the grid, down and up, until two rates in a row are no better.
    """

    # factors on both learning rates, including 1
    rates: Annotated[tuple[float, ...], Above(0)] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    initial_scales: Annotated[tuple[float, ...], AtLeast(0)] = (0.02, 0.1)
    # steps per trial, with a shortened schedule; 0 for whole runs, which the curve uses as units, too
    steps: Annotated[int, AtLeast(0)] = 0
    structure: StructureConfig = dataclasses.field(default_factory=StructureConfig)

    def __post_init__(self) -> None:
        """Refuses grids that cannot be searched."""
        if 1.0 not in self.rates or len(set(self.rates)) != len(self.rates):
            raise UserError(f"rates = {list(self.rates)}: none twice, and 1 among them")
        if not self.initial_scales:
            raise UserError("initial_scales = []: one or more")
        if not self.structure.weight_decays:
            raise UserError("structure.weight_decays = []: one or more")
        idle = StructureConfig(trials=self.structure.trials)
        if not self.structure.trials and self.structure != idle:
            raise UserError("structure: its keys have no effect where structure.trials is 0; give a number of trials")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A sweep over models, sizes and seeds, with the same data and training configuration."""

    name: str
    data_name: str  # short name of the data, a column of the points
    generated: bool  # whether the rows come from a generator, which the report states
    models: Mapping[str, tuple[str, ...]]  # sizes by model; empty for all sizes of the ladder
    # A RunConfig as a mapping, without the keys that each unit sets: model, name, seed, and the metric that selects the
    # best state, which is always log loss.
    run: Mapping[str, Any]
    ladders: Literal["usual", "searched"] = "usual"  # see `scaling.ladders`
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for every model, such as its bottom MLP
    seeds: tuple[int, ...] = (0, 1, 2)
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)
    reference: str = ""  # the highlighted model, whose losses the others should match; empty for none
    baseline: str = ""  # the model whose smallest size is the baseline of the paper's form of a law; empty for no fits
    keep_checkpoints: bool = False  # keep the checkpoints of finished units, which the sweep does not need any more

    def __post_init__(self) -> None:
        """Checks models, sizes, options and seeds."""
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
        if self.search.structure.trials and self.search.structure.seed in self.seeds:
            raise UserError(
                f"search.structure.seed = {self.search.structure.seed}: is one of seeds, whose means must not contain "
                "the search's own runs; give another"
            )

    @property
    def search_seed(self) -> int:
        """The seed of all trials of the search."""
        structure = self.search.structure
        return structure.seed if structure.trials else self.seeds[0]

    def ladder(self, model: str) -> Ladder:
        """Returns the model's ladder."""
        return find_ladder(model, self.ladders)

    def sizes(self, model: str) -> tuple[Size, ...]:
        """Returns the model's sizes in this sweep, from small to large."""
        ladder, chosen = self.ladder(model), set(self.models[model])
        if unknown := sorted(chosen - {size.name for size in ladder.sizes}):
            names = ", ".join(size.name for size in ladder.sizes)
            raise UserError(f"models.{model}: no size {unknown[0]!r}; its ladder has {names}")
        return tuple(size for size in ladder.sizes if not chosen or size.name in chosen)

    def data_config(self) -> DataConfig:
        """Returns the data config of all units."""
        try:
            return build_dataclass(DataConfig, without_unset(self.run["data"]), "config.data").fill_in_options()
        except UserError as error:
            raise UserError(str(error).replace("config.data", "config.run.data")) from None

    def run_config(self, model: str, size: str, settings: Settings, seed: int, data: str) -> RunConfig:
        """Builds the run config of one unit, with the prepared rows in the folder `data`."""
        ladder, run = self.ladder(model), copy.deepcopy(dict(self.run))
        if settings.norm not in ladder.norms:
            raise UserError(f"norm {settings.norm!r}: {model} has {', '.join(ladder.norms)}")
        run["name"] = f"{model}, {size}"
        run["seed"] = seed
        run["training"] |= {"early_stop_metric": "log_loss"}  # curves use the state with the lowest log loss
        run["data"] |= {"factory": "blocks", "options": {}, "path": data, "schema": ""}
        run["model"] = {
            "factory": ladder.factory,
            "options": {
                **ladder.size(size).options,
                **ladder.norms[settings.norm],
                **ladder.structure_options(dict(settings.structure)),
                **self.options,
            },
        }
        if settings.weight_decay:
            _set_weight_decay(run["optimizer"], settings.weight_decay)
        run["embeddings"] |= {"width": ladder.width, "initial_scale": settings.initial_scale}
        run["optimizer"]["learning_rate"] *= settings.rate
        row_optimizer = dict(run["embeddings"]["optimizer"])
        row_optimizer["learning_rate"] *= settings.rate
        run["embeddings"]["optimizer"] = row_optimizer
        return build_run_config(run)


def _set_weight_decay(optimizer: dict[str, Any], weight_decay: float) -> None:
    """Turns Adam into AdamW, in place."""
    if optimizer.get("factory", "adam") not in ("adam", "adamw"):
        raise UserError(
            f"config.search.structure.weight_decays: {weight_decay} needs config.run.optimizer.factory = 'adam', not "
            f"{optimizer['factory']!r}"
        )
    optimizer["factory"] = "adamw"
    optimizer["options"] = {**(optimizer.get("options") or {}), "weight_decay": weight_decay}


def start_sweep_config() -> ConfigDict:
    """Returns a ConfigDict with the keys of a sweep for a config file to fill in; `run` comes from `start_config()`."""
    config = ConfigDict()
    config.name = placeholder(str)
    config.data_name = placeholder(str)
    config.generated = False
    config.models = ConfigDict()
    config.ladders = "usual"
    config.options = ConfigDict()
    config.seeds = (0, 1, 2)
    config.search = ConfigDict(dataclasses.asdict(SearchConfig()))
    config.reference = config.baseline = ""
    config.keep_checkpoints = False
    config.run = start_config()
    return config


def build_sweep_config(mapping: ConfigDict | Mapping[str, Any]) -> SweepConfig:
    """Builds a `SweepConfig` from the dict of a config file and checks it.

    Raises:
      UserError: a key of the sweep or of its runs is unknown or missing, or a value is invalid.
    """
    plain = mapping.to_dict() if isinstance(mapping, ConfigDict) else dict(mapping)
    for key in ("model", "name", "seed"):
        plain.get("run", {}).pop(key, None)  # set by each unit
    upgrade_config(plain.get("run", {}))
    sweep = build_dataclass(SweepConfig, plain, "config")
    for model in sweep.models:
        first = Settings(1.0, sweep.search.initial_scales[0], next(iter(sweep.ladder(model).norms)))
        sweep.run_config(model, sweep.sizes(model)[0].name, first, sweep.seeds[0], "rows")
    return sweep
