"""Environments: of a substrate command, of a job, and our own while something is started."""

import contextlib
import os
from collections.abc import Iterator, Mapping

# What a command of the substrate may see of our environment. Everything else, API keys and
# scheduler variables first of all, stays outside.
PASSED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
          "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "HF_HOME", "SSL_CERT_FILE",
          "AEVO_JOB_DEPTH")


def package_first(code: str, inherited: str = "") -> dict[str, str]:
    """The variables with which Python imports aevo from `code`, whatever else is installed and
    wherever the process starts; the PYTHONPATH so far, `inherited`, stays behind it."""
    path = os.pathsep.join(filter(None, (code, inherited)))
    # `python -m` would put the current folder, which may be a checkout, before PYTHONPATH.
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def environment(
    ours: Mapping[str, str], step: Mapping[str, str], cpus: int, scratch: str
) -> dict[str, str]:
    """The environment of a substrate command: a short list of ours, and what makes it repeatable.

    No byte code is written, so that running a command never changes the substrate's tree.
    """
    return {
        **{key: ours[key] for key in PASSED if key in ours},
        "OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus), "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": scratch,
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
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
