"""Refusal of options that other options leave without an effect.

Runs of older versions may name such options, which were accepted and ignored. Opening one must not fail for that, so
`accept_idle_options` lifts the refusal for as long as it is entered; `runs.open_run` alone does.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

from wukong_jax.errors import UserError

_accepted: contextvars.ContextVar[bool] = contextvars.ContextVar("idle options are accepted", default=False)


@contextlib.contextmanager
def accept_idle_options() -> Iterator[None]:
    """Lifts the refusal, for configs of existing runs."""
    token = _accepted.set(True)
    try:
        yield
    finally:
        _accepted.reset(token)


def refuse_idle(options: Any, name: str, idle: bool, reason: str, prefix: str = "") -> None:
    """Refuses an option that differs from its default though it has no effect.

    Args:
      options: a dataclass with the option.
      name: of the option.
      idle: whether it has no effect.
      reason: why, as "without sequences".
      prefix: put before the name, as "config.model.options.".

    Raises:
      UserError: the option is idle and not at its default.
    """
    field = next(field for field in dataclasses.fields(options) if field.name == name)
    value = getattr(options, name)
    factory = field.default_factory
    default = field.default if factory is dataclasses.MISSING else factory()
    if idle and value != default and not _accepted.get():
        shown = list(value) if isinstance(value, tuple) else value
        raise UserError(f"{prefix}{name} = {shown!r}: has no effect {reason}; leave it out")
