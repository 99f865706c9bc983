"""Pack an adapter as a submission: both files at the top of a zip, validated first.

    python -m eval.export --adapter OUT/checkpoints/step-000200 --out submission.zip [--base DIR]

With --base the tensors are also checked against that checkpoint. The same adapter gives the same
bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from pathlib import Path

from eval.adapter import FILES, AdapterError, base_shapes, load_adapter

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: no clock in the bytes


def export(adapter: Path, out: Path, base: Path | None = None) -> None:
    """Validate `adapter` and write the archive `out` atomically.

    Raises:
        AdapterError: the adapter is refused.
    """
    load_adapter(adapter, None if base is None else base_shapes(base))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, (adapter / name).read_bytes())
    temporary.replace(out)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.export", description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="folder of a peft LoRA adapter")
    parser.add_argument("--out", type=Path, required=True, help="archive to write")
    parser.add_argument("--base", type=Path, help="checkpoint the adapter must fit")
    args = parser.parse_args(argv)
    try:
        export(args.adapter, args.out, args.base)
    except (AdapterError, OSError) as error:
        print(f"eval.export: {args.adapter}: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {args.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
