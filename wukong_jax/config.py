"""The configuration of a run: one frozen dataclass, and the only reader of ml_collections dicts.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict` (`config_files.py` finds and runs it);
`build_run_config` turns it into a `RunConfig` once, checking every key. After that nobody reads a raw dict. The
settings of tables stand in `embeddings/layout.py`, the options of a part beside its factory; the rest and the root
stand here.
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
from wukong_jax.factories import Part
from wukong_jax.ranges import Above, AtLeast, Between, Range
from wukong_jax.strict_mapping import build_dataclass, list_changes, to_mapping

if TYPE_CHECKING:  # it imports every reader, which a config needs only when it names one
    from wukong_jax.data.sources import RowSource

# Short names of the built-in data sources and optimizers.
SOURCES = {
    name: f"wukong_jax.data.sources:build_{name}" for name in ("raw", "blocks", "planted_clicks", "planted_portfolios")
}
OPTIMIZERS = {name: f"wukong_jax.training.optimizers:build_{name}" for name in ("adam", "adamw", "adagrad", "sgd")}
Count = Annotated[int, AtLeast(1)]
CountOrNone = Annotated[int, AtLeast(0)]


@dataclasses.dataclass(frozen=True)
class DataConfig(Part):
    """Where the rows come from, called as build(options, path, schema), and how they are read.

    The factory is "raw", "blocks", "planted_clicks", "planted_portfolios" (`data/sources.py`), or one from elsewhere.
    """

    path: str = ""  # raw: a file or folder; blocks: the output folder of wukong-jax prepare_data
    schema: str = ""  # raw: a built-in schema's name, or a JSON file
    join: Part = dataclasses.field(default_factory=Part)  # what is joined to rows, called as build(options, schema)
    shuffle: bool = True  # False: training rows come in the order they were written, as from a log in event time
    window_rows: Count = 131_072  # rows shuffled together; more is a better shuffle and more host memory
    reader_threads: Count = 2  # threads that read and shuffle blocks

    def build_source(self) -> "RowSource":
        """The rows' source.

        Raises:
          UserError: the factory cannot be imported, or refuses its options, path or schema.
        """
        return self.build("config.data", self.path, self.schema, short_names=SOURCES)

    def fill_in_options(self) -> "DataConfig":
        """The same with every option of the source at its value; refuses what the source refuses."""
        return dataclasses.replace(self, options=self.build_source().options)

    def read_blocks(self, folder: object) -> "DataConfig":
        """The same with the rows that lie prepared in a folder."""
        return dataclasses.replace(self, factory="blocks", options={}, path=str(folder), schema="")


@dataclasses.dataclass(frozen=True)
class ModelConfig(Part):
    """Which dense model, called as build(options, shape)."""

    factory: str = "wukong_jax.models.wukong:build"


@dataclasses.dataclass(frozen=True)
class ExchangeConfig(Part):
    """How embeddings travel between the tables' devices and the batch's; build(options, layout, mesh, model)."""

    factory: str = "wukong_jax.embeddings.flat_exchange:build"


@dataclasses.dataclass(frozen=True)
class LossConfig(Part):
    """What a step minimises, called as build(options, schema)."""

    factory: str = "wukong_jax.training.loss:build"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Part):
    """The dense optimizer, and the schedule that scales the learning rate of dense weights and tables alike.

    The factory is "adam", "adamw", "adagrad", "sgd" (`training/optimizers.py`), one of optax, as "optax:lion" with the
    function's arguments as options, or one from elsewhere, called as build(options, learning_rate).
    """

    factory: str = "adam"
    learning_rate: Annotated[float, Above(0)] = 1e-3
    clip_norm: Annotated[float, Above(0)] | None = None  # global norm of the dense gradient; None: no clipping
    warmup_steps: CountOrNone = 0  # linear, from 1 / warmup_steps
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    hold_steps: CountOrNone = 0  # linear, cosine: steps at the full rate between warm-up and decay
    decay_steps: CountOrNone = 0  # linear, cosine: steps from there to the final fraction
    final_fraction: Annotated[float, Between(0, 1)] = 0.0  # linear, cosine: of the learning rate, after decay_steps

    def __post_init__(self) -> None:
        """Refuses settings that the chosen schedule would ignore."""
        super().__post_init__()
        if (self.schedule == "constant") != (self.decay_steps == 0):
            raise UserError(
                f"decay_steps = {self.decay_steps}: above 0 with schedule linear or cosine, 0 with constant"
            )
        if self.hold_steps and self.schedule == "constant":
            raise UserError(f"hold_steps = {self.hold_steps}: a constant schedule holds for ever; leave it out")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in what batches, and what is kept on the way."""

    batch_size: Count  # B, rows of a global batch
    steps: Count | None = None  # stop after so many steps; None: after `epochs`
    epochs: Count | None = None  # stop after so many passes over the training rows; None: after `steps`
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the dense model's products
    log_every_steps: Count = 100
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = 2
    evaluate_every_steps: CountOrNone = 0  # validation; 0: at the end of each epoch
    evaluation_batch_size: Count = 8192
    early_stop_metric: Literal["auc", "log_loss", "normalized_entropy"] = "auc"  # also chooses the best state
    early_stop_patience: CountOrNone = 0  # evaluations without improvement before stopping; 0: never stop early
    # learning rates are multiplied by it when an evaluation does not improve; 1: never
    plateau_factor: Annotated[float, Range(0, 1, includes_low=False)] = 1.0
    minimum_improvement: float = 0.0  # an evaluation must be better by more than this to count
    exact_auc_rows: int = 20_000_000  # splits with more rows get the binned AUC and its error bound
    profile_first_step: CountOrNone = 0  # write a profiler trace of `profile_steps` steps from this one
    profile_steps: CountOrNone = 0  # 0: no trace
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()  # who else is told of the run; extras of that name

    def __post_init__(self) -> None:
        """Checks that the run has an end."""
        if self.steps is None and self.epochs is None:
            raise UserError("steps = None: give steps or epochs, or the run has no end")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh ("host", "chip"); the batch is split over both axes."""

    hosts: Count = 1  # groups of chips that share the fast link
    chips: CountOrNone = 0  # chips per host; 0: all local devices divided by `hosts`


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    name: str
    data: DataConfig
    embeddings: EmbeddingsConfig
    training: TrainingConfig
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    exchange: ExchangeConfig = dataclasses.field(default_factory=ExchangeConfig)
    seed: int = 0  # of weights, tables, dropout and the order of the rows
    reference_run: str = ""  # folder of a finished run whose test metrics are shown beside this one's


# Keys that may differ when a run folder is continued: they do not touch the mathematics of a step.
CHANGEABLE_KEYS = (
    "name",
    "data.path",
    "data.reader_threads",
    "mesh.",
    "exchange.",
    "reference_run",
    "training.steps",
    "training.epochs",
    "training.log_every_steps",
    "training.checkpoint_every_steps",
    "training.keep_checkpoints",
    "training.evaluate_every_steps",
    "training.evaluation_batch_size",
    "training.exact_auc_rows",
    "training.profile_first_step",
    "training.profile_steps",
    "training.trackers",
)


def start_config() -> ConfigDict:
    """A ConfigDict with every key at its default, for a config file to fill in and flags to override.

    Keys without a default are empty until the file sets them. The keys inside `options` (of `data`, `data.join`,
    `model`, `loss`, `exchange`, `optimizer`) and of `embeddings.fields` are the file's to name.
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
    """Turns the dict of a config file into a checked `RunConfig`.

    Raises:
      UserError: an unknown or missing key, a wrong type or a value out of range, by the key's full name.
    """
    plain = without_unset(mapping.to_dict() if isinstance(mapping, ConfigDict) else mapping)
    upgrade_config(plain)
    config = build_dataclass(RunConfig, plain, "config")
    return dataclasses.replace(config, data=config.data.fill_in_options())


def run_config_to_json(config: RunConfig) -> str:
    """The config as JSON text; `build_run_config(json.loads(text))` gives it back."""
    return json.dumps(to_mapping(config), indent=1) + "\n"


def compare_run_configs(
    old: RunConfig, new: RunConfig
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """What changed between the config of a run folder and the one given to continue it.

    Returns:
      (allowed, refused): dotted key -> (old value, new value).
    """
    changes = list_changes(old, new)
    allowed = {key: pair for key, pair in changes.items() if key.startswith(CHANGEABLE_KEYS)}
    return allowed, {key: pair for key, pair in changes.items() if key not in allowed}


def stretch_schedule(config: RunConfig, share: float) -> RunConfig:
    """The same schedule over `share` times the rows: as many epochs have so many times the steps."""
    optimizer = config.optimizer
    steps = {
        name: max(1, round(getattr(optimizer, name) * share))
        for name in ("warmup_steps", "hold_steps", "decay_steps")
        if getattr(optimizer, name)
    }
    return dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, **steps))


def without_unset(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Drops keys that are None: unset placeholders, so that a missing key is reported as missing."""
    kept = {key: value for key, value in mapping.items() if value is not None}
    return {key: without_unset(value) if isinstance(value, Mapping) else value for key, value in kept.items()}
