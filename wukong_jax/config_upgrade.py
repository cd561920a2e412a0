"""Configs of earlier versions brought to today's keys: config files, flags, and the config.json of run folders."""

from collections.abc import MutableMapping
from typing import Any

from wukong_jax.factories import MOVED

# Keys that have moved, by their old dotted names.
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
# What some of them were where nobody set them: a run folder holds these values even where they had no effect.
OLD_DEFAULTS = {
    "data.on_bad_row": "stop",
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.epsilon": 1e-8,
    "optimizer.weight_decay": 0.0,
}
_PARTS = ("model", "loss", "exchange", "data.join")


def upgrade_config(config: MutableMapping[str, Any]) -> None:
    """Moves what stands under old keys to today's, in place; a config of today stays as it is.

    Args:
      config: of a run, as read from JSON or as a config file made it; a ConfigDict will do.
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


def upgrade_key(key: str) -> tuple[str, Any]:
    """Today's name of a dotted key, and the default of one that has become an option, which a file need not name.

    Returns:
      (the name, the old default or None).
    """
    for old, new in MOVED_KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old), OLD_DEFAULTS.get(key)
    return key, None


def set_key(config: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, with the mappings on the way to it where they are missing."""
    *path, last = key.split(".")
    for name in path:
        if name not in config:
            config[name] = {}
        config = config[name]
    config[last] = value


def _find(config: MutableMapping[str, Any], key: str) -> tuple[MutableMapping[str, Any] | None, str]:
    """The mapping that a dotted key stands in, where there is one, and the key's last name."""
    *path, last = key.split(".")
    node: Any = config
    for name in path:
        node = node.get(name)
        if not hasattr(node, "keys"):
            return None, last
    return node, last
