"""A hub on this machine: the part of the protocol that uploading to one and downloading from it take."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """files: what each repository holds, by name; requests: what was asked, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Hub":
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._noted()
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.files.setdefault(repo, {})
            return self._json({"url": f"{self.server.address}/{repo}", "name": repo, "id": "1"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repo, action = self._repo(path)
        if repo not in self.server.files:
            return self._missing()
        if action.startswith("preupload"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        for line in body.splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                assert one["value"]["encoding"] == "base64"
                self.server.files[repo][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
        url = f"{self.server.address}/{repo}/commit/{COMMIT}"
        return self._json({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None, "success": True})

    def do_GET(self) -> None:
        path = self._noted()
        if path.startswith("/api/models/"):
            repo, action = self._repo(path)
            if repo not in self.server.files:
                return self._missing()
            names = sorted(self.server.files[repo])
            if action.startswith("tree"):
                return self._json([self._entry(repo, name) for name in names])
            return self._json(
                {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            )
        repo, _, file = unquote(path).strip("/").partition(f"/resolve/{COMMIT}/")
        content = self.server.files.get(repo, {}).get(file)
        if content is None:
            return self._missing("EntryNotFound")
        self._send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def _noted(self) -> str:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        return path

    def _repo(self, path: str) -> tuple[str, str]:
        owner, name, *action = unquote(path).removeprefix("/api/models/").split("/")
        return f"{owner}/{name}", "/".join(action)

    def _entry(self, repo: str, name: str) -> dict[str, Any]:
        content = self.server.files[repo][name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *parts: object) -> None:
        pass
