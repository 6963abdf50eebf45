"""Execute runs on a Ray cluster, with results in a folder that all nodes share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import InputError
from ..threads import library_threads, thread_variables
from .journal import read_progress
from .options import RunOptions
from .spec import Spec
from .workers import Event


def _attempt(root: str, specs: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
    # Executed in a Ray worker, whose environment sets the number of threads before JAX is imported.
    from .attempt import attempt_all
    from .options import RunOptions

    told: list[dict[str, Any]] = []
    attempt_all(Path(root), specs, RunOptions(**options), told.append)
    return [event for event in told if event["kind"] != "step"]


class RayPool:
    """Executes up to `workers` runs at a time on a cluster. Ray restarts a run on another node if its node is lost."""

    def __init__(self, config: Config, options: RunOptions):
        try:
            import ray
        except ImportError as error:
            raise InputError(f"executor=ray needs Ray: pip install -e '.[ray]' ({error})") from None
        self._ray, self.root, self.options = ray, config.output_dir, options
        self._running: dict[Any, list[Spec]] = {}
        self._workers = config.workers
        self._mine = not ray.is_initialized()
        try:
            if self._mine:
                ray.init(
                    address=config.ray.address,
                    logging_level="error",
                    log_to_driver=False,
                )
        except Exception as error:  # Ray raises many types
            raise InputError(f"ray.address='{config.ray.address}': cannot connect to a cluster ({error})") from None
        # Of the task and not of the connection, which may be the user's; Ray adds it to the connection's own.
        threads = {"env_vars": thread_variables(library_threads(config))}
        self._remote = ray.remote(
            num_cpus=config.ray.cpus,
            num_gpus=config.ray.gpus,
            max_retries=-1,
            retry_exceptions=False,
            runtime_env=threads,
        )(_attempt)

    @property
    def free(self) -> int:
        """The number of runs that can start now."""
        return self._workers - len(self._running)

    def start(self, job: Sequence[Spec]) -> None:
        """Submit a job, of one run or of several that train together, to the cluster."""
        specs = [spec.model_dump(mode="json") for spec in job]
        reference = self._remote.remote(str(self.root.absolute()), specs, self.options.for_workers())
        self._running[reference] = list(job)

    def events(self) -> Iterator[Event]:
        """Wait briefly for events, and yield them."""
        ready, waiting = self._ray.wait(list(self._running), timeout=0.5)
        for reference in waiting:
            for spec in self._running[reference]:
                if progress := read_progress(self.root / spec.path):
                    yield Event(spec, "step", progress)
        for reference in ready:
            job = self._running.pop(reference)
            try:
                found = self._ray.get(reference)
            except Exception as error:  # the cluster is lost, or Ray gave up on the task
                message = f"Ray: {type(error).__name__}: {error}"
                found = [{"run": i, "kind": "failed", "message": message} for i in range(len(job))]
            for event in found:
                yield Event(job[event.pop("run")], event.pop("kind"), event)

    def close(self) -> None:
        """Disconnect from the cluster; shut it down if it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._mine:
            self._ray.shutdown()
