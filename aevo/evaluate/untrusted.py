"""Opening what an untrusted program left behind: no link is followed, no pipe is waited for."""

import os
import stat
from pathlib import Path, PurePosixPath

from aevo.errors import AevoError


class IntegrityError(AevoError):
    """What a run left behind is not what it must be; names what was found."""

    code = 9


def open_file(path: Path, folder: int | None = None) -> int:
    """Opens a regular file with one name, for reading; the caller closes the descriptor.

    Args:
        folder: descriptor of the folder that a relative `path` is in.

    Raises:
        IntegrityError: it is missing, a link, a hard link, a pipe, a device or a folder.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, dir_fd=folder)
    except OSError as error:
        raise IntegrityError(f"{shown(path)} cannot be opened as a plain file "
                             f"({error.strerror})") from error
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
            raise IntegrityError(f"{shown(below)} is no folder of {root} "
                                 f"({error.strerror})") from error
        finally:
            os.close(handle)
        handle = following
    return handle


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
