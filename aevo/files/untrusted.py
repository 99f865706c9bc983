"""Reading what an untrusted program left behind: no link is followed, no pipe is waited for.

All that a worker, its code or its training wrote comes in through here. Guarantees: a regular file
with one name is opened or nothing is; no call waits for another process; no more bytes are read
than the caller allows; anything else is an `IntegrityError` that names what was found. Not
guaranteed: that a file stays as it is between two calls while a process of the worker lives, and
that a filesystem answers.
"""

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aevo.errors import AevoError
from aevo.files import digest
from aevo.files.digest import ignored

TEXT_BYTES = 4 << 20  # of a text that a tool shows, or that a change records


class IntegrityError(AevoError):
    """What a run left behind is not what it must be; names what was found."""

    code = 9


@dataclass(frozen=True)
class Room:
    """What a tree may take up. `bytes` and `file` are apparent sizes: a hole counts as what a copy
    would write. `depth` is the number of folders on the way to a file. `caches`: byte code and
    tool caches belong to it too; else they are passed over, as in digests and copies of forks."""

    files: int = 5000
    bytes: int = 256 << 20
    file: int = 64 << 20
    depth: int = 32
    caches: bool = False


def open_file(path: Path, folder: int | None = None) -> int:
    """Opens a regular file with one name, for reading; the caller closes the descriptor.

    Args:
        folder: descriptor of the folder that a relative `path` is in.

    Raises:
        IntegrityError: it is missing, a link, a hard link, a pipe, a device or a folder.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        handle = os.open(path, flags, dir_fd=folder)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise IntegrityError(f"{shown(path)} cannot be opened as a plain file ({why})") from error
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return handle
    os.close(handle)
    what = "has other names (hard links)" if stat.S_ISREG(found.st_mode) else "is no plain file"
    raise IntegrityError(f"{shown(path)} {what}")


def open_folder(root: Path, below: str = ".") -> int:
    """Opens a folder below a trusted one, no component being a link; the caller closes it.

    Raises:
        IntegrityError: `below` leaves `root`, or a component is missing or not a folder.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    where = relative(below)
    try:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise IntegrityError(f"{root} is no folder ({error.strerror})") from error
    for part in where.parts:
        try:
            following = os.open(part, flags, dir_fd=handle)
        except OSError as error:
            raise IntegrityError(
                f"{shown(below)} is no folder of {root} ({error.strerror})"
            ) from error
        finally:
            os.close(handle)
        handle = following
    return handle


def read_bytes(path: Path, max_bytes: int, folder: int | None = None) -> bytes:
    """The content of a plain file that may not be larger than `max_bytes`.

    Raises:
        IntegrityError: it is no plain file, or larger.
    """
    with os.fdopen(open_file(path, folder), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise IntegrityError(f"{shown(path)} is larger than {max_bytes} bytes")
    return data


def read_text(path: Path, max_bytes: int = TEXT_BYTES) -> str:
    """Like `read_bytes`, for UTF-8; line ends stay as they are.

    Raises:
        IntegrityError: also where it is no UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{shown(path)} is not text (UTF-8)") from error


def read_end(path: Path, max_bytes: int) -> bytes:
    """The last bytes of a plain file, however large it is; empty if it is none."""
    try:
        handle = open_file(path)
    except IntegrityError:
        return b""
    with os.fdopen(handle, "rb") as file:
        file.seek(max(0, os.fstat(handle).st_size - max_bytes))
        return file.read(max_bytes)


def plain_tree(root: Path, names: Iterable[str], room: Room | None = None) -> list[Path]:
    """The files of the named files and folders below `root`, sorted.

    Guarantees: folders and plain files of readable names alone, none behind a link, none that we
    may not read, and all together within `room`. What is named and missing is left out.

    Raises:
        IntegrityError: naming the first thing that is none of this.
    """
    room, found, total = room or Room(), [], 0
    for path, status in _walk(root, names, room):
        found.append(path)
        total += status.st_size
        if len(found) > room.files:
            raise IntegrityError(f"more than {room.files} files", "remove what is not needed")
        if status.st_size > room.file or total > room.bytes:
            raise IntegrityError(
                f"{_below(path, root)}: files of more than {room.bytes >> 20} MiB, or one above "
                f"{room.file >> 20} MiB (holes count in full)",
                "remove what is not needed",
            )
    return sorted(found)


def _walk(root: Path, names: Iterable[str], room: Room) -> Iterator[tuple[Path, os.stat_result]]:
    pending = []
    for name in names:
        _no_link_on_the_way(root, PurePosixPath(name))
        if os.path.lexists(root / name):
            pending.append(root / name)
    while pending:
        path = pending.pop()
        status = _status(path, root)
        if not stat.S_ISDIR(status.st_mode):
            yield path, status
            continue
        if len(path.relative_to(root).parts) > room.depth:
            raise IntegrityError(f"{_below(path, root)} lies more than {room.depth} folders deep")
        pending += _entries(path, root, room)


def _no_link_on_the_way(root: Path, name: PurePosixPath) -> None:
    for folder in list(name.parents)[:-1]:
        if (root / folder).is_symlink():
            raise IntegrityError(
                f"{shown(folder)} is not a regular folder but a link", "remove it from the fork"
            )


def _entries(folder: Path, root: Path, room: Room) -> list[Path]:
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError as error:
        raise IntegrityError(
            f"{_below(folder, root)} cannot be read ({error.strerror})",
            "make it readable, or remove it",
        ) from error
    kept = [name for name in names if room.caches or not ignored(name)]
    for name in kept:
        if not name.isprintable():
            raise IntegrityError(
                f"{_below(folder / name, root)} has a name that is not printable", "give it another"
            )
    return [folder / name for name in kept]


def _status(path: Path, root: Path) -> os.stat_result:
    try:
        status = path.lstat()
        readable = os.access(path, os.R_OK, follow_symlinks=False)
    except OSError as error:
        raise IntegrityError(
            f"{_below(path, root)} cannot be looked at ({error.strerror})"
        ) from error
    mode = status.st_mode
    if not stat.S_ISDIR(mode) and not (stat.S_ISREG(mode) and status.st_nlink == 1):
        raise IntegrityError(
            f"{_below(path, root)} is not a regular file with one name", "remove it from the fork"
        )
    if not readable:
        raise IntegrityError(
            f"{_below(path, root)} cannot be read (no permission)", "make it readable, or remove it"
        )
    return status


def _below(path: Path, root: Path) -> str:
    return shown(path.relative_to(root))


def relative(text: str) -> PurePosixPath:
    """A path that stays below where it starts.

    Raises:
        IntegrityError: it is absolute, empty, has `..`, or characters that no path needs.
    """
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not text or len(text) > 1000:
        raise IntegrityError(f"the path {shown(text)} leaves its folder")
    if not text.isprintable() or "\\" in text:
        raise IntegrityError(f"the path {shown(text)} has characters that no path needs")
    return path


def shown(name: object) -> str:
    """A name for a message: one line, no control characters, bounded."""
    return ascii(str(name))[1:-1][:300]


def visible_files(top: Path, most: int) -> list[Path]:
    """At most `most` plain files below a folder, sorted; what is none is passed over, and so is
    what cannot be read and what has a name that is not printable."""
    found: list[Path] = []
    for folder, folders, files in digest.walk(top):
        folders[:] = sorted(
            name
            for name in folders
            if not ignored(name)
            and name.isprintable()
            and len(Path(folder).parts) - len(top.parts) < Room().depth
        )
        found += [
            path for name in sorted(files) if (path := Path(folder, name)) and _is_visible(path)
        ]
        if len(found) >= most:
            break
    return sorted(found[:most])


def _is_visible(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_nlink == 1
        and path.name.isprintable()
        and not ignored(path.name)
        and os.access(path, os.R_OK)
    )


def there(path: Path | str) -> bool:
    """True if a file is there that we may look at. Unlike `Path.exists` it never raises, whatever
    the folder on the way has become or may forbid."""
    try:
        Path(path).stat()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """An empty folder for an untrusted program, gone afterwards whatever it left there."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Removes a folder that an untrusted program filled, as far as we may; links are removed, not
    followed. What it made unreadable is made readable first. No depth of folders brings it down:
    what lies deep is moved to the top before it is looked into."""
    mark, moved = f".gone-{secrets.token_hex(8)}-", 0
    pending = [folder]
    emptied: list[Path] = []
    while pending:
        here = pending.pop()
        emptied.append(here)
        try:
            here.chmod(0o700)
            entries = list(os.scandir(here))
        except OSError:
            continue
        for entry in entries:
            with contextlib.suppress(OSError):
                path = Path(entry.path)
                if not entry.is_dir(follow_symlinks=False):
                    path.unlink()
                    continue
                if here != folder:
                    path.chmod(0o700)  # else it may not be moved
                    path = path.rename(folder / f"{mark}{moved}")
                    moved += 1
                pending.append(path)
    for path in reversed(emptied):
        with contextlib.suppress(OSError):
            path.rmdir()
