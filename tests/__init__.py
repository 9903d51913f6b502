"""The tests have the structure of the package, and each test creates the data that it needs."""

from __future__ import annotations

import os


def _share_cores() -> None:
    """Give each test process and its commands their share of the cores, before PyTorch starts its threads.

    Threads of several processes on the same cores wait for one another: a product of small matrices then takes up to a
    thousand times as long.
    """
    processes = os.environ.get("PYTEST_XDIST_WORKER_COUNT")  # set in the processes of pytest-xdist alone
    if processes:
        threads = str(max(1, (os.cpu_count() or 1) // int(processes)))
        os.environ.setdefault("OMP_NUM_THREADS", threads)
        os.environ.setdefault("VITA_THREADS", threads)


_share_cores()
