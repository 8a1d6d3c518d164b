"""An S3 store on this machine: moto's server as a process of its own, which tests can stop, stall and start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.harness import tied
from tests.harness.http import fetch

BUCKET = "clips"
_START_S = 30.0
_POLL_S = 0.05
_SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


class MotoStore:
    """The server and its one bucket. What it stores is in its memory: gone when it is stopped.

    Attributes:
        environment: how processes find it, by the usual variables.
        url: of a part of the bucket, as WARMLANE_OBJECT_STORE_URL.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self._port = int(listener.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"s3://{BUCKET}/some/prefix"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_REGION": "us-east-1",
        }

    def start(self, *, bucket: bool = True) -> None:
        """Runs it, with an empty bucket or none, and returns when it answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(tied.__file__)), str(os.getpid()), sys.executable, "-c", _SERVE, str(self._port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends_s = time.monotonic() + _START_S
        while True:
            try:
                fetch("GET", f"http://127.0.0.1:{self._port}/moto-api/")
                break
            except httpx.TransportError:
                assert time.monotonic() < ends_s, "moto's server does not start"
                time.sleep(_POLL_S)
        if bucket:
            self.make_bucket()

    def make_bucket(self) -> None:
        """Makes the bucket."""
        fetch("PUT", f"http://127.0.0.1:{self._port}/{BUCKET}").raise_for_status()

    def stop(self) -> None:
        """Ends it, and forgets what it stored."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    def stall(self) -> None:
        """It accepts connections and answers none, until `go_on`."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers again, with what it had."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextmanager
def moto_store() -> Iterator[MotoStore]:
    """A running one."""
    store = MotoStore()
    try:
        store.start()
        yield store
    finally:
        store.stop()


@contextmanager
def with_environment(environment: dict[str, str]) -> Iterator[None]:
    """This process has these variables too, while the block runs: the store's client reads them when it is opened."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
