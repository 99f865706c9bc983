"""The campaign's own copies of substrate and constitution, made when it starts.

A campaign may wait for weeks: editing, updating or deleting the checkout it was started from must
neither change nor stop it. Guaranteed: a copy is whole or absent, its digest is the source's, its
files are read-only. Not guaranteed: that nobody edits it all the same; every command verifies it
against the campaign's pins. A file above 64 MiB is hard-linked where the filesystem allows, so an
edit of the source in place shows in the copy, and is refused like any other.
"""

import shutil
from pathlib import Path

from aevo.errors import ConfigError, SubstrateError
from aevo.files import digest
from aevo.files.documents import whole_folder, write_bytes
from aevo.files.paths import Layout
from aevo.substrate.frozen import LOCK, Substrate, open_substrate

MAX_COPIED = 64 * 2**20  # bytes


def keep_substrate(layout: Layout, source: Substrate, pinned: str) -> Substrate:
    """The campaign's copy of what the substrate's digest covers, made if it is missing.

    Args:
        layout: the campaign, which has not started yet.
        source: the operator's substrate.
        pinned: its digest, verified.

    Raises:
        SubstrateError: the source changed meanwhile, or holds a link that a copy would break.
        RecordError: the copy cannot be written.
    """
    kept = layout.substrate
    if kept.exists() and open_substrate(kept).digest() != pinned:
        # An earlier start was interrupted, and the substrate frozen anew since: begin afresh.
        shutil.rmtree(kept)
        layout.dev_items.unlink(missing_ok=True)
        layout.hidden_items.unlink(missing_ok=True)
    if not kept.exists():
        with whole_folder(kept) as staging:
            _copy_substrate(source, staging)
            if open_substrate(staging).digest() != pinned:
                raise SubstrateError(
                    f"{source.root} changed while it was being copied", "run the same command again"
                )
    substrate = open_substrate(kept)
    substrate.verify(pinned)
    return substrate


def keep_constitution(layout: Layout, source: Path) -> None:
    """Copies the constitution into the campaign, at once or not at all.

    Raises:
        ConfigError: `source` cannot be read.
        RecordError: the copy cannot be written.
    """
    try:
        text = source.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"constitution={source} cannot be read ({error.strerror})",
            "mend its permissions, or give another",
        ) from error
    write_bytes(layout.constitution, text, 0o444)


def _copy_substrate(source: Substrate, destination: Path) -> None:
    extra = ["substrate.yaml", LOCK, source.file.catalogue, source.file.recipe]
    paths = set(digest.files_below(source.root, [*source.names, *extra]))
    for path in sorted(paths):
        target = destination / path.relative_to(source.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():  # part of the digest as a link
            target.symlink_to(path.readlink())
        elif path.stat().st_size <= MAX_COPIED or not _linked(path, target):
            shutil.copyfile(path, target)
            mode = path.stat().st_mode
            readable = mode & 0o444 | 0o400
            target.chmod(readable | (readable >> 2 if mode & 0o111 else 0))
    for path in paths:
        target = destination / path.relative_to(source.root)
        if path.is_symlink() and path.exists() and not target.exists():
            raise SubstrateError(
                f"{path} leads to a file that no copy of the substrate has",
                "make the link absolute, or replace it by what it leads to",
            )


def _linked(path: Path, target: Path) -> bool:
    """Hard-links a large file; its mode stays, since both names share it. False where refused
    (another filesystem, another owner)."""
    try:
        target.hardlink_to(path)
    except OSError:
        return False
    return True
