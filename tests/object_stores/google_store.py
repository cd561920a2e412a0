"""A store of objects in memory that answers like Google Cloud Storage, as far as gcsfs, tensorstore and Orbax ask it.

    python google_store.py PORT

It checks conditions on generations, as the true one does and packaged emulators do not; tensorstore and the lock of a
run's folder rely on them. There is one bucket of any name.
"""

import itertools
import json
import re
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_TIME = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Stored:
    generation: int
    content: bytes


class Store:
    """The objects, by name."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], bytearray]] = {}
        self.generations = itertools.count(1)
        self.lock = threading.RLock()

    def put(self, name: str, content: bytes, query: dict[str, str]) -> Stored | None:
        with self.lock:
            if not self.meets(name, query):
                return None
            self.objects[name] = Stored(next(self.generations), content)
            return self.objects[name]

    def meets(self, name: str, query: dict[str, str]) -> bool:
        wanted = query.get("ifGenerationMatch")
        now = self.objects[name].generation if name in self.objects else 0
        return wanted is None or int(wanted) == now


STORE = Store()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, query = self._split()
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)(/o)?(?:/(.+))?", path)
        if found is None:
            return self._answer(404)
        bucket, listing, name = found.groups()
        if not listing:
            return self._json({"kind": "storage#bucket", "name": bucket, "location": "US", "storageClass": "STANDARD"})
        if name is None:
            return self._list(bucket, query)
        name = unquote(name)
        with STORE.lock:
            stored = STORE.objects.get(name)
        if stored is None:
            return self._answer(404)
        if not STORE.meets(name, query):
            return self._answer(412)
        if query.get("ifGenerationNotMatch") == str(stored.generation):
            return self._answer(304)
        if query.get("alt") == "media":
            return self._media(stored)
        return self._json(_describe(bucket, name, stored))

    def do_POST(self) -> None:
        path, query = self._split()
        if "token" in query:
            return self.do_PUT()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/batch/storage/v1":
            return self._batch(body)
        bucket = path.split("/b/")[1].split("/")[0]
        kind = query.get("uploadType")
        if kind == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            with STORE.lock:
                token = str(len(STORE.uploads))
                STORE.uploads[token] = (name, query, bytearray())
            host = self.headers["Host"]
            return self._answer(
                200, headers={"Location": f"http://{host}/upload/storage/v1/b/{bucket}/o?token={token}"}
            )
        if kind == "multipart":
            boundary = self.headers["Content-Type"].split("boundary=")[1].strip("'\"").encode()
            _, first, second, *_ = body.split(b"--" + boundary)
            name = json.loads(first[first.index(b"{") : first.rindex(b"}") + 1])["name"]
            content = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
            content = content[: -2 if content.endswith(b"\r\n") else -1]
        else:
            name, content = query["name"], body
        self._stored(bucket, name, STORE.put(name, content, query))

    def do_PUT(self) -> None:
        path, query = self._split()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name, asked, held = STORE.uploads[query["token"]]
        held += body
        total = self.headers.get("Content-Range", "bytes */0").rpartition("/")[2]
        if total != "*" and len(held) < int(total):
            return self._answer(308, headers={"Range": f"bytes=0-{len(held) - 1}"})
        self._stored(path.split("/b/")[1].split("/")[0], name, STORE.put(name, bytes(held), asked))

    def do_DELETE(self) -> None:
        path, query = self._split()
        self._answer(_delete(unquote(path.split("/o/")[1]), query))

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _split(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter, start = query.get("prefix", ""), query.get("delimiter"), query.get("startOffset", "")
        items, prefixes = [], set()
        with STORE.lock:
            objects = sorted(STORE.objects.items())
        for name, stored in objects:
            if not name.startswith(prefix) or name < start or name >= query.get("endOffset", "\U0010ffff"):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(_describe(bucket, name, stored))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _media(self, stored: Stored) -> None:
        headers = {"x-goog-generation": str(stored.generation), "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._answer(200, stored.content, headers)
        total = len(stored.content)
        start = int(asked[1]) if asked[1] else max(0, total - int(asked[2]))
        stop = min(total, int(asked[2]) + 1) if asked[1] and asked[2] else total
        if start >= total:
            return self._answer(416, b"", headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        self._answer(206, stored.content[start:stop], headers)

    def _batch(self, body: bytes) -> None:
        answers = []
        for name in re.findall(rb"DELETE /storage/v1/b/[^/]+/o/(\S+?)(?:\?\S*)? HTTP", body):
            status = _delete(unquote(name.decode()), {})
            answers.append(f"--batch\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} Answer\r\n\r\n")
        content = ("".join(answers) + "--batch--").encode()
        self._answer(200, content, {"Content-Type": "multipart/mixed; boundary=batch"})

    def _stored(self, bucket: str, name: str, stored: Stored | None) -> None:
        if stored is None:
            self._answer(412, b'{"error": {"code": 412, "message": "Precondition Failed"}}')
        else:
            self._json(_describe(bucket, name, stored))

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _delete(name: str, query: dict[str, str]) -> int:
    with STORE.lock:
        if name not in STORE.objects:
            return 404
        if not STORE.meets(name, query):
            return 412
        del STORE.objects[name]
    return 204


def _describe(bucket: str, name: str, stored: Stored) -> dict[str, object]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "name": name,
        "bucket": bucket,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(len(stored.content)),
        "timeCreated": _TIME,
        "updated": _TIME,
        "contentType": "application/octet-stream",
        "etag": str(stored.generation),
    }


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
