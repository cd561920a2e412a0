"""The configuration of a run: one frozen dataclass, and the only reader of ml_collections dicts.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict`; `build_run_config` turns it into a
`RunConfig` once, checking every key. After that nobody reads a raw dict. Each part's dataclass stands with the
part it configures (`embeddings/layout.py`, `data/planted_clicks.py`); this file holds the rest and the root.
"""

import dataclasses
import importlib.util
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from wukong_jax.data.planted.clicks_config import PlantedClicksConfig
from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.embeddings.layout import EmbeddingsConfig
from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import build_dataclass, list_changes, to_mapping


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """What is joined to rows as they are read: a factory's name, and its options."""

    factory: str = ""  # "module:function", called as build(options, schema); empty: nothing
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses options of nothing."""
        if self.options and not self.factory:
            raise UserError("factory = '': the join has options but no factory; name it, or leave the options out")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the rows come from. Raw files and generated rows are prepared into `<workdir>/data` first."""

    format: Literal["planted_clicks", "planted_portfolios", "raw", "blocks"]
    path: str = ""  # raw: a file or folder; blocks: the output folder of wukong-jax prepare_data
    schema: str = ""  # raw: a built-in schema's name, or a JSON file
    planted: PlantedClicksConfig | None = None  # planted_clicks: the generator's settings
    portfolios: PlantedPortfoliosConfig | None = None  # planted_portfolios: the generator's settings
    join: JoinConfig = dataclasses.field(default_factory=JoinConfig)
    on_bad_row: Literal["stop", "skip"] = "stop"  # raw: what a malformed row does
    shuffle: bool = True  # False: training rows come in the order they were written, as from a log in event time
    window_rows: int = 131_072  # rows shuffled together; more is a better shuffle and more host memory
    reader_threads: int = 2  # threads that read and shuffle blocks

    def __post_init__(self) -> None:
        """Checks that the keys fit the format."""
        generators = {"planted_clicks": "planted", "planted_portfolios": "portfolios"}
        for format_, key in generators.items():
            given = getattr(self, key) is not None
            if given and self.format != format_:
                raise UserError(f"{key}: only read with format {format_!r}, not {self.format!r}")
            if not given and self.format == format_:
                raise UserError(f"{key} = None: format {format_!r} needs the generator's settings")
        if self.format in generators:
            if self.path or self.schema:
                raise UserError(f"path = {self.path!r}: format {self.format!r} reads no files; use 'raw' or 'blocks'")
        elif not self.path:
            raise UserError(f"path = '': format {self.format!r} needs a file or folder, as --config.data.path=FOLDER")
        if self.format == "raw" and not self.schema:
            raise UserError("schema = '': format 'raw' needs a built-in schema's name or a JSON file")
        if self.format == "blocks" and self.schema:
            raise UserError(f"schema = {self.schema!r}: blocks carry their own schema; leave it empty")
        _check(self.window_rows >= 1, "window_rows", self.window_rows, "at least 1")
        _check(self.reader_threads >= 1, "reader_threads", self.reader_threads, "at least 1")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which dense model, by the name of its factory, and the factory's own options."""

    factory: str = "wukong_jax.models.wukong:build"  # "module:function", called as build(options, shape)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ExchangeConfig:
    """How embeddings travel between the tables' devices and the batch's: a factory's name, and its options."""

    factory: str = "wukong_jax.embeddings.flat_exchange:build"  # called as build(options, layout, mesh, model)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What a step minimises: a factory's name, and its options."""

    factory: str = "wukong_jax.training.loss:build"  # called as build(options, schema)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The dense optimizer, and the schedule that scales the learning rate of dense weights and tables alike."""

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    learning_rate: float = 1e-3
    beta1: float = 0.9  # adam, adamw: decay of the first moment
    beta2: float = 0.999  # adam, adamw: decay of the second moment
    epsilon: float = 1e-8  # adam, adamw: added to the root of the second moment; adagrad: under the root
    weight_decay: float = 0.0  # adamw only, decoupled, on matrices and not on biases or norm scales
    clip_norm: float | None = None  # global norm of the dense gradient
    warmup_steps: int = 0  # linear, from 1 / warmup_steps
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    hold_steps: int = 0  # linear, cosine: steps at the full rate between warm-up and decay
    decay_steps: int = 0  # linear, cosine: steps from there to the final fraction
    final_fraction: float = 0.0  # linear, cosine: of the learning rate, after decay_steps

    def __post_init__(self) -> None:
        """Refuses settings that the chosen optimizer or schedule would ignore."""
        _check(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        if self.weight_decay and self.name != "adamw":
            raise UserError(f"weight_decay = {self.weight_decay}: only adamw has it; set name = 'adamw'")
        for key, users in (("beta1", "adam"), ("beta2", "adam"), ("epsilon", "ada")):
            default = type(self).__dataclass_fields__[key].default
            if getattr(self, key) != default and not self.name.startswith(users):
                raise UserError(f"{key} = {getattr(self, key)}: optimizer {self.name!r} has none; remove it")
        for key in ("beta1", "beta2"):
            _check(0 <= getattr(self, key) < 1, key, getattr(self, key), "at least 0 and below 1")
        _check(self.epsilon > 0, "epsilon", self.epsilon, "above 0")
        if self.clip_norm is not None:
            _check(self.clip_norm > 0, "clip_norm", self.clip_norm, "above 0, or None for no clipping")
        _check(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        if (self.schedule == "constant") != (self.decay_steps == 0):
            raise UserError(
                f"decay_steps = {self.decay_steps}: above 0 with schedule linear or cosine, 0 with constant"
            )
        if self.hold_steps and self.schedule == "constant":
            raise UserError(f"hold_steps = {self.hold_steps}: a constant schedule holds for ever; leave it out")
        _check(self.hold_steps >= 0, "hold_steps", self.hold_steps, "at least 0")
        _check(0 <= self.final_fraction <= 1, "final_fraction", self.final_fraction, "between 0 and 1")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in what batches, and what is kept on the way."""

    batch_size: int  # B, rows of a global batch
    steps: int | None = None  # stop after so many steps; None: after `epochs`
    epochs: int | None = None  # stop after so many passes over the training rows; None: after `steps`
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the dense model's products
    log_every_steps: int = 100
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 2
    evaluate_every_steps: int = 0  # validation; 0: at the end of each epoch
    evaluation_batch_size: int = 8192
    early_stop_metric: Literal["auc", "log_loss", "normalized_entropy"] = "auc"  # also chooses the best state
    early_stop_patience: int = 0  # evaluations without improvement before stopping; 0: never stop early
    plateau_factor: float = 1.0  # learning rates are multiplied by it when an evaluation does not improve; 1: never
    minimum_improvement: float = 0.0  # an evaluation must be better by more than this to count
    exact_auc_rows: int = 20_000_000  # splits with more rows get the binned AUC and its error bound
    profile_first_step: int = 0  # write a profiler trace of `profile_steps` steps from this one
    profile_steps: int = 0  # 0: no trace

    def __post_init__(self) -> None:
        """Checks sizes, and that the run has an end."""
        for key in ("batch_size", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints"):
            _check(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("evaluate_every_steps", "early_stop_patience", "profile_first_step", "profile_steps"):
            _check(getattr(self, key) >= 0, key, getattr(self, key), "at least 0")
        _check(self.evaluation_batch_size >= 1, "evaluation_batch_size", self.evaluation_batch_size, "at least 1")
        if self.steps is None and self.epochs is None:
            raise UserError("steps = None: give steps or epochs, or the run has no end")
        for key in ("steps", "epochs"):
            value = getattr(self, key)
            if value is not None:
                _check(value >= 1, key, value, "at least 1")
        _check(0 < self.plateau_factor <= 1, "plateau_factor", self.plateau_factor, "above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh ("host", "chip"); the batch is split over both axes."""

    hosts: int = 1  # groups of chips that share the fast link
    chips: int = 0  # chips per host; 0: all local devices divided by `hosts`

    def __post_init__(self) -> None:
        """Checks the sizes."""
        _check(self.hosts >= 1, "hosts", self.hosts, "at least 1")
        _check(self.chips >= 0, "chips", self.chips, "at least 0 (0: all local devices)")


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
)


def load_config_module(path: str | Path) -> ModuleType:
    """Runs a config file as a module; config files are found by path, and their folder is no package.

    Raises:
      UserError: there is no such Python file.
    """
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).exists():
        raise UserError(f"--config = {str(path)!r}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_config() -> ConfigDict:
    """A ConfigDict with every key at its default, for a config file to fill in and flags to override.

    Keys without a default are empty until the file sets them. `data.planted`, `data.portfolios`, `model.options`,
    `loss.options`, `exchange.options`, `data.join.options` and `embeddings.fields` are the file's own to write.
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
    plain = mapping.to_dict() if isinstance(mapping, ConfigDict) else mapping
    return build_dataclass(RunConfig, without_unset(plain), "config")


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


def _check(condition: bool, key: str, value: Any, limit: str) -> None:
    if not condition:
        raise UserError(f"{key} = {value!r}: must be {limit}")
