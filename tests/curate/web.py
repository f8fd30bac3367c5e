"""A web server on loopback that is also a Hugging Face hub, counts its requests and fails where it is told to."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0de"


@dataclass
class Failure:
    """An answer to the next requests whose path contains `path`; 0 cuts the connection near the end of the body."""

    status: int
    path: str = ""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class Web(ThreadingHTTPServer):
    """files: path -> bytes. Of the hub: `repositories`, "models/owner/name" -> the files of its one commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.failures: list[Failure] = []
        self.requests: list[str] = []  # "METHOD /path"
        self.objects: dict[str, bytes] = {}  # large files that were sent to the hub, by sha256
        self.authorizations: set[str | None] = set()  # what came with each request that writes

    def fail(self, status: int, path: str = "", times: int = 1, **headers: str) -> None:
        """Answer the next `times` requests whose path contains `path` with a status; 0 cuts the body short."""
        self.failures.append(Failure(status, path, times, {key.replace("_", "-"): v for key, v in headers.items()}))

    def asked(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(re.search(pattern, request) is not None for request in self.requests)

    def failure(self, path: str) -> Failure | None:
        """The one that this request meets."""
        for one in self.failures:
            if one.times and one.path in path:
                one.times -= 1
                return one
        return None

    def answer(self, path: str, query: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        if path in self.files:
            return 200, {}, self.files[path]
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            if found[1] in self.repositories:
                return _json({"_id": "1", "id": found[1].partition("/")[2], "sha": COMMIT, "siblings": []})
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", path):
            prefix = f"{found[2]}/" if found[2] else ""
            return _json(_tree(self.repositories[found[1]], prefix, "recursive=true" in query.lower()))
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            data = self.repositories.get(f"{'datasets' if found[1] else 'models'}/{found[2]}", {}).get(found[3])
            if data is not None:
                headers = {"ETag": f'"{_entry(found[3], data)["lfs"]["oid"]}"', "X-Repo-Commit": COMMIT}
                return 200, headers, data
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        return 404, {}, b"no such page"

    def written(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the hub answers to a request that writes: a repository, what is large, the objects, then the commit."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return _json({"url": f"{self.url}/{name}"})
        if path.startswith("/upload/"):
            self.objects[path.rpartition("/")[2]] = body
            return _json({})
        if path.endswith("/preupload/main"):
            modes = {True: "lfs", False: "regular"}
            paths = [one["path"] for one in json.loads(body)["files"]]
            large = {path: path.endswith((".tar", ".parquet", ".jpg")) for path in paths}
            files = [{"path": path, "uploadMode": modes[large[path]], "shouldIgnore": False} for path in paths]
            return _json({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [{"oid": one["oid"], "size": one["size"]} for one in json.loads(body)["objects"]]
            for one in objects:
                if one["oid"] not in self.objects:
                    one["actions"] = {"upload": {"href": f"{self.url}/upload/{one['oid']}"}}
            return _json({"objects": objects, "transfer": "basic"})
        if found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/commit/main", path):
            for line in body.splitlines():
                self._commit(self.repositories[found[1]], **json.loads(line))
            return _json({"commitUrl": f"{self.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        return _json({"errors": [], "warnings": []})

    def _commit(self, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.objects[value["oid"]]
        elif key == "deletedFile":
            del files[value["path"]]


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _tree(files: dict[str, bytes], prefix: str, recursive: bool) -> list[dict[str, Any]]:
    """What lies below a folder, or directly in it."""
    inside = [name for name in files if name.startswith(prefix)]
    ends = {name[: at.start()] for name in inside for at in re.finditer("/", name) if at.start() > len(prefix)}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(ends)
    ]
    entries += [_entry(name, files[name]) for name in inside]
    return [one for one in entries if recursive or "/" not in one["path"][len(prefix) :]]


def _entry(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha256(data).hexdigest()
    return {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": oid[:40],
        "lfs": {"oid": oid, "size": len(data), "pointerSize": 130},
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        failure = self.server.failure(path)
        if failure is not None and failure.status:
            status, headers, data = failure.status, failure.headers, b"not now"
        else:
            status, headers, data = self.server.answer(path, urlsplit(self.path).query)
        if status == 200 and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            status, data = 206, data[first : last + 1]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if failure is not None and not failure.status:
            data = data[: len(data) * 99 // 100]
            self.close_connection = True
        self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(f"{self.command} {path}")
        self.server.authorizations.add(self.headers.get("Authorization"))
        failure = self.server.failure(path)
        answer = (failure.status, failure.headers, b"{}") if failure else self.server.written(path, body)
        status, headers, data = answer
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_PUT = do_POST  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the test's own output is enough."""


@contextmanager
def web_server() -> Iterator[Web]:
    """Serve until the block ends."""
    web = Web()
    threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield web
    finally:
        web.shutdown()
        web.server_close()
