"""What is kept of a request, and what a dry run says beside the command."""

from __future__ import annotations

from jupyter_dlenv.jobs.submission import options_of
from jupyter_dlenv.options import RunRequest
from jupyter_dlenv.resources import GpuGrant, GpuRequest
from jupyter_dlenv.spec import JobSpec, Part, Role, new_id


def test_only_what_was_asked_for_is_kept_and_no_value_of_a_variable() -> None:
    request = RunRequest(
        script="a.py",
        args=("x",),
        cwd="/w",
        nodes=2,
        env={"TOKEN": "seven"},
        secrets={"KEY": "eight"},
        retries=3,
        plot=("loss=(.*)",),
    )
    assert options_of(request) == {"nodes": 2, "retries": 3, "plot": ("loss=(.*)",), "env": ["TOKEN"]}


def test_each_replica_has_its_rank_its_command_and_its_gpus() -> None:
    shares = (GpuGrant(("GPU-a",)), GpuGrant(("GPU-b",)))
    spec = JobSpec(
        id=new_id(),
        role=Role.TRAINER,
        argv=("torchrun",),
        workdir="/w",
        run_dir="/r",
        owner="alice",
        nnodes=2,
        replicas=2,
        env={"A": "1"},
        parts=(Part(("torchrun",), {"RANK": "0"}), Part(("torchrun", "x"), {"RANK": "1"})),
        gpus=GpuGrant(("GPU-a", "GPU-b"), shares=shares),
    )
    second = spec.of_replica(1)
    assert (second.node_rank, second.replicas, second.nnodes, second.parts) == (1, 1, 2, ())
    assert (second.argv, second.env) == (("torchrun", "x"), {"A": "1", "RANK": "1"})
    assert second.gpus.uuids == ("GPU-b",)


def test_replicas_need_their_gpus_together() -> None:
    assert GpuRequest.parse("2").for_replicas(3).count == 6
    assert GpuRequest.parse("all").for_replicas(2) == GpuRequest.parse("all")
    assert GpuRequest.parse("0,1").for_replicas(2).names == ("0", "1")
