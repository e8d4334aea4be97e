"""The domain's values and their readers."""

from __future__ import annotations

import pytest

from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.resources import GpuRequest, Mount, format_size, parse_mount, parse_size
from jupyter_dlenv.spec import (
    JobSpec,
    JobState,
    JobStatus,
    Reason,
    Role,
    labels_of,
    require_id,
    require_name,
    status_from_json,
    to_json,
)

ID = "5ab4c0de-0000-4000-8000-000000000000"


def spec(**changes: object) -> JobSpec:
    values: dict[str, object] = {
        "id": ID,
        "role": Role.TRAINER,
        "argv": ("python3", "a.py"),
        "workdir": "/w",
        "run_dir": "/r",
        "owner": "alice",
    }
    return JobSpec(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "size"), [("8g", 8 << 30), ("512m", 512 << 20), ("1.5GiB", 3 << 29), ("100", 100), ("1k", 1024)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1e400", "10E", "5 GB x", "٨g", "nan", "inf", "1g" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not a size"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [format_size(size) for size in (12, 1536, 3 << 30, 5 << 40)] == ["12 B", "1.5 KiB", "3.0 GiB", "5.0 TiB"]


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("2", GpuRequest(count=2)),
        ("all", GpuRequest(every=True)),
        ("GPU-1a,MIG-2b", GpuRequest(count=2, names=("GPU-1a", "MIG-2b"))),
        ("0,1", GpuRequest(count=2, names=("0", "1"))),
        ("3,", GpuRequest(count=1, names=("3",))),
        ("0:1", GpuRequest(count=1, names=("0:1",))),
        ("2+busy", GpuRequest(count=2, busy=True)),
        ("all+cc8.0", GpuRequest(every=True, min_capability=(8, 0))),
        ("1+cc9+busy", GpuRequest(count=1, busy=True, min_capability=(9, 0))),
    ],
)
def test_gpu_requests_are_read(text: str, request_: GpuRequest) -> None:
    assert GpuRequest.parse(text) == request_
    assert GpuRequest.parse(str(request_)) == request_


def test_memory_and_sharing_go_with_gpus() -> None:
    assert GpuRequest.typed("1", "40g", shared=True) == GpuRequest(1, shared=True, min_memory_bytes=40 << 30)
    assert GpuRequest.typed("", "", shared=False) == GpuRequest()
    with pytest.raises(InvalidRequest, match="--gpu-memory goes with --gpus"):
        GpuRequest.typed("", "40g", shared=False)


@pytest.mark.parametrize("text", ["-1", "1.5", "2;id", "1e9", "true", "", "٢", "0,0", "2+", "2+cc", "2+x"])
def test_what_is_no_gpu_request_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--gpus"):
        GpuRequest.parse(text)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount("/a", "/b")),
        ("/a:/b:ro", Mount("/a", "/b", read_only=True)),
        ("src=/实验 1:a,dst=/b,ro", Mount("/实验 1:a", "/b", read_only=True)),
        ("src=/a", Mount("/a", "/a")),
    ],
)
def test_mounts_are_read(text: str, mount: Mount) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize("text", ["/a", "/a:/b:rw:z", "a:/b", "/a:b", "src=/a,size=1", "/a\0:/b", "/a\n:/b", "dst=/b"])
def test_what_is_no_mount_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_mount(text)


@pytest.mark.parametrize(
    "text",
    ["../../x", "a b", "$(x)", f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", ""), ID.upper(), ID + "\n", "x" * 9999],
)
def test_only_canonical_ids_pass(text: str) -> None:
    assert require_id(ID) == ID
    with pytest.raises(InvalidRequest):
        require_id(text)


@pytest.mark.parametrize("text", ["", "A", "-x", "a/b", "a b", "x" * 64, "..", "é"])
def test_only_plain_names_pass(text: str) -> None:
    assert require_name("torch-2.9_cuda") == "torch-2.9_cuda"
    with pytest.raises(InvalidRequest):
        require_name(text)


def test_a_digest_tells_specs_apart() -> None:
    assert spec().digest() == spec().digest()
    assert spec().digest() != spec(argv=("python3", "b.py")).digest()


def test_reserved_labels_cannot_be_replaced() -> None:
    labels = labels_of(spec(labels={"owner": "mallory", "note": "mine"}))
    assert labels["io.jupyter-dlenv.owner"] == "alice"
    assert labels["io.jupyter-dlenv.note"] == "mine"
    assert labels["io.jupyter-dlenv.job"] == ID
    assert labels_of(spec(role=Role.KERNEL))["io.jupyter-dlenv.kernel"] == ID


def test_a_status_survives_json() -> None:
    status = JobStatus(JobState.FAILED, 137, Reason.OUT_OF_MEMORY, "x", 1.0, 2.0)
    assert status_from_json(to_json(status)) == status
