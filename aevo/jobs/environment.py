"""Environments: of a substrate command, of a job, and our own while something is started."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from aevo.files import secrets

# What a command of the substrate may see of our environment. Everything else, API keys and
# scheduler variables first of all, stays outside.
PASSED = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "HF_HOME",
    "SSL_CERT_FILE",
    "AEVO_JOB_DEPTH",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
)
# Also what a site's modules set of these families: how ranks reach each other is known there alone.
FAMILIES = ("NCCL_", "GLOO_", "UCX_", "FI_", "TORCH_NCCL_")
# What cluster.*.environment cannot say to a command: the scheduler's, ours, and Python's own.
RESERVED = ("SLURM_", "SBATCH_", "SRUN_", "AEVO_", "PYTHON")
# Where compilers keep kernels, below a folder that is the run's own.
CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "CUDA_CACHE_PATH": "cuda",
}


def package_first(code: str, inherited: str = "") -> dict[str, str]:
    """The variables with which Python imports aevo from `code`, whatever else is installed and
    wherever the process starts; the PYTHONPATH so far, `inherited`, stays behind it."""
    path = os.pathsep.join(filter(None, (code, inherited)))
    # `python -m` would put the current folder, which may be a checkout, before PYTHONPATH.
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def operators(given: Mapping[str, str]) -> dict[str, str]:
    """What of cluster.*.environment a command of the substrate sees: all that the operator wrote,
    but for what looks like a secret and for what is not the operator's to say."""
    return {
        name: value
        for name, value in given.items()
        if not name.startswith(RESERVED) and _harmless(name, value)
    }


def _harmless(name: str, value: str) -> bool:
    return not secrets.variable(name) and secrets.hide(value) == value


def kernels(place: str, given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The folder that holds a run's compiled kernels, and the variables that say so.

    Code of one run must not be able to plant a kernel, or weights, for another: where the operator
    names a folder (TRITON_CACHE_DIR), on a fast disk perhaps, each gets one of its own below it.
    """
    if root := given.get("TRITON_CACHE_DIR"):
        place = str(Path(root).absolute() / hashlib.sha256(place.encode()).hexdigest()[:16])
    return place, {name: str(Path(place) / folder) for name, folder in CACHES.items()}


def environment(
    ours: Mapping[str, str],
    step: Mapping[str, str],
    cpus: int,
    scratch: str,
    given: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of a substrate command: a short list of ours, what the operator `given` it,
    and what makes it repeatable.

    No byte code is written, so that running a command never changes the substrate's tree.
    """
    passed = {
        key: value
        for key, value in ours.items()
        if key in PASSED or (key.startswith(FAMILIES) and _harmless(key, value))
    }
    return {
        **passed,
        **(given or {}),
        "OMP_NUM_THREADS": str(cpus),
        "MKL_NUM_THREADS": str(cpus),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # SIGABRT makes it show its stacks: aevo.jobs.progress
        "TMPDIR": scratch,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **step,
    }


@contextlib.contextmanager
def variables(changes: Mapping[str, str]) -> Iterator[None]:
    """Our own environment with these changes, as long as it lasts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
