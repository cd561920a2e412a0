"""The check that no option is accepted and ignored, for anything that is built from an options dataclass."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wukong_jax.errors import UserError


def assert_no_option_is_idle(
    fingerprint: Callable[[Mapping[str, Any]], str],
    kind: type,
    bases: Iterable[Mapping[str, Any]],
    changes: Iterable[tuple[str, Mapping[str, Any]]],
    exempt: Callable[[Mapping[str, Any], str], bool] = lambda options, name: False,
    refused: Iterable[str] = (),
) -> None:
    """Tries each change over each base: what is built must differ, or building must refuse the option.

    Args:
      fingerprint: of what some options build, equal for equal things; raises UserError where they are refused.
      kind: the options' dataclass.
      bases: options to start from, such that each switch is off in some of them.
      changes: name of an option, and a mapping with another value of it and of what that value needs of others.
      exempt: whether an option may be without an effect among these.
      refused: options that every base must refuse; every other must be accepted by one or more.
    """
    changes, accepted, known = list(changes), set(), {}

    def trace(options: Mapping[str, Any]) -> str:
        key = repr(sorted(options.items()))
        if key not in known:
            known[key] = fingerprint(options)
        return known[key]

    assert {name for name, _ in changes} == {field.name for field in dataclasses.fields(kind)}
    for base in bases:
        trace(base)  # a base is accepted
        for name, change in changes:
            before = {**base, **{key: value for key, value in change.items() if key != name}}
            after = {**before, name: change[name]}
            if after == before:
                continue
            try:
                changed, reference = trace(after), trace(before)
            except UserError:
                continue
            assert changed != reference or exempt(after, name), f"{name} = {change[name]!r} in {after}"
            accepted.add(name)
    assert accepted == {name for name, _ in changes} - set(refused)
