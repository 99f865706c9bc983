"""A safetensors file, read through one descriptor, without torch."""

import hashlib
import math
import os
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from aevo.evaluate.untrusted import IntegrityError, shown
from aevo.files.plain import FormError, Limits, from_json

WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER = 32 << 20
HEADER = Limits(bytes=MAX_HEADER, nodes=2_000_000, depth=4, key=500)
CHUNK = 4 << 20  # bytes


@dataclass(frozen=True)
class Judgement:
    """Largest absolute value and Frobenius norm; the norm is not finite if any value is not."""

    largest: float
    norm: float


class Tensors:
    """Names, shapes and types of a file's tensors, and a look at their values.

    The header is judged by the safetensors library (lengths, overlaps, holes) and read again here,
    so that a name that occurs twice is seen. Takes over the descriptor; a context manager.

    Raises:
        IntegrityError: no valid safetensors, too large, or a type that is no floating point.
    """

    def __init__(self, handle: int, max_bytes: int) -> None:
        self.handle = handle
        try:
            self.size = os.fstat(handle).st_size
            if self.size > max_bytes:
                raise IntegrityError(f"the weights are larger than {max_bytes} bytes")
            self._read_header()
        except BaseException:
            os.close(handle)
            raise

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.handle)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def _read_header(self) -> None:
        header = self._header()
        try:
            # By its descriptor: the name may be another file by now.
            with safe_open(f"/proc/self/fd/{self.handle}", framework="numpy") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                names = list(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise IntegrityError(f"the weights are no safetensors file ({shown(error)})") from error
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self.offsets: dict[str, tuple[int, int]] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            try:
                self.shapes[name], self.types[name] = tuple(entry["shape"]), str(entry["dtype"])
                begin, end = map(int, entry["data_offsets"])
            except (KeyError, TypeError, ValueError) as error:
                raise IntegrityError(f"{shown(name)} has no shape, dtype and offsets") from error
            self.offsets[name] = (begin, end)
            width = WIDTH.get(self.types[name])
            if width is None:
                raise IntegrityError(
                    f"{shown(name)} has type {shown(self.types[name])}; allowed: {', '.join(WIDTH)}"
                )
            if end - begin != width * math.prod(self.shapes[name]) or end == begin:
                raise IntegrityError(f"{shown(name)} has no values or not as many as its shape")
        if self.shapes != shapes or not shapes:
            raise IntegrityError("the weights have no tensors, or a header that reads in two ways")

    def _header(self) -> dict[str, Any]:
        """The header as plain values; reading it first bounds what the library is given."""
        start = os.pread(self.handle, 8, 0)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= MAX_HEADER:
            raise IntegrityError(
                "the weights are no safetensors file (their header is empty or "
                f"larger than {MAX_HEADER} bytes)"
            )
        self.start = 8 + length
        try:
            header = from_json(os.pread(self.handle, length, 8), "the weights' header", HEADER)
        except FormError as error:
            raise IntegrityError(f"the weights are no safetensors file: {error}") from error
        if not isinstance(header, dict):
            raise IntegrityError("the weights' header is no JSON object")
        return header

    def judge(self, name: str) -> Judgement:
        """Reads the values of one tensor, in pieces."""
        largest, squares = 0.0, 0.0
        begin, end = self.offsets[name]
        for at in range(begin, end, CHUNK):
            data = os.pread(self.handle, min(CHUNK, end - at), self.start + at)
            values = _values(data, self.types[name])
            top = float(np.abs(values).max())
            if not math.isfinite(top):
                return Judgement(math.inf, math.inf)
            largest = max(largest, top)
            squares += float(np.square(values, dtype=np.float64).sum())
        return Judgement(largest, math.sqrt(squares))

    def sha256(self) -> str:
        """Of the whole file."""
        digest, at = hashlib.sha256(), 0
        while block := os.pread(self.handle, CHUNK, at):
            digest.update(block)
            at += len(block)
        return digest.hexdigest()


def _values(data: bytes, kind: str) -> NDArray[np.floating]:
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype={"F64": "<f8", "F32": "<f4", "F16": "<f2"}[kind])
