"""Defines the config of a run, `RunConfig`, and builds it from config files.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict`; `config_files.py` finds and runs it.
`build_run_config` converts it to a frozen `RunConfig` and checks every key; all other code reads only the `RunConfig`.
The settings of tables are defined in `embeddings/layout.py`, the options of a part next to its factory, and all others
in this module.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.embeddings.layout import EmbeddingsConfig
from wukong_jax.errors import UserError
from wukong_jax.factories import Part, check_factory_name
from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import Above, AtLeast, Between, Range
from wukong_jax.strict_mapping import build_dataclass, list_changes, to_mapping

if TYPE_CHECKING:  # not at run time, because it imports all readers
    from wukong_jax.data.sources import RowSource

# Short names of the built-in data sources and optimizers.
SOURCES = {
    name: f"wukong_jax.data.sources:build_{name}" for name in ("raw", "blocks", "planted_clicks", "planted_portfolios")
}
OPTIMIZERS = {name: f"wukong_jax.training.optimizers:build_{name}" for name in ("adam", "adamw", "adagrad", "sgd")}
Count = Annotated[int, AtLeast(1)]
CountOrZero = Annotated[int, AtLeast(0)]


@dataclasses.dataclass(frozen=True)
class DataConfig(Part):
    """The data source and how its rows are read.

    The factory is "raw", "blocks", "planted_clicks", "planted_portfolios" (`data/sources.py`), or one of another
    package, called as build(options, path, schema).
    """

    path: str = ""  # raw: a file or folder; blocks: the output folder of wukong-jax prepare_data
    schema: str = ""  # raw: name of a built-in schema, or a JSON file
    join: Part = dataclasses.field(default_factory=Part)  # joins extras to rows, called as build(options, schema)
    shuffle: bool = True  # False: read training rows in the order they were written, such as a log in event time
    window_rows: Count = 131_072  # rows shuffled together; more rows shuffle better and need more host memory
    # parts of the training rows that a batch takes equally many rows of, so that each process reads its own parts only:
    # a multiple of the number of devices that divides the batch size
    lanes: Count = 1
    reader_threads: Count = 2  # threads that read and shuffle blocks

    def __post_init__(self) -> None:
        """Rejects lanes of rows that keep their order."""
        super().__post_init__()
        refuse_idle(self, "lanes", not self.shuffle, "with shuffle = False")

    def build_source(self) -> "RowSource":
        """Builds the data source.

        Raises:
          UserError: the factory cannot be imported, or rejects its options, path or schema.
        """
        return self.build("config.data", self.path, self.schema, short_names=SOURCES)

    def fill_in_options(self) -> "DataConfig":
        """Returns the same config with all options of the source, including defaults; raises the source's errors."""
        return dataclasses.replace(self, options=self.build_source().options)

    def read_blocks(self, folder: object) -> "DataConfig":
        """Returns the same config, but reading the row blocks in a folder."""
        return dataclasses.replace(self, factory="blocks", options={}, path=str(folder), schema="")


@dataclasses.dataclass(frozen=True)
class ModelConfig(Part):
    """The dense model, called as build(options, shape)."""

    factory: str = "wukong_jax.models.wukong:build"


@dataclasses.dataclass(frozen=True)
class ExchangeConfig(Part):
    """The exchange between tables and batch, called as build(options, layout, mesh, model)."""

    factory: str = "wukong_jax.embeddings.flat_exchange:build"


@dataclasses.dataclass(frozen=True)
class LossConfig(Part):
    """The loss that training minimises, called as build(options, schema)."""

    factory: str = "wukong_jax.training.loss:build"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Part):
    """The optimizer of dense weights, and the learning-rate schedule of dense weights and tables.

    The factory is "adam", "adamw", "adagrad", "sgd" (`training/optimizers.py`); an Optax function such as "optax:lion",
    with its arguments as options; or one of another package, called as build(options, learning_rate).
    """

    factory: str = "adam"
    learning_rate: Annotated[float, Above(0)] = 1e-3
    clip_norm: Annotated[float, Above(0)] | None = None  # global norm of the dense gradient; None: no clipping
    warmup_steps: CountOrZero = 0  # steps of linear warm-up, from 1 / warmup_steps of the learning rate
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    hold_steps: CountOrZero = 0  # linear, cosine: steps at the full rate between warm-up and decay
    decay_steps: CountOrZero = 0  # linear, cosine: steps of the decay
    final_fraction: Annotated[float, Between(0, 1)] = 0.0  # linear, cosine: fraction of the rate after the decay

    def __post_init__(self) -> None:
        """Rejects settings that the schedule would ignore."""
        super().__post_init__()
        if (self.schedule == "constant") != (self.decay_steps == 0):
            raise UserError(
                f"decay_steps = {self.decay_steps}: above 0 with schedule linear or cosine, 0 with constant"
            )
        if self.hold_steps and self.schedule == "constant":
            raise UserError(f"hold_steps = {self.hold_steps}: a constant schedule needs no hold_steps; leave it out")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training loop: length, batch sizes, evaluation, early stopping and checkpoints."""

    batch_size: Count  # B, rows of a global batch
    steps: Count | None = None  # number of steps; None: only `epochs` counts
    epochs: Count | None = None  # passes over the training rows; None: only `steps` counts
    # logits start at the log odds of the training labels, by domain and objective; False: near 0, a probability of 1/2
    start_at_rate: bool = True
    # rows of a microbatch on each device; 0: the whole batch at once; None: on CPUs, as many as stay in the cache
    microbatch: CountOrZero | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # dtype of the dense model's matrix products
    remat: bool = False  # compute each layer's activations again in the backward pass instead of keeping them
    log_every_steps: Count = 100
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = 2
    evaluate_every_steps: CountOrZero = 0  # steps between validations; 0: at the end of each epoch
    evaluation_batch_size: Count = 8192
    early_stop_metric: Literal["auc", "log_loss", "normalized_entropy"] = "auc"  # also chooses the best state
    early_stop_patience: CountOrZero = 0  # evaluations without improvement before stopping; 0: never stop early
    # factor on learning rates after each evaluation without improvement; 1: no change
    plateau_factor: Annotated[float, Range(0, 1, includes_low=False)] = 1.0
    minimum_improvement: float = 0.0  # an evaluation must be better by more than this to count
    exact_auc_rows: int = 20_000_000  # splits with more rows get the binned AUC and its error bound
    # seconds: where several processes train together, one without a sign of going on for so long ends all
    stall_limit: Annotated[float, Above(0)] = 120.0
    profile_first_step: CountOrZero = 0  # first step of the profiler trace
    profile_steps: CountOrZero = 0  # steps in the profiler trace; 0: no trace
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()  # experiment trackers; need the extra of that name

    def __post_init__(self) -> None:
        """Checks that `steps` or `epochs` ends the run."""
        if self.steps is None and self.epochs is None:
            raise UserError("steps = None: give steps or epochs, or the run has no end")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh with axes ("host", "chip"); the batch is sharded over both."""

    hosts: Count = 1  # groups of chips that share a fast link; 1 with `chips` 0: see `count_hosts`
    chips: CountOrZero = 0  # chips per host; 0: all devices divided by `hosts`
    # FSDP, dense weights and their optimizer state split over the chips of a host, or over all chips; none: copies
    fsdp: Literal["none", "chips", "all"] = "none"
    fsdp_min_size: Count = 1 << 18  # weights of fewer numbers are not split: a copy costs less than gathering them
    # dtype in which the gradients of dense and tower weights are sent and added up between devices
    reduce_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Rejects a limit that nothing is compared with."""
        refuse_idle(self, "fsdp_min_size", self.fsdp == "none", "without fsdp")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The complete config of a run."""

    name: str
    data: DataConfig
    embeddings: EmbeddingsConfig
    training: TrainingConfig
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    exchange: ExchangeConfig = dataclasses.field(default_factory=ExchangeConfig)
    seed: int = 0  # seed of weights, tables, dropout and the order of rows
    reference_run: str = ""  # folder of a finished run whose test metrics are shown for comparison
    warm_start: str = ""  # folder or URL of a run whose tables (rows by value) and dense weights a new run starts with
    warm_start_optimizer: bool = False  # also take the state of its optimizers

    def __post_init__(self) -> None:
        """Rejects optimizer state of no run."""
        refuse_idle(self, "warm_start_optimizer", not self.warm_start, "without warm_start")


# Keys that may change when a run is resumed, because they do not affect what a step computes.
CHANGEABLE_KEYS = (
    "name",
    "data.path",
    "data.reader_threads",
    "mesh.",
    "embeddings.bags",  # only the order of additions changes
    "embeddings.sequences",
    "exchange.",
    "reference_run",
    "training.steps",
    "training.epochs",
    "training.early_stop_patience",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "training.evaluate_every_steps",
    "training.evaluation_batch_size",
    "training.exact_auc_rows",
    "training.profile_first_step",
    "training.profile_steps",
    "training.stall_limit",
    "training.microbatch",  # as with the mesh, only the order of additions changes (batch norms: moments of a part)
    "training.remat",
    "training.trackers",
)


def start_config() -> ConfigDict:
    """Returns a ConfigDict with the defaults of all keys, to be filled in by a config file and overridden by flags.

    Keys without a default are unset. A config file adds the keys of `options` (of `data`, `data.join`, `model`, `loss`,
    `exchange`, `optimizer`) and of `embeddings.fields`.
    """
    return _defaults_of(RunConfig)


def _defaults_of(cls: Any) -> ConfigDict:
    config = ConfigDict()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            config[field.name] = _defaults_of(hint)
        elif typing.get_origin(hint) is Mapping:
            config[field.name] = ConfigDict()
        elif field.default is None or field.default is dataclasses.MISSING:
            kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
            if not dataclasses.is_dataclass(kinds[0]):
                config[field.name] = placeholder(kinds[0] if isinstance(kinds[0], type) else str)
        else:
            config[field.name] = field.default
    return config


def build_run_config(mapping: ConfigDict | Mapping[str, Any]) -> RunConfig:
    """Builds a checked `RunConfig` from the dict of a config file.

    Raises:
      UserError: a key is unknown or missing, or a value has a wrong type or is out of range; the message names the key.
    """
    plain = without_unset(mapping.to_dict() if isinstance(mapping, ConfigDict) else mapping)
    upgrade_config(plain)
    config = build_dataclass(RunConfig, plain, "config")
    return dataclasses.replace(config, data=config.data.fill_in_options())


def check_factory_names(config: RunConfig) -> None:
    """Checks, within `known_factories_only`, the factories of all parts, also of parts that will not be built.

    Raises:
      UserError: a factory is of an unknown package.
    """
    for name in ("model", "loss", "exchange"):
        check_factory_name(f"config.{name}.factory", getattr(config, name).factory)
    check_factory_name("config.data.join.factory", config.data.join.factory)
    check_factory_name("config.data.factory", config.data.factory, SOURCES)
    check_factory_name("config.optimizer.factory", config.optimizer.factory, OPTIMIZERS)


def run_config_to_json(config: RunConfig) -> str:
    """Returns the config as JSON text, which `build_run_config(json.loads(text))` reads."""
    return json.dumps(to_mapping(config), indent=1) + "\n"


def describe_changeable_keys() -> str:
    """Lists the keys that may change when a run is resumed, as a part of a one-line message."""
    return "these may change in a run's folder: " + ", ".join(
        f"{key}*" if key.endswith(".") else key for key in CHANGEABLE_KEYS
    )


def compare_run_configs(
    old: RunConfig, new: RunConfig
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Compares the config of a run folder with a new one that is to resume the run.

    Returns:
      (allowed changes, refused changes), each as dotted key -> (old value, new value).
    """
    changes = list_changes(old, new)
    allowed = {key: pair for key, pair in changes.items() if key.startswith(CHANGEABLE_KEYS)}
    return allowed, {key: pair for key, pair in changes.items() if key not in allowed}


def stretch_schedule(config: RunConfig, share: float) -> RunConfig:
    """Scales the steps of the schedule by `share`, for the same number of epochs over `share` times the rows."""
    optimizer = config.optimizer
    steps = {
        name: max(1, round(getattr(optimizer, name) * share))
        for name in ("warmup_steps", "hold_steps", "decay_steps")
        if getattr(optimizer, name)
    }
    return dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, **steps))


def without_unset(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Drops keys that are None (unset placeholders), so that they are reported as missing."""
    kept = {key: value for key, value in mapping.items() if value is not None}
    return {key: without_unset(value) if isinstance(value, Mapping) else value for key, value in kept.items()}
