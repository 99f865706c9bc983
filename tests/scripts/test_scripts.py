"""The shell scripts: lint, and the bootstrap with a fake Python, pip and GPU on a bare PATH."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO, until

ROOT = REPO
SCRIPTS = [
    "scripts/quickstart",
    "scripts/test",
    "scripts/gpu_check",
    "scripts/lib/bootstrap.sh",
    ".ci/run",
    "scripts/tail",
    "scripts/cancel",
    "slurm/devcluster",
    "slurm/round.sbatch",
    "slurm/campaign.sbatch",
    "slurm/serve_agent.sbatch",
    "slurm/lib/driver.sh",
    "slurm/lib/devcluster_conf.sh",
]
# All that the scripts may rely on besides Python (and apt, pip, nvidia-smi where they are asked)
TOOLS = ["awk", "bash", "cat", "cut", "df", "dirname", "env", "flock", "grep", "mkdir", "sha256sum"]

# Stands for a Python that can make environments: logs what it is asked, and answers like one.
PYTHON = r"""#!/usr/bin/env bash
args="$*"
case "$args" in
*sys.version_info\[:2\]\ *) exit "${FAKE_TOO_OLD:-0}" ;;
*"import venv"*) exit "${FAKE_NO_VENV:-0}" ;;
*"print("*) echo 3.11 ;;
--version) echo "Python 3.11.7" ;;
"-m venv"*)
    printf 'venv\n' >>"$FAKE_LOG"
    for last; do :; done
    mkdir -p "$last/bin"
    cat "$FAKE_PYTHON" >"$last/bin/python"
    chmod +x "$last/bin/python" ;;
"-m pip"*)
    printf '%s\n' "${args#-m pip }" >>"$FAKE_LOG"
    exit "${FAKE_PIP:-0}" ;;
*) printf 'run %s\n' "$args" >>"$FAKE_LOG" ;;
esac
"""


class Machine:
    """A copy of the repository's scripts in a folder with a space, and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.bin = folder / "a clone", folder / "bin"
        self.log = folder / "log"
        shutil.copytree(ROOT / "scripts", self.repo / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.repo)
        self.bin.mkdir()
        for name in [*TOOLS, "chmod"]:
            found = shutil.which(name)
            assert found, f"{name} is needed by this test"
            (self.bin / name).symlink_to(found)
        self.python = self.tool("python3.11", PYTHON)
        self.env = {
            "PATH": str(self.bin),
            "FAKE_LOG": str(self.log),
            "FAKE_PYTHON": str(self.python),
            "HOME": str(folder),
        }

    def tool(self, name: str, text: str) -> Path:
        """Puts a fake command on the PATH."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def call(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs one of the scripts."""
        return subprocess.run(
            ["bash", str(self.repo / argv[0]), *argv[1:]],
            env={**self.env, **env},
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
            cwd=self.repo.parent,
        )

    def calls(self) -> list[str]:
        """What the fake Python did since the last time this was asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def pip(requirement: str) -> str:
    return f"install --disable-pip-version-check {requirement}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_shell_is_clean(name: str) -> None:
    assert subprocess.run(["bash", "-n", str(ROOT / name)], check=False).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(
        ["shellcheck", "-x", name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "name", ["scripts/quickstart", "scripts/test", "scripts/gpu_check", ".ci/run"]
)
def test_entry_scripts_are_executable(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", ["scripts/quickstart", "scripts/test"])
def test_help_installs_nothing(machine: Machine, name: str) -> None:
    result = machine.call(name, "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"usage: {name}")
    assert machine.calls() == []


def test_quickstart_installs_torch_first_then_runs_the_campaign(machine: Machine) -> None:
    result = machine.call("scripts/quickstart", "seed=7", "campaign=my run")
    assert result.returncode == 0, result.stderr
    assert machine.calls() == [
        "venv",
        pip("torch==2.13.0"),
        pip("-e .[train]"),
        "run -u -m aevo.campaign rounds=2 seed=7 campaign=my run",
    ]


def test_second_call_installs_nothing_until_something_changes(machine: Machine) -> None:
    machine.call("scripts/quickstart")
    machine.calls()
    machine.call("scripts/quickstart")
    assert machine.calls() == ["run -u -m aevo.campaign rounds=2"]
    machine.call("scripts/quickstart", AEVO_TORCH="torch==2.14.0+cpu")
    assert machine.calls()[:2] == [pip("torch==2.14.0+cpu"), pip("-e .[train]")]
    with (machine.repo / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    machine.call("scripts/quickstart")
    assert machine.calls()[:2] == [pip("torch==2.13.0"), pip("-e .[train]")]


def test_gpu_gets_the_plain_torch(machine: Machine) -> None:
    machine.tool("nvidia-smi", "#!/usr/bin/env bash\necho 'GPU 0: NVIDIA H200'\n")
    machine.call("scripts/quickstart")
    assert machine.calls()[1] == pip("torch>=2.6")


def test_driver_without_a_gpu_gets_the_cpu_build(machine: Machine) -> None:
    machine.tool("nvidia-smi", "#!/usr/bin/env bash\necho 'No devices were found'; exit 6\n")
    machine.call("scripts/quickstart")
    assert machine.calls()[1] == pip("torch==2.13.0")


def test_failed_installation_is_tried_again(machine: Machine) -> None:
    assert machine.call("scripts/quickstart", FAKE_PIP="1").returncode == 1
    assert machine.calls() == ["venv", pip("torch==2.13.0")]
    assert machine.call("scripts/quickstart").returncode == 0
    assert machine.calls()[0] == pip("torch==2.13.0"), "the environment itself is kept"


def test_test_extras_serve_quickstart_too(machine: Machine) -> None:
    machine.tool("ruff", "#!/usr/bin/env bash\n")
    machine.call("scripts/test", "-k", "a b")
    calls = machine.calls()
    assert pip("-e .[train,megatron,slurm,dev]") in calls
    assert calls[-1] == "run -m pytest -n 5 --dist loadscope -k a b"
    machine.call("scripts/quickstart")
    assert machine.calls() == ["run -u -m aevo.campaign rounds=2"]


def test_quick_leaves_out_what_is_long(machine: Machine) -> None:
    machine.tool("ruff", "#!/usr/bin/env bash\n")
    machine.call("scripts/test", "--quick", "tests/x.py", AEVO_TEST_WORKERS="0")
    assert machine.calls()[-1] == "run -m pytest -n 0 --dist loadscope -m not long tests/x.py"


def test_a_failed_step_fails_the_test_command(machine: Machine) -> None:
    result = machine.call("scripts/test")  # the fake installation brings no ruff and no mypy
    assert result.returncode == 1
    assert "error: failed: ruff ruff format mypy mypy substrate/default" in result.stderr
    assert "pytest 0 s" in result.stderr


def test_missing_python_names_the_packages(machine: Machine) -> None:
    machine.python.unlink()
    result = machine.call("scripts/quickstart")
    assert result.returncode == 1 and "AEVO_PYTHON=" in result.stderr
    machine.tool("apt-cache", "#!/usr/bin/env bash\n[[ $2 == python3.12 ]]\n")
    result = machine.call("scripts/quickstart")
    assert "sudo apt-get install -y python3.12 python3.12-venv" in result.stderr
    assert result.stderr.count("\n") == 1


def test_missing_venv_module_names_the_package(machine: Machine) -> None:
    result = machine.call("scripts/quickstart", FAKE_NO_VENV="1")
    assert result.returncode == 1
    assert "sudo apt-get install -y python3.11-venv" in result.stderr


def test_wrong_python_is_refused(machine: Machine) -> None:
    result = machine.call("scripts/quickstart", AEVO_PYTHON="python3.11", FAKE_TOO_OLD="1")
    assert result.returncode == 1
    assert "AEVO_PYTHON=python3.11 is not a Python 3.11 or 3.12" in result.stderr


def test_full_disk_is_named_before_anything_is_installed(machine: Machine) -> None:
    (machine.bin / "df").unlink()
    machine.tool("df", "#!/usr/bin/env bash\necho H; echo '/dev/x 9 9 1200000 1% /'\n")
    result = machine.call("scripts/quickstart")
    assert result.returncode == 1 and "1 GB free" in result.stderr
    assert machine.calls() == []


def test_bootstrap_accepts_this_python(machine: Machine) -> None:
    """The same version check, answered by a real interpreter."""
    script = 'REPO="$1"; source "$REPO/scripts/lib/bootstrap.sh"; python_serves "$2" && find_python'
    result = subprocess.run(
        ["bash", "-euc", script, "-", str(ROOT), sys.executable],
        capture_output=True,
        text=True,
        env={**os.environ, "AEVO_PYTHON": sys.executable},
        check=False,
    )
    assert result.returncode == 0 and result.stdout.strip() == sys.executable, result.stderr


def tail(campaign: Path, *options: str) -> list[str]:
    """What scripts/tail prints of what is there."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/tail"), str(campaign), "--no-follow", *options],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return done.stdout.splitlines()


def test_tail_shows_a_last_line_without_its_end(tmp_path: Path) -> None:
    (tmp_path / "round-01").mkdir()
    (tmp_path / "round-01/round.log").write_text("a\nhalf a line")
    assert tail(tmp_path) == ["round           | a", "round           | half a line"]


def test_tail_takes_the_newest_round_by_its_number(tmp_path: Path) -> None:
    for number in ("02", "99", "100"):
        (tmp_path / f"round-{number}").mkdir()
        (tmp_path / f"round-{number}/round.log").write_text(number + "\n")
    assert tail(tmp_path) == ["round           | 100"]
    assert tail(tmp_path, "--round", "2") == ["round           | 02"]


def test_tail_shows_a_log_that_begins_later_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "round-01").mkdir()
    (tmp_path / "round-01/round.log").write_text("planned\n")
    attempt = tmp_path / "round-01/jobs/c00-train-1/attempt_1"
    with subprocess.Popen(
        ["bash", str(ROOT / "scripts/tail"), str(tmp_path), "--lines", "1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "round           | planned\n"
        attempt.mkdir(parents=True)
        (attempt / "new").write_text("1\n2\n3\n")
        (attempt / "new").rename(attempt / "log.txt")
        seen = [follower.stdout.readline().split("| ")[1].strip() for _ in range(3)]
        follower.terminate()
    assert seen == ["1", "2", "3"]


def serve(tmp_path: Path, server: str, **env: str) -> "subprocess.Popen[str]":
    """slurm/serve_agent.sbatch with a Python program in vLLM's place."""
    (tmp_path / "vllm").write_text(f"#!{sys.executable}\n{server}")
    (tmp_path / "vllm").chmod(0o755)
    return subprocess.Popen(
        ["bash", str(ROOT / "slurm/serve_agent.sbatch"), "model"],
        text=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "AEVO_VLLM": str(tmp_path / "vllm"),
            "AEVO_AGENT_RECORD": str(tmp_path / "record.json"),
            **env,
        },
    )


@pytest.mark.parametrize("code", [0, 3])
def test_served_agent_that_ends_at_once_is_an_error(tmp_path: Path, code: int) -> None:
    _, said = serve(tmp_path, f"raise SystemExit({code})").communicate(timeout=200)
    assert said.splitlines() == [
        f"error: the server ended with exit code {code} before it answered"
    ]
    assert not (tmp_path / "record.json").exists()


def test_served_agent_is_asked_past_the_site_s_proxy(tmp_path: Path) -> None:
    server = """import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""
    nobody = "http://127.0.0.1:9"
    process = serve(tmp_path, server, http_proxy=nobody, no_proxy="", NO_PROXY="")
    try:
        until((tmp_path / "record.json").exists)
    finally:
        process.terminate()
        process.communicate(timeout=200)


DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_only_what_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    for module in re.findall(r"python -m (aevo\.\w+)", text):
        assert importlib.util.find_spec(module), module
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / name).parent.joinpath(target).exists(), target
    for script in re.findall(r"(?<![\w/])scripts/\w+", text):
        assert (ROOT / script).exists(), script
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 110


def test_every_module_of_the_architecture_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().split("## The house")[1].split("## ")[0]
    rows = [row.split("|") for row in text.splitlines() if row.startswith("| `")]
    assert len(rows) > 15
    for _, packages, _, first, *_ in rows:
        for package in re.findall(r"`(\w+)`", packages):
            here = ROOT / "aevo" / package
            assert here.is_dir() or here.with_suffix(".py").exists(), package
            for module in re.findall(r"`([\w/]+)`", first):
                assert (here / module).is_dir() or (here / f"{module}.py").exists(), module


def test_documents_name_only_modules_and_paths_that_exist() -> None:
    """Also in running text, where a module that moved leaves its old name behind."""
    for name in DOCUMENTS:
        if name == "CHANGELOG.md":  # tells of what was
            continue
        text = (ROOT / name).read_text()
        for path in re.findall(r"(?<![\w/])(?:aevo|conf|substrate|tests)/[\w./-]+", text):
            there = path.rstrip(".:/").split("::")[0]
            example = re.search(r"NAME|mysite", there)
            assert example or (ROOT / there).exists() or list(ROOT.glob(f"{there}*")), (name, path)
        for module in re.findall(r"`(aevo(?:\.\w+)+)`", text):
            assert _module(module), (name, module)


def _module(name: str) -> bool:
    """True if a dotted name is a module of aevo, or what follows a module is in it."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        here = ROOT.joinpath(*parts[:length])
        if here.with_suffix(".py").is_file():
            return True
        if here.is_dir():
            return length == len(parts)
    return False
