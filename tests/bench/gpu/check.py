"""Proves the GPU paths on one GPU in under ten minutes, and leaves figures beside the estimates.

    scripts/gpu_check --out DIR [--wheels DIR] [--dry] [--only NAME,NAME] [--cap SECONDS]

Needs torch and transformers; what else is missing may lie in --wheels: *.whl, unpacked packages,
and bin/ with tools (bwrap). Nothing is installed: they are unpacked into a temporary folder. --dry
goes through every step at tiny sizes on CPU, as the test suite does.

Each phase is a process tree with a time limit of its own, ended as a whole; while one runs, the
next imports its libraries. What is known is in DIR/record.json after every phase, whatever becomes
of the next; DIR/table.md is the same for people, DIR/log.txt what phases printed. The exit status
is the number of phases that did not hold. Phases that matter most come first, so that the cap (540
s) cuts the others.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from tests.bench.gpu import phase
from tests.bench.gpu.table import table

REPO = Path(__file__).resolve().parents[3]
CAP_S = 540.0
LOG_BYTES = 8 << 20
# In the order of running: name, number in docs/gpu.md, seconds on a GPU
PHASES = {
    "environment": (0, 30),
    "numerics": (1, 90),
    "megatron": (3, 170),
    "confined": (7, 80),
    "peft": (2, 60),
    "experts": (4, 50),
    "adapter": (5, 60),
    "resume": (6, 60),
    "two_ranks": (8, 60),
    "failure": (9, 30),
}


class Running:
    """One phase: started early, to import its libraries, and told to begin when its turn comes."""

    def __init__(self, name: str, work: Path, dry: bool, log: Path) -> None:
        self.name, self.facts = name, work / f"{name}.jsonl"
        # A process that has met CUDA must not be forked; on CPU a fork saves the imports.
        context: Any = multiprocessing.get_context("fork" if dry else "spawn")
        self.turn = context.Event()
        self.process = context.Process(target=phase.main, args=(name, work, dry, log, self.turn))
        self.process.start()

    def run(self, seconds: float) -> dict[str, Any]:
        """Lets it go; what came of it, at the latest after so many seconds."""
        started, status = time.monotonic(), "ok"
        self.turn.set()
        self.process.join(max(seconds, 0.1))
        if self.process.is_alive():
            status = f"not done after {seconds:.0f} s"
        elif self.process.exitcode != 0:
            status = f"ended with exit code {self.process.exitcode}"
        self.end()
        lines = self.facts.read_text().splitlines() if self.facts.exists() else []
        found = [json.loads(line) for line in lines]
        checks = [line["check"] for line in found if "check" in line]
        if status == "ok" and not all(check["held"] for check in checks):
            status = "does not hold"
        if status == "ok" and not checks:
            status = "proved nothing"
        return {
            "name": self.name,
            "number": PHASES[self.name][0],
            "status": status,
            "seconds": round(time.monotonic() - started, 1),
            "checks": checks,
            "skipped": [line["skipped"] for line in found if "skipped" in line],
            "figures": [line["figure"] for line in found if "figure" in line],
            "facts": {k: v for line in found for k, v in line.get("facts", {}).items()},
        }

    def end(self) -> None:
        """Nothing of it lives on: it has a session of its own."""
        self.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def prepare(wheels: Path | None, work: Path, dry: bool) -> None:
    """Variables and module paths of every phase, set here, since phases inherit them."""
    paths = [str(REPO / "substrate" / "default"), str(REPO)]
    if wheels is not None:
        site = work / "site"
        site.mkdir()
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(site)
        paths += [str(site), str(wheels.resolve())]
        os.environ["PATH"] = f"{wheels.resolve() / 'bin'}:{os.environ['PATH']}"
    sys.path[:0] = paths
    threads = "1" if dry else str(min(8, os.cpu_count() or 1))
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TRITON_CACHE_DIR": str(work / "triton"),
    }
    if dry:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        for name in PHASES:
            importlib.import_module(f"tests.bench.gpu.phases.{name}")


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def commit() -> str | None:
    """Of this checkout, where there is git."""
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True
        )
        return done.stdout.strip() or None
    return None


def run(args: argparse.Namespace) -> int:
    """All phases; how many did not hold."""
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="gpu_check-"))
    started, log = time.monotonic(), out / "log.txt"
    log.write_bytes(b"")
    record: dict[str, Any] = {
        "schema_version": 1,
        "dry": args.dry,
        "commit": commit(),
        "began": time.time(),
        "python": platform.python_version(),
        "phases": [],
    }
    waiting: list[Running] = []
    try:
        prepare(args.wheels, work, args.dry)
        names = [name for name in PHASES if not args.only or name in args.only.split(",")]
        for at, name in enumerate(names):
            for ahead in names[at + len(waiting) : at + (1 if args.dry else 2)]:
                waiting.append(Running(ahead, work, args.dry, log))
            left = args.cap - (time.monotonic() - started)
            own = waiting.pop(0)
            found = own.run(min(left, PHASES[name][1]))
            record["phases"].append(found)
            record["seconds"] = round(time.monotonic() - started, 1)
            write(out / "record.json", json.dumps(record, indent=1) + "\n")
            write(out / "table.md", table(record))
            print(f"{found['number']} {name}: {found['status']}, {found['seconds']} s", flush=True)
            for check in found["checks"]:
                if not check["held"]:
                    print(f"    {check['what']}: {check['value']} ({check['wanted']})", flush=True)
    finally:
        for own in waiting:
            own.end()
        shutil.rmtree(work, ignore_errors=True)
        if log.stat().st_size > LOG_BYTES:
            log.write_bytes(log.read_bytes()[-LOG_BYTES:])
    print(f"see {out / 'table.md'}")
    return sum(phase["status"] != "ok" for phase in record["phases"])


def main() -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of what this machine lacks")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on CPU")
    parser.add_argument("--only", help=f"some of {', '.join(PHASES)}, by commas")
    parser.add_argument("--cap", type=float, default=CAP_S, help="seconds of the whole")
    args = parser.parse_args()
    unknown = set((args.only or "environment").split(",")) - PHASES.keys()
    if unknown:
        parser.error(f"--only: no phase {', '.join(sorted(unknown))}")
    if args.wheels is not None and not args.wheels.is_dir():
        parser.error(f"--wheels: {args.wheels} is no folder")
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
