"""The environment of a substrate command."""

from collections.abc import Mapping

# What a command of the substrate may see of our environment. Everything else, API keys and
# scheduler variables first of all, stays outside.
PASSED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
          "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "HF_HOME", "SSL_CERT_FILE",
          "AEVO_JOB_DEPTH")


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
