# shellcheck shell=bash
# Sourced by scripts/quickstart and scripts/test: makes a virtual environment with what they need,
# once. Nothing is done if pyproject.toml, the torch requirement and the Python are those of the
# last complete installation; an interrupted installation is simply continued by the next call.
#
# Environment:
#   AEVO_PYTHON  the Python to use (default: the first of python3.11, python3.12, python3)
#   AEVO_TORCH   what pip installs as torch (default: torch==2.13.0; with an NVIDIA GPU torch>=2.6)
#   AEVO_VENV    where the environment lies (default: .venv in the repository)

VENV="${AEVO_VENV:-$REPO/.venv}"

say() {
    if [[ -t 2 ]]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# True if $1 is a Python that aevo runs on and that can make environments ($2 = "" asks only for
# the version).
python_serves() {
    "$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))" 2>/dev/null ||
        return 1
    [[ -z "${2-}" ]] || "$1" -c "import venv, ensurepip" 2>/dev/null
}

# Prints the Python to use, or ends with what to install.
find_python() {
    local name version
    local -a names=(python3.11 python3.12 python3 python)
    [[ -z "${AEVO_PYTHON-}" ]] || names=("$AEVO_PYTHON")
    for name in "${names[@]}"; do
        if command -v "$name" >/dev/null && python_serves "$name" with_venv; then
            command -v "$name"
            return
        fi
    done
    for name in "${names[@]}"; do
        if command -v "$name" >/dev/null && python_serves "$name"; then
            version="$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
            die "$name lacks the modules venv and ensurepip -- install them:" \
                "sudo apt-get install -y python$version-venv"
        fi
    done
    [[ -z "${AEVO_PYTHON-}" ]] || die "AEVO_PYTHON=$AEVO_PYTHON is not a Python 3.11 or 3.12"
    for version in 3.11 3.12; do
        if apt-cache show "python$version" >/dev/null 2>&1; then
            die "no Python 3.11 or 3.12 found -- install one:" \
                "sudo apt-get install -y python$version python$version-venv"
        fi
    done
    die "no Python 3.11 or 3.12 found, and apt-get knows none (try: sudo apt-get update)" \
        "-- install one in another way and name it, as in: AEVO_PYTHON=/path/to/python3.12 $0"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

torch_requirement() {
    if [[ -n "${AEVO_TORCH-}" ]]; then
        printf '%s' "$AEVO_TORCH"
    elif has_gpu; then
        printf 'torch>=2.6'
    else
        printf 'torch==2.13.0'
    fi
}

# Ends with a clear line if the file system of $1 has less than $2 GB free, wanted for $3.
check_disk() {
    local free_kb
    free_kb="$(df -Pk "$1" | awk 'NR == 2 { print $4 }')"
    ((free_kb >= $2 * 1000 * 1000)) ||
        die "$((free_kb / 1000 / 1000)) GB free at $1, but $3 takes $2 GB -- free some space" \
            "or set AEVO_VENV to a folder on another disk"
}

# What the installation depends on, as one digest.
wanted_digest() {
    { cat "$REPO/pyproject.toml" && printf '%s\n' "$1" "$REPO"; } | sha256sum | cut -d ' ' -f 1
}

# True if every extra in $1 (comma-separated) was installed completely with digest $2.
is_installed() {
    local extra
    python_serves "$VENV/bin/python" || return 1
    for extra in ${1//,/ }; do
        [[ "$(cat "$VENV/.aevo-$extra" 2>/dev/null)" == "$2" ]] || return 1
    done
}

# Makes sure that $VENV holds torch and aevo with the extras $1, as in `bootstrap train,dev`.
bootstrap() {
    local extras="$1" torch digest extra python started=$SECONDS
    torch="$(torch_requirement)"
    digest="$(wanted_digest "$torch")"
    mkdir -p "$VENV"
    VENV="$(cd "$VENV" && pwd)"
    exec 9>"$VENV/.lock" # two calls at once: the second waits, then finds everything done
    flock 9
    if ! is_installed "$extras" "$digest"; then
        python="$(find_python)"
        check_disk "$VENV" "$(has_gpu && echo 12 || echo 4)" "the environment"
        python_serves "$VENV/bin/python" || "$python" -m venv --clear "$VENV"
        say "installing $torch with $("$VENV/bin/python" --version) into $VENV"
        "$VENV/bin/python" -m pip install --disable-pip-version-check "$torch"
        say "installing aevo[$extras]"
        (cd "$REPO" && "$VENV/bin/python" -m pip install --disable-pip-version-check -e ".[$extras]")
        for extra in ${extras//,/ }; do printf '%s\n' "$digest" >"$VENV/.aevo-$extra"; done
        say "installed in $((SECONDS - started)) s"
    fi
    exec 9>&-
}
