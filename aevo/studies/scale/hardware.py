"""GPUs by name, and which of them a cluster's configuration asks for."""

import re
from dataclasses import dataclass

from aevo.config.cluster import SlurmCluster
from aevo.config.schema import Config
from aevo.errors import ConfigError

SHEETS = (
    "NVIDIA's data sheets: H100 SXM 3.35 TB/s, H200 4.8 TB/s, both 989 TFLOP/s in dense bf16 "
    "and 67 in fp32; memory as nvidia-smi shows it, 79.6 and 140.4 GiB"
)


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        memory: bytes that nvidia-smi shows; flops: dense bf16, a second; bandwidth: bytes a second;
        fp32: FLOPs a second without tensor cores, as torch multiplies fp32 by default.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    fp32: float = 67e12

    def peak(self, number_bytes: int) -> float:
        """FLOPs a second on numbers of that size."""
        return self.fp32 if number_bytes == 4 else self.flops


GPUS = {
    "h100": Gpu("H100", 81559 * 2**20, 989e12, 3.35e12),
    "h200": Gpu("H200", 143771 * 2**20, 989e12, 4.8e12),
}
# Only in published runs that the time model is compared with; dense bf16 of the data sheet.
GB200 = Gpu("GB200", 189471 * 2**20, 2500e12, 8e12)


def chosen(config: Config, name: str | None) -> Gpu:
    """The GPU that trainings of this configuration get.

    Args:
        name: the user's word for it; None: found in gres, constraint or partition, else H200.

    Raises:
        ConfigError: no GPU of that name is known here.
    """
    if name is None and isinstance(config.cluster, SlurmCluster):
        asked = config.cluster.options("train", config.model.train)
        text = " ".join(filter(None, (asked.gres, asked.constraint, asked.partition))).lower()
        found = re.search("|".join(GPUS), text)
        name = found.group() if found else None
    name = (name or "h200").lower()
    if name not in GPUS:
        raise ConfigError(f"gpu={name}: no figures of it", f"gpu= one of {', '.join(GPUS)}")
    return GPUS[name]
