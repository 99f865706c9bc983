"""Phase 7: worker-written code in the sandbox reaches the GPU, and nothing that is hidden."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from aevo import sandbox
from aevo.records.job import Confinement
from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

REPO = models.SUBSTRATE.parents[1]
INSIDE = Path(__file__).parents[1] / "inside.py"


def run(here: Phase) -> None:
    """The same work bare and in each sandbox that holds here."""
    base = models.tiny(here)
    train, recipe = models.data(here, models.recipe(2, 8))
    hidden = here.folder / "hidden"
    hidden.mkdir()
    (hidden / "key").write_text("what no worker may read\n")
    bare = _work(here, "none", base, train, recipe, hidden)
    here.hold("bare: the work is done, and the key can be read",
              bare.get("done") is True and bare.get("read") is True, bare.get("error"))  # fmt: skip
    for kind in ("bubblewrap", "landlock"):
        why = sandbox.failure(kind)
        if why is not None:
            here.skip(kind, why)
            continue
        found = _work(here, kind, base, train, recipe, hidden)
        here.hold(f"{kind}: product, compilation and two steps", found.get("done") is True,
                  found.get("error", "yes"))  # fmt: skip
        here.hold(f"{kind}: the key stays hidden", found.get("read") is False)
        here.hold(f"{kind}: the same losses", found.get("losses") == bare.get("losses"))
        here.note(**{f"{kind}_seconds": found["seconds"], "bare_seconds": bare["seconds"]})


def _work(
    here: Phase, kind: str, base: Path, train: Path, recipe: Path, hidden: Path
) -> dict[str, object]:
    scratch = here.folder / f"scratch-{kind}"
    scratch.mkdir()
    env = {**os.environ, "HOME": str(scratch), "TMPDIR": str(scratch),
           "TRITON_CACHE_DIR": str(scratch / "triton"), "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    argv = [sys.executable, str(INSIDE), str(recipe), str(train), str(base), str(scratch / "out"),
            str(hidden / "key")]  # fmt: skip
    read = [str(REPO), str(base), str(train), str(recipe), *_extra()]
    if kind != "none":
        allowed = Confinement(read=read, write=[str(scratch)], hide=[str(hidden)],
                              devices=here.device.type == "cuda", memory_gb=None)  # fmt: skip
        argv = sandbox.wrap(argv, str(models.SUBSTRATE), env, allowed, kind)  # type: ignore[arg-type]
    begun = time.perf_counter()
    done = subprocess.run(argv, cwd=models.SUBSTRATE, env=env, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, object] = json.loads(lines[-1]) if lines else {"error": done.stderr[-300:]}
    return found | {"seconds": round(time.perf_counter() - begun, 2)}


def _extra() -> list[str]:
    """Folders of packages that were brought along."""
    return [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(path).is_dir()
    ]
