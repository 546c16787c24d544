"""Work in a thread beside the caller's, with its results in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Background"]

T = TypeVar("T")


class Background(Generic[T]):
    """Runs one call after the other in a thread, while the caller has a GPU do the next work.

    The thread starts with the first call. It ends with this object, after the calls that it has.

    Args:
        max_waiting: The number of calls that may be under way: what they hold stays in memory.
    """

    def __init__(self, max_waiting: int):
        self._max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1)
        self._calls: deque[tuple[Future[T], str]] = deque()

    def submit(self, call: Callable[[], T], name: str) -> list[T]:
        """Hand over a call, and return the results that had to be waited for first, in order.

        Args:
            call: The call.
            name: What the call is about, such as an image, for messages.

        Raises:
            Exception: The error of an earlier call; its message ends with the name.
        """
        results = []
        while len(self._calls) >= self._max_waiting:
            results.append(self._next())
        self._calls.append((self._thread.submit(call), name))
        return results

    def results(self) -> Iterator[T]:
        """Yield the results of all calls that are under way, in order.

        Raises:
            Exception: The error of a call; its message ends with the name.
        """
        while self._calls:
            yield self._next()

    def _next(self) -> T:
        future, name = self._calls.popleft()
        try:
            return future.result()
        except Exception as error:
            error.args = (f"{error} ({name})",)
            raise
