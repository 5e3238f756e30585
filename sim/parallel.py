"""Work on all cores, or on a cluster: one interface over well-known executors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from typing import TypeVar

from skipopu.errors import SkipopuError

EXECUTORS = ("local", "dask")
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def executor(name: str, workers: int | None = None, address: str | None = None) -> Executor:
    """A :class:`concurrent.futures.Executor`: "local" processes, or "dask" workers (of the scheduler at ``address``).

    Raises:
        SkipopuError: the executor is not known or not installed.
    """
    if name == "local":
        return ProcessPoolExecutor(workers or os.cpu_count())
    if name != "dask":
        raise SkipopuError(f"executor is {name!r}; accepted: {', '.join(EXECUTORS)}")
    try:
        from distributed import Client
    except ImportError:
        raise SkipopuError("the executor 'dask' needs Dask: pip install 'skipopu[cluster]'") from None
    client = Client(address) if address else Client(n_workers=workers or os.cpu_count(), threads_per_worker=1)
    return client.get_executor()


def finished(
    pool: Executor, work: Callable[[Job], Outcome], jobs: Sequence[Job]
) -> Iterator[tuple[int, Outcome | SkipopuError]]:
    """(number of the job, its outcome) as they finish; an error that a user can cause is an outcome, others are raised."""
    futures: dict[Future[Outcome], int] = {pool.submit(work, job): number for number, job in enumerate(jobs)}
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except SkipopuError as error:
            yield futures[future], error
