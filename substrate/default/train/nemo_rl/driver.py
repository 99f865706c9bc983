"""What one of NVIDIA's scripts runs in: `python -m train.nemo_rl.driver SPEC.json`.

Makes our dataset, processors, environment and log known to NeMo-RL, waits until all nodes are in
the Ray cluster, and runs the script as it stands. Exit status: the script's; 3 where loss or
gradient is not finite, 2 where this version of NeMo-RL is not the one this was written for.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from train.nemo_rl.book import Book, Diverged
from train.nemo_rl.settings import ENVIRONMENT, PROCESSOR
from train.nemo_rl.tasks import NemoRlError

ACTOR = "train.nemo_rl.environment.Puzzles"
WAIT_SECONDS = 1800.0  # for nodes, as NVIDIA's ray.sub
UNIT = "worker_units"  # resource of a GPU, as there


def main(argv: list[str]) -> int:
    """One task; returns the exit status."""
    spec: dict[str, Any] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    try:
        await_nodes(spec["units"])
        introduce(Book(**spec["book"]))
    except (NemoRlError, ImportError, AttributeError) as error:
        print(f"train.nemo_rl.driver: {error}; trainer=nemo_rl was written for NeMo-RL 0.7.0",
              file=sys.stderr)
        return 2
    sys.argv = [spec["script"], "--config", spec["config"]]
    try:
        runpy.run_path(spec["script"], run_name="__main__")
    except Diverged:
        return 3
    return 0


def await_nodes(units: int) -> None:
    """Until the Ray cluster has so many GPUs.

    Raises:
        NemoRlError: it has not within half an hour.
    """
    import ray

    ray.init(address="auto", log_to_driver=False)
    end = time.monotonic() + WAIT_SECONDS
    while (found := ray.cluster_resources().get(UNIT, 0)) < units:
        if time.monotonic() > end:
            raise NemoRlError(f"{found:g} of {units} GPUs are in the Ray cluster")
        time.sleep(2)
    ray.shutdown()


def introduce(book: Book) -> None:
    """Register what is ours. The log and DPO's processor have no registry: NeMo-RL takes them from
    its modules, where ours are put before anything imports them from there.

    Raises:
        ImportError, AttributeError: NeMo-RL has no such place.
    """
    from nemo_rl.data import processors
    from nemo_rl.data import utils as data_utils
    from nemo_rl.distributed import ray_actor_environment_registry as environments
    from nemo_rl.distributed.virtual_cluster import PY_EXECUTABLES
    from nemo_rl.environments.utils import register_env
    from nemo_rl.utils import logger

    from train.nemo_rl import inside

    processors.register_processor(PROCESSOR, inside.processed)
    environments.ACTOR_ENVIRONMENT_REGISTRY[ACTOR] = PY_EXECUTABLES.SYSTEM
    register_env(ENVIRONMENT, ACTOR)
    for module, name, ours in ((data_utils, "preference_preprocessor", inside.preference),
                               (logger, "Logger", _recorder(logger.Logger, book))):
        getattr(module, name)
        setattr(module, name, ours)


def _recorder(logger: Any, book: Book) -> Any:
    class Recorder(logger):
        """NeMo-RL's log, which tells us of each step."""

        def log_metrics(self, metrics: Any, step: int, prefix: Any = "", *rest: Any,
                        **more: Any) -> None:
            super().log_metrics(metrics, step, prefix, *rest, **more)
            if prefix == "train" and "loss" in metrics and "grad_norm" in metrics:
                book.add(step, metrics)

    return Recorder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
