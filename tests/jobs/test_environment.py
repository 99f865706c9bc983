"""What a command of the substrate sees of the operator's variables, and where it keeps kernels."""

import json
import sys
from pathlib import Path

import pytest

from aevo import sandbox
from aevo.config.cluster import LocalCluster
from aevo.config.schema import Config
from aevo.jobs.environment import environment, kernels, operators
from aevo.jobs.submit import fitted, wait
from aevo.records.job import Confinement, JobSpec, Launch, Step
from aevo.start.command import configured

RANKS = {
    "NCCL_IB_HCA": "mlx5",
    "GLOO_SOCKET_IFNAME": "ib0",
    "UCX_TLS": "rc",
    "FI_PROVIDER": "efa",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64",
}
SECRET = {"WANDB_API_KEY": "x" * 20, "HF_TOKEN": "y" * 20, "NOTE": "hf_abcdefgh12345678"}
RESERVED = {"SLURM_CONF": "/etc/slurm", "PYTHONPATH": "/theirs", "AEVO_JOB_DEPTH": "0"}


def of(words: list[str]) -> Config:
    return configured(["cluster=h200", "model=nemotron3_nano_30b", *words])


def job(folder: Path, step: Step, **fields: object) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "c00-train-1",
            "kind": "train",
            "campaign": "test",
            "folder": str(folder / "jobs" / "one"),
            "product": str(folder / "seen.json"),
            "steps": [step],
            **fields,
        }
    )


def test_families_of_the_ranks_pass_and_secrets_do_not() -> None:
    found = environment(RANKS | SECRET | {"NCCL_TOKEN": "z" * 20, "OTHER": "1"}, {}, 1, "/s")
    assert {name: found.get(name) for name in RANKS} == RANKS
    assert not found.keys() & {*SECRET, "NCCL_TOKEN", "OTHER"}


def test_what_the_operator_writes_passes_but_for_secrets_and_what_is_not_his() -> None:
    assert operators(RANKS | {"SITE": "1"} | SECRET | RESERVED) == RANKS | {"SITE": "1"}
    given = {"SITE": "1", "HF_HUB_OFFLINE": "0"}
    found = environment({}, {}, 1, "/s", given)
    assert (found["SITE"], found["HF_HUB_OFFLINE"]) == ("1", "1")


def test_a_job_on_slurm_carries_them(tmp_path: Path) -> None:
    config = of(
        [
            "+cluster.common.environment.SITE=a",
            "+cluster.train.environment.NCCL_DEBUG=INFO",
            "+cluster.train.environment.HF_TOKEN=yyyyyyyyyyyy",
        ]
    )
    found = fitted(job(tmp_path, Step(argv=["x"], cwd="/")), config.cluster)
    assert found.launch.environment == {"SITE": "a", "NCCL_DEBUG": "INFO"}


def test_kernels_lie_in_a_folder_of_the_candidates_own() -> None:
    place, names = kernels("/runs/c00/kernels/e", {})
    assert place == "/runs/c00/kernels/e" and names["TRITON_CACHE_DIR"] == f"{place}/triton"
    fast = [
        kernels(f"/runs/{name}/kernels/e", {"TRITON_CACHE_DIR": "/fast"})[0]
        for name in ("c00", "c01", "c00")
    ]
    assert fast[0] == fast[2] != fast[1]
    assert all(Path(item).parent == Path("/fast") for item in fast)


@pytest.mark.skipif(sandbox.probe() == "none", reason="nothing confines here")
def test_a_confined_step_sees_them_and_finds_its_kernels_again(tmp_path: Path) -> None:
    """Two jobs of a candidate: the second finds what the first kept; another's is out of reach."""
    cluster = LocalCluster(
        kind="local", slots=1, slot_folder=str(tmp_path / "slots"), max_wait_min=10
    )
    (tmp_path / "other").mkdir()
    for number, before in ((1, []), (2, ["kernel"])):
        out = tmp_path / f"out{number}"
        code = f"""
import json, os
cache, other = os.environ["TRITON_CACHE_DIR"], {str(tmp_path / "other" / "kernel")!r}
os.makedirs(cache, exist_ok=True)
before = os.listdir(cache)
open(os.path.join(cache, "kernel"), "w").close()
try:
    open(other, "w").close()
    reached = True
except OSError:
    reached = False
json.dump([os.environ.get("NCCL_DEBUG"), before, reached], open({str(out / "seen")!r}, "w"))
"""
        step = Step(
            argv=[sys.executable, "-c", code],
            cwd=str(tmp_path),
            cache=str(tmp_path / "c00" / "kernels"),
            confine=Confinement(write=[str(out)]),
        )
        spec = job(tmp_path, step, launch=Launch(environment={"NCCL_DEBUG": "INFO"}))
        wait(
            spec.model_copy(
                update={
                    "folder": str(tmp_path / "jobs" / str(number)),
                    "product": str(out / "seen"),
                }
            ),
            cluster,
        )
        assert json.loads((out / "seen").read_text()) == ["INFO", before, False]
    assert list((tmp_path / "other").iterdir()) == []
