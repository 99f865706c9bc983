"""The shell tools of a Slurm site, without a Slurm: following logs, serving an agent, help."""

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import REPO, until

FAKE_VLLM = f"""#!{sys.executable}
import http.server, os, sys
arguments = sys.argv[1:]
assert arguments[0] == "serve" and not any(os.environ["VLLM_API_KEY"] in word for word in arguments)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        allowed = self.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if self.path == "/health" or allowed else 401)
        self.end_headers()
    def log_message(self, *_):
        pass
port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@pytest.mark.parametrize(
    "script",
    [
        "scripts/tail",
        "scripts/cancel",
        "slurm/devcluster",
        "slurm/round.sbatch",
        "slurm/campaign.sbatch",
        "slurm/serve_agent.sbatch",
    ],
)
def test_help_says_how_it_is_called(script: str) -> None:
    environment = os.environ | {"AEVO_VENV": sys.prefix}
    done = subprocess.run(
        ["bash", script, "--help"], cwd=REPO, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:") and script in done.stdout


def test_round_script_refuses_what_is_no_round() -> None:
    done = subprocess.run(
        ["bash", "slurm/round.sbatch", "third"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and "third" in done.stderr


@pytest.mark.long(2)
def test_tail_shows_all_logs_and_later_attempts(tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "one" / "round-02"
    first = folder / "jobs" / "c00-train-1" / "attempt_1"
    first.mkdir(parents=True)
    (folder / "round.log").write_text("planned\n")
    (first / "log.txt").write_text("a\nb\nstep 1\n\x1b[31mred\n")
    follower = subprocess.Popen(
        ["bash", str(REPO / "scripts/tail"), str(folder.parent), "--lines", "2"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    seen: list[str] = []
    assert follower.stdout is not None

    def read(count: int) -> None:
        while len(seen) < count:
            seen.append(follower.stdout.readline().rstrip("\n"))  # type: ignore[union-attr]

    try:
        read(3)
        assert seen == [
            "round           | planned",
            "c00-train-1     | step 1",
            "c00-train-1     | [31mred",
        ]
        second = first.with_name("attempt_2")
        second.mkdir()
        (second / "log.txt").write_text("again\nhalf a li")
        other = folder / "jobs" / "c01-train-1" / "attempt_1"
        other.mkdir(parents=True)
        (other / "log.txt").write_text("begun\n")
        read(5)
        assert seen[3:] == ["c00-train-1#2   | again", "c01-train-1     | begun"]
        with (second / "log.txt").open("a") as file:
            file.write("ne\n")
        read(6)
        assert seen[5] == "c00-train-1#2   | half a line"
    finally:
        os.killpg(follower.pid, signal.SIGTERM)
        follower.wait()


def test_served_agent_is_found_through_its_record(tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text(FAKE_VLLM)
    vllm.chmod(0o755)
    record = tmp_path / "runs" / "agent-endpoint.json"
    environment = os.environ | {
        "AEVO_VLLM": str(vllm),
        "AEVO_AGENT_RECORD": str(record),
        "SLURM_JOB_ID": "4711",
    }
    server = subprocess.Popen(
        ["bash", "slurm/serve_agent.sbatch", "Qwen/Qwen3-32B"],
        cwd=REPO,
        env=environment,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until(lambda: record.exists() or server.poll() is not None)
        found = json.loads(record.read_text())
        assert found["model"] == "Qwen/Qwen3-32B" and found["job_id"] == "4711"
        key = Path(found["api_key_file"])
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        port = found["base_url"].rsplit(":", 1)[1].split("/")[0]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models",
            headers={"Authorization": f"Bearer {key.read_text()}"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(request, timeout=10).status == 200
    finally:
        os.kill(server.pid, signal.SIGTERM)
        said, _ = server.communicate(timeout=200)
    assert not record.exists(), "a server that ended is still announced"
    assert key.read_text() not in said
