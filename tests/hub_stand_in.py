"""A server on this machine that takes uploads as the Hugging Face Hub does: as far as huggingface_hub needs it.

It was written from huggingface_hub 2.4's requests. Large files go over the LFS protocol, others in the commit.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_stand_in"
LARGE = 1_000_000
FIRST, DATE = "initial commit", "2026-11-28T00:00:00.000Z"


@dataclass
class Repository:
    kind: str
    private: bool
    sdk: str | None
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=list)
    theirs: bool = False  # of somebody else


class Answering(BaseHTTPRequestHandler):
    "Answers with bytes or JSON, and prints nothing."

    def answer(self, content, status=200, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body)), "Content-Type": "application/json"} | dict(headers)
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Hub(Answering):
    repositories: dict[tuple[str, str], Repository]
    stored: dict[str, bytes]
    writes: list[str]
    full: set[str]  # repositories that take no commit

    def do_GET(self):
        path = self.path.partition("?")[0]
        kind, name, rest = self.named(path)
        found = self.repositories.get((kind, name))
        if found is None:
            return self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/") and rest == "":
            return self.answer(
                {
                    "id": name,
                    "sha": self.sha(found),
                    "private": found.private,
                    "siblings": [{"rfilename": f} for f in found.files],
                }
            )
        if rest.startswith("commits/"):
            titles = found.commits[::-1] if found.theirs else [FIRST, *found.commits][::-1]
            return self.answer(
                [{"id": "0" * 40, "title": t, "message": "", "authors": [], "date": DATE} for t in titles]
            )
        if rest.startswith("tree/"):
            return self.answer(
                [
                    {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for f, c in found.files.items()
                ]
            )
        if rest.startswith("resolve/"):
            content = found.files[rest.split("/", 2)[2]]
            return self.answer(
                content, 200, {"X-Repo-Commit": self.sha(found), "ETag": hashlib.sha1(content).hexdigest()}
            )
        raise AssertionError(self.path)

    do_HEAD = do_GET

    def do_POST(self):
        body, path = self.body(), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        self.writes.append(path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            kind, name = (
                asked.get("type", "model"),
                f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"],
            )
            self.repositories[kind, name] = Repository(
                kind, asked.get("private") or asked.get("visibility") == "private", asked.get("sdk")
            )
            if kind == "space":  # what the hub commits with it
                example = {"README.md": b"---\nsdk: static\n---\n", "index.html": b"example", "style.css": b""}
                self.repositories[kind, name].files |= example
            return self.answer({"url": f"{self.server.address}/{name}", "id": name, "name": name})
        kind, name, rest = self.named(path)
        if rest == "info/lfs/objects/batch":
            objects = [
                {
                    "oid": each["oid"],
                    "size": each["size"],
                    "authenticated": True,
                    "actions": {"upload": {"href": f"{self.server.address}/stored/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            return self.answer(
                {"transfer": "basic", "objects": objects}, 200, {"Content-Type": "application/vnd.git-lfs+json"}
            )
        found = self.repositories[kind, name]
        if rest.startswith("preupload/"):
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] > LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for each in json.loads(body)["files"]
            ]
            return self.answer({"files": modes})
        assert rest.startswith("commit/"), self.path
        if name in self.full:
            return self.answer({"error": "no space left"}, 500)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                found.commits.append(value["summary"])
            elif line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del found.files[value["path"]]
            else:
                raise AssertionError(line["key"])
        sha = self.sha(found)
        self.answer({"success": True, "commitOid": sha, "commitUrl": f"{self.server.address}/{name}/commit/{sha}"})

    def do_PUT(self):
        body = self.body()
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.stored[self.path.rpartition("/")[2]] = body
        self.answer(b"")

    def named(self, path: str) -> tuple[str, str, str]:
        "Kind, USER/NAME and the rest of a path."
        parts = path.removeprefix("/api").strip("/").split("/")
        kind = "space" if parts[0] == "spaces" else "model"
        parts = parts[1:] if parts[0] in ("spaces", "models") else parts
        return kind, "/".join(parts[:2]).removesuffix(".git"), "/".join(parts[2:])

    def sha(self, repository: Repository) -> str:
        return hashlib.sha1(repr(sorted(repository.files)).encode() + bytes(len(repository.commits))).hexdigest()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


@contextlib.contextmanager
def hub() -> Iterator[tuple[str, type[Hub]]]:
    "The stand-in's address, and what it holds. It is empty."
    handler = type("Empty", (Hub,), {"repositories": {}, "stored": {}, "writes": [], "full": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address, handler
        server.shutdown()
