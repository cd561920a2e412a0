"""Refuses options that have no effect because of other options.

`accept_idle_options` lifts the refusal in two places: where a run is opened, since configs of older versions may
contain such options, which were accepted and ignored; and where one config trains a model for each group of portfolios,
some of which have a single domain.
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
    """Lifts the refusal within the context, for configs of existing runs."""
    token = _accepted.set(True)
    try:
        yield
    finally:
        _accepted.reset(token)


def refuse_idle(options: Any, name: str, idle: bool, reason: str, prefix: str = "") -> None:
    """Refuses an option that differs from its default but has no effect.

    Args:
      options: dataclass with the option.
      name: name of the option.
      idle: whether the option has no effect.
      reason: why it has no effect, such as "without sequences".
      prefix: text before the name in the message, such as "config.model.options.".

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
