"""A model hub on loopback: it lists repositories and serves files with ranges, and fails the way a test wants."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE_BYTES = 10_000
"""From here on files are stored as large ones, with a SHA-256."""


class HubDouble:
    """Repositories by name, each a folder of files. A context manager; `url` is for HF_ENDPOINT.

    Attributes:
        requests: path and range of each request for a file, in order.
        cut_after: serves so many bytes of the next file and hangs up; once.
        damaged: names of files that come with another content of the same size.
        error: code and `X-Error-Code` header of every answer; None: none.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        """Serves from entering on."""
        self.repositories = repositories
        self.requests: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None
        self.damaged: set[str] = set()
        self.error: tuple[HTTPStatus, str] | None = None
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="hub-double")
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubDouble:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def document(self, repository: str) -> dict[str, Any]:
        """What the hub says of a repository and its files."""
        folder = self.repositories[repository]
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": [_sibling(folder, path) for path in paths]}


def _sibling(folder: Path, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    entry: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix(), "size": len(content)}
    entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if len(content) >= _LARGE_BYTES:
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


class _Server(ThreadingHTTPServer):
    # A client keeps its connection; nobody waits for it to go.
    daemon_threads = True

    def __init__(self, hub: HubDouble) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> HubDouble:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002  # the name is the base class's
        pass

    def do_GET(self) -> None:  # so is this one
        path = unquote(urlsplit(self.path).path)
        if self._hub.error is not None:
            code, name = self._hub.error
            self._answer(code, b"{}", {"X-Error-Code": name, "X-Error-Message": "as the test wants"})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._list(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._serve(self._hub.repositories[found[1]] / found[3], found[3])
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"", {})

    def _list(self, repository: str, revision: str) -> None:
        if repository not in self._hub.repositories:
            self._answer(HTTPStatus.NOT_FOUND, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in {"main", COMMIT}:
            self._answer(HTTPStatus.NOT_FOUND, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer(HTTPStatus.OK, json.dumps(self._hub.document(repository)).encode(), {"Content-Type": "application/json"})

    def _serve(self, file: Path, name: str) -> None:
        asked = self.headers.get("Range")
        self._hub.requests.append((name, asked))
        content = file.read_bytes()
        if name in self._hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if asked else {}
        code = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
        if self._hub.cut_after is None:
            self._answer(code, content[first:], headers)
            return
        cut, self._hub.cut_after = self._hub.cut_after, None
        self._answer(code, content[first:], headers, sent=content[first : first + cut])
        self.close_connection = True

    def _answer(self, code: HTTPStatus, content: bytes, headers: dict[str, str], sent: bytes | None = None) -> None:
        self.send_response(code)
        for name, text in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content if sent is None else sent)
