# shellcheck shell=bash
# Sourced by slurm/*.sbatch: sbatch runs a copy of the script, so the repository is the folder that
# sbatch was called in.

REPO="$(cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}" && pwd)"
VENV="${AEVO_VENV:-$REPO/.venv}"

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Makes the environment's commands the first on PATH.
activate() {
    [[ -x "$VENV/bin/python" ]] ||
        die "$VENV holds no environment -- run scripts/quickstart once, or set AEVO_VENV"
    export PATH="$VENV/bin:$PATH"
}

# drive MODULE [KEY=VALUE ...]: submits through aevo and returns its exit code.
drive() {
    local module="$1" word cluster="cluster=${AEVO_CLUSTER:-slurm_cpu}"
    shift
    for word in "$@"; do
        [[ "$word" != cluster=* ]] || cluster=""
    done
    activate
    cd "$REPO" || die "$REPO is gone"
    exec python -u -m "$module" ${cluster:+"$cluster"} follow=false "$@"
}
