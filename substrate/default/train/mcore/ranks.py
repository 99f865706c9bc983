"""The processes of a run of trainer=megatron, as the training loop sees them (train.loop.Ranks)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


class Group:
    """All ranks of the process group, which exists as long as this is used."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return dist.get_rank() == 0

    def shared(self, make: Callable[[], T]) -> T:
        """What rank 0 makes of it, or raises (OSError, ValueError), on every rank."""
        made: list[Any] = [None, None]
        if self.first:
            try:
                made[0] = make()
            except (OSError, ValueError) as error:
                made[1] = error
        dist.broadcast_object_list(made, src=0)
        if made[1] is not None:
            raise made[1]
        found: T = made[0]
        return found

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        if dist.get_world_size() == 1:
            return here
        flags: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(flags, here)
        return any(flags)

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()
