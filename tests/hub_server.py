"""A small Hub on the loopback address, for tests: the real client talks to it over real HTTP.

It answers what huggingface_hub 2.x asks for when repositories are made, written and read, counts every byte, and fails
on demand. Large files come by git LFS's basic transfer: clients set HF_HUB_DISABLE_XET. A test fixture, not a product.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_ENDINGS = (".safetensors", ".bin")
WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
DATE = "2024-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """A file's content, on disk: git's id of it, and SHA-256 where it is kept as a large file."""

    path: Path
    size: int
    oid: str
    sha256: str | None = None


@dataclass
class Repo:
    private: bool
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """Answer `times` requests that match with `status`, or cut the connection after so many bytes of the body."""

    method: str
    pattern: str
    status: int | None = None
    cut_after: int | None = None
    times: int = 1
    # Do what was asked for, and cut before answering.
    late: bool = False


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int
    received: int
    sent: int
    # Whether a token came with it.
    token: bool


class Hub:
    """The server and its repositories. `with Hub(folder) as hub:` serves at `hub.url`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, Blob] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        # Where so many commits wait for each other: writers at the same time.
        self.meeting: threading.Barrier | None = None
        (folder / "blobs").mkdir(parents=True)
        handler = type("BoundHandler", (Handler,), {"hub": self})
        # Large files lie at another address, as on the real Hub: clients must not take their token there.
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        # By another name, since huggingface_hub takes a redirect to the same one for one within the Hub.
        self.url, self.store_url = (
            f"http://{name}:{server.server_address[1]}"
            for name, server in zip(("127.0.0.1", "localhost"), self.servers, strict=True)
        )

    def __enter__(self) -> Hub:
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def client_environment(self, home: Path) -> dict[str, str]:
        """What a client's process needs to come here, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home),
            "HF_TOKEN": WRITER, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1", "NO_PROXY": "127.0.0.1,localhost",
        }  # fmt: skip

    def create(self, repo_id: str, private: bool = False) -> Repo:
        with self.lock:
            repo = self.repos[repo_id] = Repo(private)
            self.commit(repo, "main", {".gitattributes": self.store(b"*.safetensors filter=lfs\n")}, "initial commit")
            return repo

    def publish(self, repo_id: str, files: dict[str, bytes | Path], private: bool = False) -> Repo:
        """Make a repository, or a commit in one, without a client. Files of a Path are not copied."""
        repo = self.repos.get(repo_id) or self.create(repo_id, private)
        blobs = {name: self.store(content, large=name.endswith(LFS_ENDINGS)) for name, content in files.items()}
        self.commit(repo, "main", {**repo.commits[repo.refs["main"]], **blobs}, "published")
        return repo

    def publish_folder(self, repo_id: str, folder: Path, private: bool = False) -> Repo:
        return self.publish(repo_id, {p.name: p for p in folder.iterdir() if p.is_file()}, private)

    def store(self, content: bytes | Path, large: bool = False) -> Blob:
        if isinstance(content, bytes):
            path = self.folder / "blobs" / hashlib.sha256(content).hexdigest()
            path.write_bytes(content)
        else:
            path = content
        size = path.stat().st_size
        git, sha = hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                git.update(chunk)
                sha.update(chunk)
        blob = Blob(path, size, git.hexdigest(), sha.hexdigest() if large else None)
        if large:
            self.lfs[blob.sha256] = blob
        return blob

    def commit(self, repo: Repo, ref: str, files: dict[str, Blob], message: str) -> str:
        listing = json.dumps([ref, repo.refs.get(ref), message, sorted((k, v.oid) for k, v in files.items())])
        oid = hashlib.sha1(listing.encode()).hexdigest()
        repo.commits[oid], repo.messages[oid], repo.refs[ref] = files, message, oid
        return oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[repo_id]
        listed = repo.commits[repo.refs.get(revision, revision)]
        return {name: blob.path.read_bytes() for name, blob in listed.items()}

    def fail(self, method: str, pattern: str, **how: Any) -> None:
        self.faults.append(Fault(method, pattern, **how))

    def counted(self) -> dict[str, int]:
        """Bytes that came in and went out since the last call."""
        with self.lock:
            requests, self.requests = self.requests, []
        return {
            "received": sum(request.received for request in requests),
            "sent": sum(request.sent for request in requests),
            "requests": len(requests),
        }


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), parse_qs(url.query)
        self.received = self.sent = self.cut_after = 0
        self.answered = False
        fault = self.find_fault()
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        if fault and fault.cut_after is not None and self.command in ("PUT", "POST") and not fault.late:
            self.rfile.read(min(length, fault.cut_after))
            return self.cut()
        body = self.hub.folder / f"body-{threading.get_ident()}"
        with open(body, "wb") as file:
            for chunk in self.chunks() if chunked else self.pieces(length):
                self.received += len(chunk)
                file.write(chunk)
        self.body = body
        if fault and fault.status is not None:
            return self.error(fault.status, "", "made to fail")
        self.cut_after = fault.cut_after if fault and not fault.late else None
        self.late = bool(fault and fault.late)
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, self.route)
            if found and self.command in method:
                return answer(self, **found.groupdict())
        return self.error(404, "", f"no such address: {self.route}")

    def find_fault(self) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times > 0 and fault.method == self.command and re.search(fault.pattern, self.route):
                    fault.times -= 1
                    return fault
        return None

    def pieces(self, length: int) -> Any:
        while length > 0:
            chunk = self.rfile.read(min(length, 1 << 20))
            if not chunk:
                return
            length -= len(chunk)
            yield chunk

    def chunks(self) -> Any:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def cut(self) -> None:
        """End the connection in the middle, as a lost line does."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        self.note(0)

    def note(self, status: int) -> None:
        with self.hub.lock:
            self.hub.requests.append(
                Request(self.command, self.route, status, self.received, self.sent, bool(self.token()))
            )

    def answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if self.late:
            return self.cut()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.sent += len(content)
        self.note(status)

    def json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def error(self, status: int, code: str, message: str, **headers: str) -> None:
        self.late = False
        codes = {"X-Error-Code": code} if code else {}
        self.answer(
            status, json.dumps({"error": message}).encode(),
            {**codes, "X-Error-Message": message, "Content-Type": "application/json", **headers},
        )  # fmt: skip

    def read_json(self) -> Any:
        return json.loads(self.body.read_bytes() or b"{}")

    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def allowed(self, *, write: bool) -> bool:
        """Whether the token is known and suffices; answers if not."""
        token = self.token()
        if token not in (None, WRITER, READER):
            self.error(401, "", "Invalid credentials in Authorization header")
        elif write and token is None:
            self.error(401, "", "Please log in")
        elif write and token == READER:
            self.error(403, "", "You don't have the rights to write here")
        else:
            return True
        return False

    def find(self, repo_id: str, *, write: bool = False) -> Repo | None:
        repo = self.hub.repos.get(repo_id)
        if not self.allowed(write=write):
            return None
        if repo is None or (repo.private and self.token() is None):
            self.error(401 if self.token() is None else 404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def at(self, repo: Repo, revision: str) -> str | None:
        oid = repo.refs.get(revision, revision)
        if oid in repo.commits:
            return oid
        self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def create_repo(self) -> None:
        if not self.allowed(write=True):
            return
        asked = self.read_json()
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        with self.hub.lock:
            there = repo_id in self.hub.repos
            if not there:
                self.hub.create(repo_id, asked.get("visibility") == "private")
        self.json({"url": f"{self.hub.url}/{repo_id}"}, 409 if there else 200)

    def create_branch(self, repo_id: str, branch: str) -> None:
        repo = self.find(repo_id, write=True)
        if repo is None:
            return
        if branch in repo.refs:
            return self.error(409, "", "Reference already exists")
        repo.refs[branch] = self.at(repo, self.read_json().get("startingPoint") or "main")
        self.answer(201)

    def validate_yaml(self) -> None:
        found = re.match(r"---\s*\n(.*?)\n---\s*\n", self.read_json()["content"], flags=re.DOTALL)
        if found is None:
            return self.json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        metadata = yaml.safe_load(found[1])
        names = {"language", "license", "datasets", "pipeline_tag", "base_model", "tags", "metrics", "library_name"}
        errors = [
            f'"{k}" must be text' for k in ("license", "pipeline_tag") if not isinstance(metadata.get(k, ""), str)
        ]
        errors += [f'"{k}" must not be empty' for k in names & metadata.keys() if not metadata[k]]
        if metadata.get("base_model_relation", "adapter") not in ("adapter", "finetune", "merge", "quantized"):
            errors.append('"base_model_relation" is unknown')
        self.json({"errors": [{"message": e} for e in errors], "warnings": []}, 400 if errors else 200)

    def preupload(self, repo_id: str, revision: str) -> None:
        # A pull request needs no right to write.
        repo = self.find(repo_id, write="create_pr" not in self.query)
        oid = repo and self.at(repo, revision)
        if oid is None:
            return
        answers = []
        for asked in self.read_json()["files"]:
            large = asked["path"].endswith(LFS_ENDINGS) or asked["size"] > 10 << 20
            there = repo.commits[oid].get(asked["path"])
            answer = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": there.sha256 or there.oid} if there else {}))
        self.json({"files": answers})

    def lfs_batch(self, repo_id: str) -> None:
        if self.find(repo_id) is None:
            return
        objects = []
        for asked in self.read_json()["objects"]:
            actions = {} if asked["oid"] in self.hub.lfs else {
                "actions": {
                    "upload": {"href": f"{self.hub.store_url}/lfs/{asked['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs-verify"},
                }
            }  # fmt: skip
            objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
        self.json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        target = self.hub.folder / "blobs" / oid
        # A late fault loses the answer, not the bytes.
        if self.received == int(self.headers.get("Content-Length") or self.received):
            shutil.move(self.body, target)
            blob = self.hub.store(target, large=True)
            if blob.sha256 != oid:
                del self.hub.lfs[blob.sha256]
                return self.error(400, "", "another content than announced")
        self.answer(200)

    def lfs_verify(self) -> None:
        asked = self.read_json()
        there = self.hub.lfs.get(asked["oid"])
        self.answer(200) if there and there.size == asked["size"] else self.error(404, "", "not uploaded")

    def make_commit(self, repo_id: str, revision: str) -> None:
        pull_request = "create_pr" in self.query
        repo = self.find(repo_id, write=not pull_request)
        oid = repo and self.at(repo, revision)
        if oid is None:
            return
        if self.hub.meeting is not None:
            self.hub.meeting.wait(timeout=30)
            self.hub.meeting = None
        lines = [json.loads(line) for line in self.body.read_bytes().splitlines()]
        with self.hub.lock:
            header = lines[0]["value"]
            if header.get("parentCommit", oid) != repo.refs.get(revision):
                return self.error(412, "", "A commit has happened since. Please refresh and try again.")
            files = dict(repo.commits[repo.refs[revision]])
            for line in lines[1:]:
                key, value = line["key"], line["value"]
                if key == "file":
                    files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
                elif key == "lfsFile":
                    if value["oid"] not in self.hub.lfs:
                        return self.error(400, "", f"{value['path']} was not uploaded")
                    files[value["path"]] = self.hub.lfs[value["oid"]]
                elif files.pop(value["path"], None) is None:
                    return self.error(404, "EntryNotFound", "A file with this name doesn't exist")
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
            ref = f"refs/pr/{number}" if pull_request else revision
            made = self.hub.commit(repo, ref, files, header["summary"])
        answer = {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{made}", "commitOid": made, "success": True}
        if pull_request:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/{number}"
        self.json(answer)

    def model_info(self, repo_id: str, revision: str | None = None) -> None:
        repo = self.find(repo_id)
        oid = repo and self.at(repo, revision or "main")
        if oid is not None:
            siblings = [
                {"rfilename": name, "size": blob.size, "blobId": blob.oid}
                | ({"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}} if blob.sha256 else {})
                for name, blob in sorted(repo.commits[oid].items())
            ]
            self.json({"id": repo_id, "sha": oid, "private": repo.private, "tags": [], "siblings": siblings})

    def tree(self, repo_id: str, revision: str, path: str | None = None) -> None:
        repo = self.find(repo_id)
        oid = repo and self.at(repo, revision)
        if oid is None:
            return
        folder = f"{path}/" if path else ""
        listed: dict[str, dict[str, Any]] = {}
        for name, blob in sorted(repo.commits[oid].items()):
            if name.startswith(folder):
                rest = name.removeprefix(folder)
                if "/" in rest and self.query.get("recursive") != ["true"]:
                    name = folder + rest.split("/")[0]
                    listed[name] = {"type": "directory", "path": name, "oid": "0" * 40}
                    continue
                lfs = {"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}} if blob.sha256 else {}
                listed[name] = {"type": "file", "path": name, "size": blob.size, "oid": blob.oid, **lfs}
        if folder and not listed:
            return self.error(404, "EntryNotFound", f"{path} does not exist", **{"X-Repo-Commit": oid})
        self.json(list(listed.values()))

    def refs(self, repo_id: str) -> None:
        repo = self.find(repo_id)
        if repo is not None:
            heads = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.refs.items()]
            self.json({"branches": heads, "converts": [], "tags": []})

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repo = self.find(repo_id)
        oid = repo and self.at(repo, revision)
        if oid is None:
            return
        blob = repo.commits[oid].get(path)
        if blob is None:
            return self.error(404, "EntryNotFound", f"{path} does not exist", **{"X-Repo-Commit": oid})
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.sha256 or blob.oid}"'}
        if blob.sha256 is None:
            return self.send_file(blob, headers)
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        self.answer(302, b"", {**headers, "Location": f"{self.hub.store_url}/lfs/{blob.sha256}"})

    def lfs_download(self, oid: str) -> None:
        self.send_file(self.hub.lfs[oid], {"ETag": f'"{oid}"'})

    def send_file(self, blob: Blob, headers: dict[str, str]) -> None:
        start, stop, status = 0, blob.size, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and blob.size:
            start, stop, status = int(asked[1]), min(int(asked[2] or blob.size) + 1, blob.size), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(stop - start), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return self.note(status)
        with open(blob.path, "rb") as file:
            file.seek(start)
            while start < stop:
                if self.cut_after is not None and self.sent >= self.cut_after:
                    self.wfile.flush()
                    return self.cut()
                step = min(1 << 20, stop - start, max(1, self.cut_after - self.sent) if self.cut_after else 1 << 20)
                chunk = file.read(step)
                self.wfile.write(chunk)
                start, self.sent = start + len(chunk), self.sent + len(chunk)
        self.note(status)

    def whoami(self) -> None:
        if self.token() in (WRITER, READER):
            return self.json({"name": "user", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        self.error(401, "", "Invalid credentials in Authorization header")


REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
API = rf"/api/models/{REPO}"
REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    ("POST", r"/api/repos/create", Handler.create_repo),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("POST", rf"{API}/branch/(?P<branch>.+)", Handler.create_branch),
    ("POST", rf"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"{API}/commit/{REVISION}", Handler.make_commit),
    ("GET", rf"{API}", Handler.model_info),
    ("GET", rf"{API}/revision/{REVISION}", Handler.model_info),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", Handler.tree),
    ("GET", rf"{API}/refs", Handler.refs),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_upload),
    ("POST", r"/lfs-verify", Handler.lfs_verify),
    (("GET", "HEAD"), r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_download),
    (("GET", "HEAD"), rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]  # fmt: skip
