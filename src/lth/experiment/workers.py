"""Execute runs in parallel in processes on this machine."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..errors import FIX_FOLDER, UnwritableError
from ..threads import library_threads, thread_variables
from .options import RunOptions
from .spec import Spec

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that users, schedulers and operating systems use to end a process; crashes use others."""


class Event(NamedTuple):
    """An event of a run: its kind is "step", "killed", or a kind of `attempt`."""

    spec: Spec
    kind: str
    data: dict[str, Any]


class _Worker:
    def __init__(self, number: int, cores_each: int, threads: int, pinned: bool, log: Path):
        cores = sorted(os.sched_getaffinity(0)) if pinned and hasattr(os, "sched_getaffinity") else []
        self.cores = {cores[(number * cores_each + i) % len(cores)] for i in range(cores_each)} if cores else set()
        self.threads, self.log = threads, log
        self.running: dict[int, Spec] = {}  # runs of the job by number
        self.process: subprocess.Popen[bytes] | None = None
        self.jobs = self.news = -1  # descriptors of this process's ends of the pipes
        self.buffer = b""

    def start(self) -> None:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.log.open("ab")
        except OSError as error:
            raise UnwritableError(f"'{self.log}' cannot be written: {error.strerror or error}. {FIX_FOLDER}") from error
        jobs, self.jobs = os.pipe()
        self.news, news = os.pipe()
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lth.experiment.worker", str(jobs), str(news)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(jobs, news),
                env={**os.environ, **thread_variables(self.threads)},
                start_new_session=True,  # only the main process handles Ctrl-C
            )
        os.close(jobs)
        os.close(news)
        if self.cores:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self.process.pid, self.cores)
        self.buffer = b""

    def end(self) -> int:
        """Kill the process and its children, if still alive; returns its exit status."""
        assert self.process
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        status = self.process.wait()
        for descriptor in (self.jobs, self.news):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.process, self.jobs, self.news = None, -1, -1
        return status

    def last_words(self) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " | ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())


class LocalPool:
    """A pool of `workers` processes. With several, each is pinned to `training.threads` cores. A process that dies is replaced."""

    def __init__(self, config: Config, options: RunOptions):
        self.root, self.options = config.output_dir, options
        logs = config.output_dir / "logs"
        # A single worker is not pinned, because several commands may run on this machine.
        pinned = config.workers > 1
        self._workers = [
            _Worker(i, config.training.threads, library_threads(config), pinned, logs / f"worker{i}.log")
            for i in range(config.workers)
        ]
        self._selector = selectors.DefaultSelector()

    @property
    def free(self) -> int:
        """The number of runs that can start now."""
        return sum(not worker.running for worker in self._workers)

    def start(self, job: Sequence[Spec]) -> None:
        """Start a job, of one run or of several that train together, in a free process."""
        worker = next(worker for worker in self._workers if not worker.running)
        worker.running = dict(enumerate(job))
        if worker.process is None:
            worker.start()
            self._selector.register(worker.news, selectors.EVENT_READ, worker)
        specs = [spec.model_dump(mode="json") for spec in job]
        message = {"root": str(self.root.absolute()), "specs": specs, "options": self.options.for_workers()}
        # A process that just died is detected when its pipe is read.
        with contextlib.suppress(BrokenPipeError):
            _write_all(worker.jobs, json.dumps(message).encode() + b"\n")

    def events(self) -> Iterator[Event]:
        """Wait briefly for events, and yield them."""
        ready = self._selector.select(timeout=0.5)
        if not ready:
            # Child processes of an environment may keep a dead worker's pipe open.
            for worker in self._workers:
                if worker.process and worker.process.poll() is not None:
                    yield from self._died(worker)
            return
        for key, _ in ready:
            worker = key.data
            data = os.read(key.fd, 1 << 16)
            if not data:
                yield from self._died(worker)
                continue
            *lines, worker.buffer = (worker.buffer + data).split(b"\n")
            for line in lines:
                found = json.loads(line)
                run = found.pop("run")
                spec = worker.running[run]
                if found["kind"] != "step":
                    del worker.running[run]
                yield Event(spec, found.pop("kind"), found)

    def _died(self, worker: _Worker) -> Iterator[Event]:
        self._selector.unregister(worker.news)
        assert worker.process
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(10)  # the pipe closes shortly before the process ends
        status = worker.end()
        lost, worker.running = list(worker.running.values()), {}
        kind = "failed"
        if -status in FROM_OUTSIDE:
            kind, message = "killed", f"its process was killed by {signal.Signals(-status).name}"
        elif status == -signal.SIGALRM and self.options.step_timeout is not None:
            seconds = self.options.step_timeout
            message = f"the environment did not respond within training.step_timeout={seconds:g} seconds, so its process was ended"
        else:
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            message = f"its process ended {how}: {worker.last_words()} ({worker.log})"
        for spec in lost:
            yield Event(spec, kind, {"message": message})

    def close(self) -> None:
        """Kill the processes immediately; runs can be interrupted safely at any time."""
        for worker in self._workers:
            if worker.process:
                worker.end()
        self._selector.close()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
