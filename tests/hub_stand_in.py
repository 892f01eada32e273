"""A stand-in for the Hugging Face hub on the loopback address: as much of its protocol as a download needs.

The client is huggingface_hub's own; what it asks for was read from its requests. One repository, one
revision. `requests` lists what was asked for, as (method, path, Range header or "").
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """A folder under the name `repository`. `cut`: files whose first answer breaks off before its end."""

    def __init__(self, folder: Path, repository: str, cut: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.repository = repository
        self.cut = set(cut)
        self.requests: list[tuple[str, str, str]] = []
        self.url = ""

    def info(self) -> dict[str, object]:
        """What /api/models/NAME/revision/main says."""
        names = sorted(path.name for path in self.folder.iterdir())
        return {
            "id": self.repository,
            "sha": COMMIT,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 1,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in names],
        }

    def tree(self) -> list[dict[str, object]]:
        """What /api/models/NAME/tree/main says."""
        return [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": etag(path)}
            for path in sorted(self.folder.iterdir())
        ]


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def handler_of(hub: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            asked = self.headers.get("Range", "")
            path = self.path.split("?")[0]
            hub.requests.append((self.command, path, asked))
            api = f"/api/models/{hub.repository}"
            if path == api or path.startswith(f"{api}/revision/"):
                self.send(json.dumps(hub.info()).encode(), body, {"Content-Type": "application/json"})
            elif path.startswith(f"{api}/tree/"):
                self.send(json.dumps(hub.tree()).encode(), body, {"Content-Type": "application/json"})
            elif path.startswith(f"/{hub.repository}/resolve/"):
                self.send_file(hub.folder / path.rsplit("/", 1)[1], asked, body)
            else:
                self.send(b"{}", body, {"X-Error-Code": "RepoNotFound"}, status=404)

        def send_file(self, file: Path, asked: str, body: bool) -> None:
            if not file.exists():
                self.send(b"", body, {"X-Error-Code": "EntryNotFound"}, status=404)
                return
            data, headers = file.read_bytes(), {"ETag": f'"{etag(file)}"', "X-Repo-Commit": COMMIT}
            headers["Accept-Ranges"] = "bytes"
            if asked:
                first = int(asked.removeprefix("bytes=").split("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
                self.send(data[first:], body, headers, status=206)
            elif body and file.name in hub.cut:
                hub.cut.discard(file.name)
                self.send(data, False, headers)
                self.wfile.write(data[: len(data) * 7 // 8])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.send(data, body, headers)

        def send(self, data: bytes, body: bool, headers: dict[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a server of a test is silent."""

    return Handler


@contextmanager
def running(hub: StandIn) -> Iterator[StandIn]:
    """The hub, answering at `hub.url` until the block is left."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
