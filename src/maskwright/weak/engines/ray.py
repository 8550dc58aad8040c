"""The engine `ray`: actors of Ray Core that hold the networks, on this machine or in a cluster that runs already."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from maskwright.engine.progress import QUIET
from maskwright.errors import MaskwrightError, RecipeError
from maskwright.runs.sharing import Sharing
from maskwright.weak.engines.job import LOOK_SECONDS, Job, Schedule, attempt, devices, in_one_line, one_thread

# Ray takes the address of this machine in the network for the loopback's, unless this forbids clusters when it is
# imported; nothing but its name speaks of Windows.
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOOPBACK = "127.0.0.1"
STARTS = 3  # actors in a row that may die before they have loaded what they need


def run_ray(job: Job, parts: Sequence[str], sharing: Sharing, tell: Callable[[], object]) -> None:
    """Do parts in actors; each takes the next part when it is ready, and one that dies is started again.

    Without an address Ray is started on this machine, reachable from it alone, and ended with the work.

    Raises:
        RecipeError: Ray is not installed.
        MaskwrightError: the actors cannot load what they need, or there is no such cluster.
    """
    if sharing.address is None:
        os.environ.setdefault(CLUSTERS, "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    try:
        import ray
    except ImportError:
        raise RecipeError("engine=ray needs Ray: pip install 'maskwright[ray]'; engine=local needs nothing") from None
    kinds = devices(sharing)[: len(parts)]
    if sharing.address is None:
        # Without "local" it would join a cluster that RAY_ADDRESS or a `ray start` on this machine names.
        _begin(ray, address="local", include_dashboard=False, _node_ip_address=LOOPBACK, num_cpus=len(kinds))
        if (address := ray.util.get_node_ip_address()) != LOOPBACK:  # Ray was imported before
            warnings.warn(f"Ray listens on {address}; set {CLUSTERS}=0 to keep it on {LOOPBACK}", stacklevel=2)
    else:
        try:
            _begin(ray, address=sharing.address)
        except ConnectionError as error:
            raise MaskwrightError(f"address={sharing.address}: no cluster answers ({in_one_line(error)})") from None
    try:
        _share(ray, job, kinds, Schedule(parts, job, tell))
    finally:
        ray.shutdown()


def _begin(ray: Any, **options: Any) -> None:
    """`ray.init`, after which SIGTERM does what it did before: Ray's own handler ends a process as if it had failed."""
    stop = signal.getsignal(signal.SIGTERM)
    told = False
    try:
        ray.init(log_to_driver=False, **options)
    except SystemExit:  # of that handler
        told = True
    finally:
        if signal.getsignal(signal.SIGTERM) is not stop:
            signal.signal(signal.SIGTERM, stop)
    if told:
        signal.raise_signal(signal.SIGTERM)


def _share(ray: Any, job: Job, kinds: Sequence[str], schedule: Schedule) -> None:
    actor = ray.remote(_Worker)
    kept = ray.put(job)

    def start(device: str) -> Any:
        gpu = device.startswith("cuda")
        return actor.options(num_cpus=1, num_gpus=int(gpu)).remote(kept, "cuda:0" if gpu else device)

    workers = {number: start(device) for number, device in enumerate(kinds)}
    calls: dict[Any, tuple[int, str | None]]
    calls = {worker.ready.remote(): (number, None) for number, worker in workers.items()}
    idle: list[int] = []
    failures = 0
    while schedule.open:
        for call in ray.wait(list(calls), num_returns=1, timeout=LOOK_SECONDS)[0]:
            number, part = calls.pop(call)
            try:
                broken = ray.get(call)
            except ray.exceptions.RayActorError as error:
                failures += part is None
                if failures >= STARTS:
                    raise MaskwrightError(f"workers die before they begin: {in_one_line(error)}") from None
                if part is not None:
                    schedule.died(part, in_one_line(error))
                workers[number] = start(kinds[number])
                calls[workers[number].ready.remote()] = (number, None)
                continue
            if broken:
                raise MaskwrightError(broken)
            failures = 0
            if part is not None:
                schedule.done(part)
            idle.append(number)
        for number in idle.copy():
            if (next_part := schedule.take()) is not None:
                idle.remove(number)
                calls[workers[number].label.remote(next_part)] = (number, next_part)


class _Worker:
    """An actor."""

    def __init__(self, job: Job, device: str) -> None:
        QUIET.set(True)
        one_thread(device)
        self.job, self.broken = job, ""
        try:
            self.work = job.open(device)
        except MaskwrightError as error:
            self.broken = in_one_line(error)

    def ready(self) -> str:
        """Why it cannot work, or nothing."""
        return self.broken

    def label(self, part: str) -> str:
        attempt(self.work, self.job, part)
        return ""
