"""A server on loopback that answers as the hub's API does, from folders of this machine.

It serves what `huggingface_hub` asks for: a revision's commit and files, the tree of a commit, and
files with HEAD and ranges. Every request is kept, and how many bytes of weights were given.
"""

import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from offaxis.checkpoints.hub import client


class Mirror:
    """Repositories by name; each revision is a folder, its commit made from what it is called."""

    def __init__(self):
        self.revisions: dict[str, dict[str, Path]] = {}
        self.requests: list[tuple[str, str]] = []
        self.bytes_of: dict[str, int] = {}
        self.url = ""

    def add(self, repo: str, folder: Path, revision: str = "main") -> str:
        """Serve a folder as a revision, and under its commit; return the commit."""
        commit = hashlib.sha1(f"{repo}/{folder}".encode()).hexdigest()
        self.revisions.setdefault(repo, {})[revision] = folder
        self.revisions[repo][commit] = folder
        return commit

    def commit(self, repo: str, revision: str) -> str:
        folder = self.revisions[repo][revision]
        return hashlib.sha1(f"{repo}/{folder}".encode()).hexdigest()

    def fetched(self) -> list[str]:
        """The files that were given whole, by name."""
        return sorted({path.rpartition("/")[2] for kind, path in self.requests if kind == "GET"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4], parts[5])
        else:
            assert parts[2] == "resolve"
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body=with_body)

    def _api(self, repo, verb, revision):
        if repo not in self.mirror.revisions:
            return self._missing("RepoNotFound")
        if revision not in self.mirror.revisions[repo]:
            return self._missing("RevisionNotFound")
        folder = self.mirror.revisions[repo][revision]
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        sizes = {str(p.relative_to(folder)): p.stat().st_size for p in files}
        tree = [
            {"type": "file", "path": name, "size": size, "oid": "0" * 40}
            for name, size in sizes.items()
        ]
        info = {
            "id": repo,
            "sha": self.mirror.commit(repo, revision),
            "siblings": [{"rfilename": name, "size": size} for name, size in sizes.items()],
            "private": False,
            "tags": [],
        }
        body = json.dumps(tree if verb == "tree" else info).encode()
        return self._send(200, {"Content-Type": "application/json"}, body, with_body=True)

    def _file(self, repo, revision, name, *, with_body):
        folder = self.mirror.revisions.get(repo, {}).get(revision)
        if folder is None or not (folder / name).is_file():
            return self._missing("EntryNotFound")
        content = (folder / name).read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": self.mirror.commit(repo, revision),
            "Accept-Ranges": "bytes",
        }
        asked, size = self.headers.get("Range"), len(content)
        if asked:
            begin, end = asked.removeprefix("bytes=").split("-")
            last = min(int(end), size - 1) if end else size - 1
            headers["Content-Range"] = f"bytes {begin}-{last}/{size}"
            content = content[int(begin) : last + 1]
        if with_body:
            self.mirror.requests.append(("RANGE" if asked else "GET", f"{repo}/{name}"))
            self.mirror.bytes_of[name] = self.mirror.bytes_of.get(name, 0) + len(content)
        return self._send(206 if asked else 200, headers, content, with_body=with_body)

    def _missing(self, code):
        self._send(404, {"X-Error-Code": code}, b"", with_body=False)

    def _send(self, status, headers, body, *, with_body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextmanager
def served():
    """A mirror that is listening."""
    mirror = Mirror()
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def mirrored(monkeypatch, cache: Path):
    """The hub's client asks a mirror, keeps what it fetches in `cache`, and is not kept offline."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with served() as mirror:
        template = mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", mirror.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(client, "IS_OFFLINE", False)
        yield mirror
