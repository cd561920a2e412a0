"""Computes the next item of an iterator on another thread while the current one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yields the same items, each computed on another thread while the previous one is used.

    Args:
      items: read one item ahead; its exceptions are raised here, at the item that caused them.

    Yields:
      The items, in order.
    """
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1) as worker:
        pending = worker.submit(next, iterator, end)
        while (item := pending.result()) is not end:
            pending = worker.submit(next, iterator, end)
            yield item  # type: ignore[misc]
