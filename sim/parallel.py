"""Work on all cores, or on a cluster: one interface over well-known executors."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from skipopu.errors import SkipopuError

EXECUTORS = ("local", "dask")
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


# Of the libraries that may multiply for NumPy and PyTorch; read when they are loaded.
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread_each(workers: int | None = None) -> Iterator[Executor]:
    """Local processes whose linear algebra has one thread each: side by side they are several times as fast.

    They are started afresh: what they run has to be importable.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    context = multiprocessing.get_context("spawn")
    try:
        with _ending(
            ProcessPoolExecutor(workers or os.cpu_count(), context, initializer=_leave_interrupts_to_the_parent)
        ) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def executor(name: str, workers: int | None = None, address: str | None = None) -> AbstractContextManager[Executor]:
    """A :class:`concurrent.futures.Executor` to use in a ``with``: "local" processes, or "dask" workers (of the scheduler at ``address``).

    An error or an interrupt inside the block ends it at once: queued jobs are cancelled, local ones that run are ended.

    Raises:
        SkipopuError: the executor is not known or not installed.
    """
    workers = os.cpu_count() if workers is None else workers
    if name == "local":
        return _ending(ProcessPoolExecutor(workers, initializer=_leave_interrupts_to_the_parent))
    if name == "dask":
        return _ending(_dask(workers, address))
    raise SkipopuError(f"executor is {name!r}; accepted: {', '.join(EXECUTORS)}")


@contextmanager
def _ending(pool: Executor) -> Iterator[Executor]:
    before = multiprocessing.active_children()
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in before:
                process.terminate()
        raise
    pool.shutdown()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _dask(workers: int | None, address: str | None) -> Executor:
    try:
        from distributed import Client
    except ImportError:
        raise SkipopuError("the executor 'dask' needs Dask: pip install 'skipopu[cluster]'") from None
    client = Client(address) if address else Client(n_workers=workers, threads_per_worker=1)
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
