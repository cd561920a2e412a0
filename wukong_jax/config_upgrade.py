"""Upgrades configs of earlier versions (config files, flags, and config.json of run folders) to current keys."""

import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from wukong_jax.factories import MOVED

# Renamed keys: old -> new dotted name.
MOVED_KEYS = {
    "data.format": "data.factory",
    "data.planted": "data.options",
    "data.portfolios": "data.options",
    "data.on_bad_row": "data.options.on_bad_row",
    "optimizer.name": "optimizer.factory",
    "optimizer.beta1": "optimizer.options.beta1",
    "optimizer.beta2": "optimizer.options.beta2",
    "optimizer.epsilon": "optimizer.options.epsilon",
    "optimizer.weight_decay": "optimizer.options.weight_decay",
}
# Former defaults of some of them. Old run folders contain these values even if they had no effect.
OLD_DEFAULTS = {
    "data.on_bad_row": "stop",
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.epsilon": 1e-8,
    "optimizer.weight_decay": 0.0,
}
# Keys added since, with the value that runs without them were trained with, where the default is another one.
OLD_BEHAVIOUR = {"training.start_at_rate": False}
_PARTS = ("model", "loss", "exchange", "data.join")
_OLD_MLP_NORM = {True: "layer", False: "none"}  # `mlp_norm` of the models' options was a bool


def upgrade_config(config: MutableMapping[str, Any]) -> None:
    """Moves values of old keys to the current keys, in place; current configs are unchanged.

    Args:
      config: config of a run, as read from JSON or returned by a config file.
    """
    for old, new in MOVED_KEYS.items():
        holder, key = _find(config, old)
        if holder is None or key not in holder:
            continue
        value = holder[key]
        del holder[key]
        if value is not None and value != OLD_DEFAULTS.get(old):
            set_key(config, new, value)
    for part in _PARTS:
        holder, key = _find(config, f"{part}.factory")
        if holder is not None and holder.get(key) in MOVED:
            holder[key] = MOVED[holder[key]]
    _upgrade_mlp_norm(config.get("model"))


def _upgrade_mlp_norm(node: Any) -> None:
    """Renames the values of `mlp_norm`, in place, also in options of a model that stands behind towers."""
    if not hasattr(node, "keys"):
        return
    for key in list(node):
        if key == "mlp_norm" and isinstance(node[key], bool):
            name = _OLD_MLP_NORM[node[key]]
            del node[key]  # an ml_collections dict keeps the type of a key
            node[key] = name
        else:
            _upgrade_mlp_norm(node[key])


def upgrade_stored_config(config: MutableMapping[str, Any]) -> None:
    """Upgrades the config of an existing run, in place: it also keeps what later versions do otherwise by default.

    Args:
      config: content of a run's config.json, or another stored config of existing runs.
    """
    upgrade_config(config)
    for key, value in find_old_behaviour(config).items():
        set_key(config, key, value)


def find_old_behaviour(config: MutableMapping[str, Any]) -> dict[str, Any]:
    """Returns the keys that a stored config of an earlier version lacks, with the values its runs were trained with.

    They are not added to the stored config when its runs go on, so that it can still be told from one of today.
    """
    holders = {key: _find(config, key) for key in OLD_BEHAVIOUR}
    return {key: OLD_BEHAVIOUR[key] for key, (holder, name) in holders.items() if holder is None or name not in holder}


def with_keys(config: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a JSON-like config with dotted keys set."""
    copied = json.loads(json.dumps(config))
    for key, value in keys.items():
        set_key(copied, key, value)
    return copied


def drop_keys(config: MutableMapping[str, Any], keys: Iterable[str]) -> None:
    """Deletes dotted keys, where present."""
    for key in keys:
        holder, name = _find(config, key)
        if holder is not None and name in holder:
            del holder[name]


def upgrade_key(key: str) -> tuple[str, Any]:
    """Returns the current name of a dotted key, and its former default if it has become an option.

    Returns:
      (current name, former default or None). The default is needed because config files may omit options.
    """
    for old, new in MOVED_KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old), OLD_DEFAULTS.get(key)
    return key, None


def set_key(config: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, creating missing mappings on its path."""
    *path, last = key.split(".")
    for name in path:
        if name not in config:
            config[name] = {}
        config = config[name]
    config[last] = value


def _find(config: MutableMapping[str, Any], key: str) -> tuple[MutableMapping[str, Any] | None, str]:
    """Returns the mapping that contains a dotted key, or None, and the last part of the key."""
    *path, last = key.split(".")
    node: Any = config
    for name in path:
        node = node.get(name)
        if not hasattr(node, "keys"):
            return None, last
    return node, last
