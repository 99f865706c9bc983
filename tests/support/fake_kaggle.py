"""A stand-in for Kaggle's API: real HTTP on this machine, for the real kaggle package.

    with FakeKaggle() as site:
        for name, value in site.environment.items(): monkeypatch.setenv(name, value)

The package's address for local development is http://localhost, without a port; the stand-in is
therefore its proxy, which is what the variables say. It keeps the team's submissions, pages its
lists, checks credentials and quota, and fails as it is told: `faults` holds, per method, what the
next calls get instead of, or after, their answer.
"""

import base64
import json
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from aevo.evaluate.adapters import CONFIG, WEIGHTS

HTML = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
QUOTA_TEXT = "You have exceeded the maximum number of submissions allowed per day."


@dataclass
class Fault:
    """What a call gets: an answer with a status; without one, the connection ends, after the call
    was `carried_out` or not, and after `hook` ran."""

    status: int | None = None
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    carried_out: bool = False
    hook: Callable[[], None] | None = None


def says(status: int, message: str, **headers: str) -> Fault:
    """An error as the API words it."""
    body = json.dumps({"code": status, "message": message}).encode()
    return Fault(status, body, headers=headers)


def page(status: int = 200) -> Fault:
    """A web page in the answer's place."""
    return Fault(status, HTML, "text/html")


class FakeKaggle:
    """One competition as one team sees it. `now` is its clock."""

    def __init__(
        self,
        competition: str = "the-challenge",
        page_size: int = 3,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.competition, self.page_size, self.now = competition, page_size, now
        self.user, self.key, self.token = "alice", "k3y-of-alice-0123456789", "KGAT_tok3n0123"
        self.daily, self.entered, self.disabled = 5, True, False
        self.score_after_s = 0.0
        self.scores: Callable[[str], str] = lambda description: "0.80"
        self.failing: Callable[[str], str] = lambda description: ""  # the scorer's complaint
        self.submissions: list[dict[str, Any]] = []
        self.board: list[str] = []
        self.faults: dict[str, list[Fault]] = {}
        self.calls: list[str] = []
        self.private_asked = 0
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which the kaggle package finds this site, with credentials."""
        address = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": address,
            "HTTP_PROXY": address,
            "no_proxy": "",
            "NO_PROXY": "",
            "KAGGLE_USERNAME": self.user,
            "KAGGLE_KEY": self.key,
        }

    def __enter__(self) -> "FakeKaggle":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, method: str, *faults: Fault) -> None:
        """The next calls of `method` fail so."""
        self.faults.setdefault(method, []).extend(faults)

    def fault(self, method: str) -> Fault | None:
        """What the call that has come fails with, if it does."""
        left = self.faults.get(method)
        return left.pop(0) if left else None

    def described(self) -> list[str]:
        """Descriptions of our submissions, oldest first."""
        return [
            item["description"]
            for item in self.submissions
            if item["description"].startswith("aevo-")
        ]

    def put(self, description: str, age_s: float = 0.0, size: int = 0) -> dict[str, Any]:
        """A submission, by us or by somebody else of the team."""
        item = {
            "ref": 1000 + len(self.submissions),
            "description": description,
            "at": self.now() - age_s,
            "total_bytes": size,
        }
        self.submissions.append(item)
        return item

    def today(self) -> int:
        """Submissions of the present UTC day."""
        day = datetime.fromtimestamp(self.now(), UTC).date()
        return sum(
            datetime.fromtimestamp(item["at"], UTC).date() == day for item in self.submissions
        )

    def answer(self, method: str, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Carries out a call."""
        with self._lock:
            if data.get("competitionName") not in (None, self.competition):
                return 404, {"code": 404, "message": "Competition not found"}
            return getattr(self, f"_{method}")(data)

    def _IntrospectToken(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        known = data.get("token") == self.token
        return 200, {"active": known, "username": self.user if known else ""}

    def _GetCompetition(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {
            "ref": self.competition,
            "userHasEntered": self.entered,
            "submissionsDisabled": self.disabled,
            "maxDailySubmissions": self.daily,
            "deadline": "2026-06-15T23:59:00Z",
        }

    def _GetSubmissionLimits(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        today = self.today()
        return 200, {
            "numToday": today,
            "numTotal": len(self.submissions),
            "numAllowedNow": max(0, self.daily - today),
        }

    def _ListSubmissions(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        newest = [self._shown(item) for item in reversed(self.submissions)]
        items, following = self._page(newest, data)
        return 200, {"submissions": items, "nextPageToken": following}

    def _GetLeaderboard(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if not data.get("overridePublic"):
            self.private_asked += 1
        rows, following = self._page(
            [
                {"teamId": i, "teamName": f"team {i}", "score": score}
                for i, score in enumerate(self.board, start=1)
            ],
            data,
        )
        return 200, {"submissions": rows, "nextPageToken": following}

    def _StartSubmissionUpload(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        token = f"blob{len(self._blobs)}"
        self._blobs[token] = b""
        return 200, {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def _CreateSubmission(self, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.today() >= self.daily:
            return 400, {"code": 400, "message": QUOTA_TEXT}
        blob = self._blobs[data["blobFileTokens"]]
        with zipfile.ZipFile(BytesIO(blob)) as archive:
            if sorted(archive.namelist()) != [CONFIG, WEIGHTS]:
                return 400, {"code": 400, "message": "Submission is not in the right format"}
        item = self.put(data.get("submissionDescription", ""), size=len(blob))
        return 200, {"message": "Successfully submitted", "ref": item["ref"]}

    def _page(self, rows: list[Any], data: dict[str, Any]) -> tuple[list[Any], str]:
        start = int(data.get("pageToken") or 0)
        end = start + min(self.page_size, data.get("pageSize") or 20)
        return rows[start:end], str(end) if end < len(rows) else ""

    def _shown(self, item: dict[str, Any]) -> dict[str, Any]:
        date = datetime.fromtimestamp(item["at"], UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        shown = {
            "ref": item["ref"],
            "description": item["description"],
            "date": date,
            "totalBytes": item["total_bytes"],
            "status": "PENDING",
        }
        if self.now() - item["at"] >= self.score_after_s:
            complaint = self.failing(item["description"])
            if complaint:
                return shown | {"status": "ERROR", "errorDescription": complaint}
            return shown | {
                "status": "COMPLETE",
                "privateScore": "0.99",
                "publicScore": self.scores(item["description"]),
            }
        return shown

    def allowed(self, header: str) -> bool:
        """True for our user's key or token."""
        basic = base64.b64encode(f"{self.user}:{self.key}".encode()).decode()
        return header in (f"Basic {basic}", f"Bearer {self.token}")


def _handler(site: FakeKaggle) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            method = self.path.rpartition("/")[2]
            site.calls.append(method)
            fault = site.fault(method)
            if fault is not None and fault.status is not None and not fault.carried_out:
                self._send(fault.status, fault.body, fault.kind, fault.headers)
                return
            if method != "IntrospectToken" and not site.allowed(
                self.headers.get("Authorization", "")
            ):
                self._send(401, b'{"code": 401, "message": "Unauthenticated"}')
                return
            status, answer = 0, dict[str, Any]()
            if fault is None or fault.carried_out:
                status, answer = site.answer(method, json.loads(body or b"{}"))
            if fault is not None and fault.hook is not None:
                fault.hook()
            if fault is not None:  # the connection ends without an answer
                self.close_connection = True
                return
            self._send(status, json.dumps(answer).encode())

        def do_PUT(self) -> None:
            site.calls.append("upload")
            data = self._body()
            fault = site.fault("upload")
            if fault is not None and fault.status is not None:
                self._send(fault.status, fault.body, fault.kind, fault.headers)
                return
            site._blobs[self.path.rpartition("/")[2]] = data
            self._send(200, b"{}")

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _send(
            self,
            status: int,
            body: bytes,
            kind: str = "application/json",
            headers: dict[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler
