"""Computes the next item of an iterator on another thread while the current one is used."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Yields the same items, each computed on another thread while the previous one is used.

    Several of these in a row form a pipeline. Closing the last one ends all threads and closes all iterators.

    Args:
      items: read one item ahead; its exceptions are raised here, at the item that caused them. It is closed at the end,
        if it can be.

    Yields:
      The items, in order.
    """
    iterator = iter(items)
    end = object()
    try:
        with ThreadPoolExecutor(1) as worker:
            pending = worker.submit(next, iterator, end)
            while (item := pending.result()) is not end:
                pending = worker.submit(next, iterator, end)
                yield item  # type: ignore[misc]
                del item  # so that it does not live while the next one is awaited
    finally:
        if isinstance(iterator, Generator):
            iterator.close()
