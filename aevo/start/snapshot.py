"""The snapshot: what a queued job runs is what was there when it was submitted.

    runs/<campaign>/snapshots/<digest>/
      code/           aevo/, conf/ and pyproject.toml, uncommitted changes included; first on a
                      job's PYTHONPATH (`aevo.jobs.environment`)
      snapshot.json   where it was taken, by whom, at which commit; digest of every file
      packages.txt    name==version of every installed distribution
      changes.diff    what of the checkout was not committed, and the untracked files

Guaranteed: a snapshot is whole or absent; the same code and packages give the same folder; nothing
in it changes afterwards, and one that was edited is refused, by name; of `aevo/` and `conf/` only
the kinds of files in KINDS are copied, of `conf/` none whose name is that of a secret, and what
looks like a secret in it is redacted (no job reads `conf/`: they read their round's config.yaml).
Not guaranteed: that the packages themselves stay installed, or that a secret that looks like
nothing of the kind is left out.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from aevo.config.schema import Config
from aevo.errors import RecordError
from aevo.files import digest
from aevo.files.documents import Record, read, whole_folder, write_json, write_text
from aevo.files.paths import CHECKOUT, Layout
from aevo.files.secrets import redact, redact_value, redact_words
from aevo.files.secrets import variable as secret_name
from aevo.text import listed

CODE, ABOUT, PACKAGES, CHANGES = "code", "snapshot.json", "packages.txt", "changes.diff"
KINDS = (".py", ".yaml", ".yml", ".j2", ".toml")  # of files that are code or settings
MAX_FILE = 2_000_000  # bytes; nothing of the code is near it, a stray checkpoint in conf/ is
MAX_DIFF = 4_000_000  # bytes of changes.diff
GIT_TIMEOUT_S = 30.0

_taken: dict[Layout, Path] = {}  # by this process


class About(Record):
    """snapshot.json: the circumstances of the first command that took this snapshot.

    `commit` and `dirty` are null where the code was no git checkout or git was not found; `files`
    maps each path below `code/` to `mode:sha256`; `left_out` names files above 2 MB, of other kinds
    than code, and of `conf/` those named like a secret.
    """

    digest: str
    created: str
    commit: str | None
    dirty: bool | None
    python: str
    host: str
    argv: list[str]
    source: str
    config: dict[str, Any]
    files: dict[str, str]
    left_out: list[str]


def take(layout: Layout, config: Config) -> Path:
    """The `code` folder of the snapshot of the running code, made if there is none yet.

    A process takes one snapshot of a campaign and keeps to it: a driver that lives for days does
    not submit half-edited code. A process that runs from a snapshot of this campaign gets it back.

    Args:
        layout: the campaign.
        config: the configuration of the command; kept, redacted, in snapshot.json.

    Raises:
        RecordError: the snapshot cannot be written, or was edited after it was taken.
    """
    code = _taken.get(layout)
    if code is None or not code.is_dir():
        code = _taken[layout] = take_from(CHECKOUT, layout, config)
    return code


def place(layout: Layout) -> Path:
    """The folder that `take` would return, found without writing anything."""
    root = CHECKOUT
    if _is_snapshot_of(layout, root):
        return root
    return layout.snapshots / _identity(_read_tree(root), packages())[:12] / CODE


def take_from(root: Path, layout: Layout, config: Config) -> Path:
    """Like `take`, of the tree at `root` (which holds `aevo/`), as it is now."""
    if _is_snapshot_of(layout, root):
        return root
    try:
        tree, installed = _read_tree(root), packages()
        whole = _identity(tree, installed)
        folder = layout.snapshots / whole[:12]
        if not folder.exists():
            with whole_folder(folder) as staging:
                _write(staging / CODE, tree)
                write_text(staging / PACKAGES, installed, 0o444)
                _write_about(staging, root, tree, whole, config)
    except OSError as error:
        raise RecordError(
            f"cannot take a snapshot of {root} in {layout.snapshots} ({error})",
            "free space or mend permissions and run the same command again",
        ) from error
    verify(folder / CODE)
    return folder / CODE


def verify(code: Path) -> None:
    """Checks a snapshot against its own record.

    Raises:
        RecordError: naming the files that were added, removed or changed.
    """
    known, now = read(About, code.parent / ABOUT).files, _read_tree(code, as_it_is=True).leaves
    changed = sorted(name for name in {*known, *now} if known.get(name) != now.get(name))
    if changed:
        raise RecordError(
            f"snapshot {code} was edited after it was taken: {listed(changed)}",
            f"remove {code.parent} and run the same command again",
        )


def packages() -> str:
    """`name==version` of every installed distribution, sorted, one a line."""
    found: dict[str, str] = {}
    for item in distributions():  # in the order of sys.path: the first is what is imported
        name = item.metadata["Name"]
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), item.version)
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


@dataclass(frozen=True)
class _Tree:
    """The code, in memory: what is digested is what is written."""

    files: dict[str, tuple[bytes, int]]  # content and mode
    left_out: list[str]

    @property
    def leaves(self) -> dict[str, str]:
        return {
            name: ("x:" if mode & 0o100 else "-:") + digest.of_bytes(data)
            for name, (data, mode) in self.files.items()
        }


def _identity(tree: _Tree, installed: str) -> str:
    return digest.of_value({"files": tree.leaves, "packages": installed})


def _is_snapshot_of(layout: Layout, root: Path) -> bool:
    return (
        root.name == CODE
        and (root.parent / ABOUT).is_file()
        and root.parents[1] == layout.snapshots.resolve()
    )


def _read_tree(root: Path, as_it_is: bool = False) -> _Tree:
    """The code at `root`; with `as_it_is` every file of it, as in a snapshot that was taken."""
    files: dict[str, tuple[bytes, int]] = {}
    left_out = []
    starts = [root / "aevo", root / "pyproject.toml"]
    if (root / "conf" / "config.yaml").is_file():  # site-packages may hold a conf/ of others
        starts.append(root / "conf")
    for path in (path for start in starts for path in _walk(start, set())):
        name, status = path.relative_to(root).as_posix(), path.stat()
        setting = name.startswith("conf/")
        if as_it_is:
            files[name] = path.read_bytes(), status.st_mode
        elif (
            status.st_size > MAX_FILE
            or path.suffix not in KINDS
            or (setting and secret_name(name.removeprefix("conf/").removesuffix(path.suffix)))
        ):
            left_out.append(name)
        else:
            data = path.read_bytes()
            files[name] = _redacted(data) if setting else data, status.st_mode
    return _Tree(dict(sorted(files.items())), sorted(left_out))


def _redacted(data: bytes) -> bytes:
    """A settings file without what looks like a secret; one that is no text is empty."""
    try:
        return redact(data.decode("utf-8")).encode()
    except UnicodeDecodeError:
        return b""


def _walk(start: Path, seen: set[Path]) -> Iterator[Path]:
    """Files below `start`; links are followed (a site links its conf/), each folder entered once.

    Hidden files and editors' backups are no part of the code.
    """
    if start.is_file():
        yield start
    elif start.is_dir() and start.resolve() not in seen:
        seen.add(start.resolve())
        for path in sorted(start.iterdir()):
            name = path.name
            if not (digest.ignored(name) or name.startswith(".") or name.endswith("~")):
                yield from _walk(path, seen)


def _write(code: Path, tree: _Tree) -> None:
    for name, (data, mode) in tree.files.items():
        target = code / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        readable = mode & 0o444 | 0o400  # who could not read it before cannot now
        target.chmod(readable | (readable >> 2 if mode & 0o100 else 0))


def _write_about(staging: Path, root: Path, tree: _Tree, whole: str, config: Config) -> None:
    commit, changes = _git(root)
    write_text(staging / CHANGES, redact(changes), 0o444)
    write_json(
        staging / ABOUT,
        About(
            digest=whole,
            created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            commit=commit,
            dirty=bool(changes) if commit else None,
            python=platform.python_version(),
            host=platform.node(),
            argv=redact_words(sys.argv),
            source=str(root),
            config=redact_value(config.model_dump(mode="json")),
            files=tree.leaves,
            left_out=tree.left_out,
        ),
    )


def _git(root: Path) -> tuple[str | None, str]:
    """The commit that the code at `root` is at, and its uncommitted changes as text.

    (None, "") where `root` is no checkout of aevo: another repository around it does not count.
    """
    if _git_output(root, "ls-files", "--error-unmatch", "aevo/__init__.py") is None:
        return None, ""
    commit = _git_output(root, "rev-parse", "HEAD")
    if commit is None:
        return None, ""
    diff = _git_output(root, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD") or ""
    if len(diff) >= MAX_DIFF:
        diff = diff[: diff.rfind("\n") + 1] + f"[cut after {MAX_DIFF} bytes]\n"
    untracked = (
        _git_output(root, "ls-files", "--others", "--exclude-standard", "--", "aevo", "conf") or ""
    )
    return commit.strip(), diff + "".join(
        f"untracked: {name}\n" for name in untracked.split("\n") if name
    )


def _git_output(root: Path, *arguments: str) -> str | None:
    """What git says, its first MAX_DIFF bytes; None where it fails, is slow or does not exist."""
    ours = {
        name: value
        for name, value in os.environ.items()  # as set inside of a git hook
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), "-c", "core.quotePath=false", *arguments],
                stdout=output,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                timeout=GIT_TIMEOUT_S,
                env=ours | {"GIT_OPTIONAL_LOCKS": "0"},
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        output.seek(0)
        text = output.read(MAX_DIFF).decode(errors="replace")
    return text if done.returncode == 0 else None
