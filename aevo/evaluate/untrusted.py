"""Opening what an untrusted program left behind: see `aevo.files.untrusted`."""

from aevo.files.untrusted import IntegrityError, open_file, open_folder, read_bytes, relative, shown

__all__ = ["IntegrityError", "open_file", "open_folder", "read_bytes", "relative", "shown"]
