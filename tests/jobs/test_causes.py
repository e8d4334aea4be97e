"""The catalogue, entry by entry: real words of frameworks and systems, and what is made of them."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jupyter_dlenv.jobs.causes import BY_ID, CATALOGUE, LOG_CAUSES
from jupyter_dlenv.jobs.diagnosis import Facts, NodeFacts, diagnose, values_of
from jupyter_dlenv.jobs.facts import Cause, Found
from jupyter_dlenv.jobs.packages import package_of
from jupyter_dlenv.jobs.reading import literal_begin
from jupyter_dlenv.resources import parse_size

TABLE = Path(__file__).parents[2] / "docs" / "failures.md"
GIB = 1 << 30

NO_FILE = "FileNotFoundError: [Errno 2] No such file or directory: "
NCCL = "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:317, "
H5 = "FileNotFoundError: [Errno 2] Unable to synchronously open file (unable to open file: name = "
STORE_GET = (
    "torch.distributed.DistBackendError: [1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via "
    "c10d key-value store by key '0', but store->get('0') got error: "
)
GPU: Mapping[str, Any] = {"gpus": 1}
USAGE: Mapping[str, Any] = {"exit_code": 2}

EXCEPTIONS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    # GPUs
    (
        "gpu-memory",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
        GPU,
    ),
    ("gpu-memory", "RuntimeError: CUDA error: out of memory", GPU),
    (
        "gpu-memory",
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: {{function_node __wrapped__Mul}} OOM when "
        "allocating tensor with shape[16,12,512,512] and type float on /job:localhost/replica:0/task:0/device:GPU:2 by "
        "allocator GPU_2_bfc [Op:Mul]",
        GPU,
    ),
    (
        "gpu-memory",
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate "
        "8589934592 bytes.",
        GPU,
    ),
    (
        "gpu-memory",
        "RuntimeError: ResourceExhaustedError:\n\nOut of memory error on GPU 0. Cannot allocate 98.000244MB "
        "memory on GPU "
        "0, 6.000000GB memory has been allocated and available memory is only 0.000000B.",
        GPU,
    ),
    ("gpu-memory", "OSError: (External) CUDA error(2), out of memory. \n  [Hint: 'cudaErrorMemoryAllocation'.]", GPU),
    (
        "gpu-memory",
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph execution error:\n\n"
        "Detected at node 'r' defined at (most recent call last):\n    File \"t.py\", line 4\n      fit(x)\nNode: 'r'\n"
        "OOM when allocating tensor with shape[256,64] and type float on "
        "/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc",
        GPU,
    ),
    ("gpu-memory", NCCL + "unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'", GPU),
    (
        "duplicate-gpu",
        NCCL
        + "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.20.5\nncclInvalidUsage: This usually "
        "reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA "
        "device 10",
        GPU,
    ),
    ("gpu-number", "RuntimeError: CUDA error: invalid device ordinal", GPU),
    (
        "gpu-number",
        "RuntimeError: Attempting to deserialize object on CUDA device 2 but torch.cuda.device_count() is 1. "
        "Please use",
        GPU,
    ),
    ("gpu-architecture", "RuntimeError: CUDA error: no kernel image is available for execution on the device", GPU),
    (
        "driver-old",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update your "
        "GPU driver",
        GPU,
    ),
    (
        "driver-old",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
        "NumCudaDevices() that might have already set an error? Error 804: forward compatibility was attempted on non "
        "supported HW",
        GPU,
    ),
    ("driver-old", "RuntimeError: CUDA driver version is insufficient for CUDA runtime version", GPU),
    ("no-gpu", "RuntimeError: CUDA driver version is insufficient for CUDA runtime version", {}),
    (
        "no-gpu",
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a",
        {},
    ),
    ("no-gpu", "RuntimeError: CUDA error: no CUDA-capable device is detected", {}),
    ("no-gpu", "ValueError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!", {}),
    ("no-gpu", "OSError: (External) CUDA error(100), no CUDA-capable device is detected.", {}),
    ("gpu-unreachable", "RuntimeError: No CUDA GPUs are available", GPU),
    ("gpu-unreachable", "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment", GPU),
    ("no-cuda-build", "AssertionError: Torch not compiled with CUDA enabled", {}),
    (
        "no-cuda-build",
        "ValueError: Cannot use CUDAPlace in CPU only version, Please recompile or reinstall Paddle with CUDA support.",
        {},
    ),
    ("no-cuda-build", "RuntimeError: Distributed package doesn't have NCCL built in", {}),
    ("gpu-assert", "RuntimeError: CUDA error: device-side assert triggered", GPU),
    ("gpu-faulty", "RuntimeError: CUDA error: uncorrectable ECC error encountered", GPU),
    (
        "cuda-fork",
        "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you "
        "must use the",
        GPU,
    ),
    # Processes that do not find or lose each other
    (
        "nccl-network",
        NCCL
        + "internal error\nncclInternalError: Internal check failed.\nLast error:\nBootstrap : no socket interface "
        "found",
        GPU,
    ),
    (
        "nccl-network",
        NCCL + "remote process exited or there was a network error\nncclRemoteError: A call failed possibly due to a "
        "network error or a remote process exiting prematurely.\nLast error:\nsocketStartConnect: Connect to "
        "172.17.0.3<45071> failed : Software caused connection abort",
        GPU,
    ),
    (
        "nccl-system",
        NCCL
        + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5\nncclSystemError: System "
        "call (e.g. socket, malloc) or external library call failed or device error.",
        GPU,
    ),
    ("nccl-cuda", NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5", GPU),
    ("nccl", NCCL + "internal error - please report this issue to the NCCL developers, NCCL version 2.21.5", GPU),
    (
        "nccl-timeout",
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
        "1800000ms for recv "
        "operation to complete",
        {},
    ),
    ("nccl-timeout", STORE_GET + "Timeout waiting for key: default_pg/0//cuda//0 after 600000 ms", GPU),
    ("nccl-timeout", STORE_GET + "wait timeout after 600000ms, keys: /default_pg/0//cuda//0", GPU),
    ("nccl-timeout", STORE_GET + "Socket Timeout", GPU),
    ("peer-lost", STORE_GET + "Connection reset by peer", GPU),
    ("port-in-use", "OSError: [Errno 98] Address already in use", {}),
    ("exception", "tensorflow.python.framework.errors_impl.UnknownError: Could not start gRPC server", {}),
    (
        "port-in-use",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network "
        "address. port: "
        "29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
        {},
    ),
    (
        "rendezvous",
        "torch.distributed.DistStoreError: Timed out after 901 seconds waiting for clients. 1/3 clients joined.",
        {},
    ),
    (
        "rendezvous",
        "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while trying to connect to "
        "(172.17.0.9, 46229).",
        {},
    ),
    (
        "rendezvous",
        "torch.distributed.DistNetworkError: The client socket has timed out after 60s while trying to connect to "
        "(10.0.0.3, 29500).",
        {},
    ),
    ("rendezvous", "RuntimeError: The client socket has timed out after 1800s while trying to connect to (n, 1).", {}),
    (
        "rendezvous",
        "RuntimeError: Timed out initializing process group in store based barrier on rank: 0, for key: "
        "store_based_barrier_key:1 (world_size=2, worker_count=1, timeout=0:30:00)",
        {},
    ),
    ("rendezvous", "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError", {}),
    (
        "rendezvous",
        "jaxlib.xla_extension.XlaRuntimeError: DEADLINE_EXCEEDED: Barrier timed out. Barrier_id: "
        "PjRT_Client_Connect. Timed "
        "out task names:\n/job:jax_worker/replica:0/task:1",
        {},
    ),
    (
        "rendezvous",
        "tensorflow.python.framework.errors_impl.UnavailableError: failed to connect to all addresses; last "
        "error: UNKNOWN",
        {},
    ),
    ("connection-refused", "ConnectionRefusedError: [Errno 111] Connection refused", {}),
    (
        "peer-lost",
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer "
        "[127.0.0.1]:16432",
        {},
    ),
    ("peer-lost", "ConnectionResetError: [Errno 104] Connection reset by peer", {}),
    (
        "process-failed",
        "subprocess.CalledProcessError: Command '['/usr/bin/python3', 'train.py']' returned non-zero exit status 1.",
        {},
    ),
    # Files
    (
        "shm-full",
        "RuntimeError: DataLoader worker (pid 56811) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
        {},
    ),
    ("shm-full", "RuntimeError: unable to write to file </torch_9_2829909622_0>: No space left on device (28)", {}),
    (
        "shm-full",
        NCCL
        + "unhandled system error\nLast error:\nError while creating shared memory segment /dev/shm/nccl-a1b2c3 (size "
        "9637888)",
        GPU,
    ),
    ("shm-full", "OSError: [Errno 28] No space left on device: '/dev/shm/cache'", {}),
    (
        "shm-full-write",
        '  File "/usr/lib/python3.11/multiprocessing/heap.py", line 82, in __init__\n'
        "OSError: [Errno 28] No space left on device",
        {},
    ),
    ("disk-full", "OSError: [Errno 28] No space left on device", {}),
    (
        "disk-full",
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0: No space left on device",
        {},
    ),
    ("exception", "OSError: [Errno 28] inotify watch limit reached", {}),
    ("quota", "OSError: [Errno 122] Disk quota exceeded: '/home/u/model.pt'", {}),
    ("file-outside", NO_FILE + "'/data/x.csv'", {}),
    ("file-missing", NO_FILE + "'/project/x.csv'", {}),
    ("file-missing", NO_FILE + "'x.csv'", {}),
    ("file-missing", NO_FILE + "'/x.csv'", {}),
    ("file-outside", NO_FILE + "'/data'", {}),
    ("file-outside", NO_FILE + '"/data/it\'s/x.csv"', {}),
    ("file-outside", "FileNotFoundError: /data/x.npz not found.", {}),
    ("file-outside", H5 + "'/data/x.h5', errno = 2, error message = 'No such file or directory', flags = 0)", {}),
    ("file-missing", H5 + "'x.h5', errno = 2, error message = 'No such file or directory', flags = 0)", {}),
    ("exception", NO_FILE + "'/psm_1234'", {}),
    ("exception", "FileNotFoundError: [Errno 2] No such file or directory", {}),
    ("exception", "FileNotFoundError: Couldn't find any class folder in /data/imagenet/train.", {}),
    ("exception", "FileNotFoundError: [Errno 2] No usable temporary directory found in ['/tmp', '/project']", {}),
    ("file-missing", NO_FILE + "'/data/x.csv'", {"engine": "process"}),
    ("read-only", "OSError: [Errno 30] Read-only file system: '/data/out.txt'", {}),
    ("permission", "PermissionError: [Errno 13] Permission denied: '/etc/shadow'", {}),
    ("open-files", "OSError: [Errno 24] Too many open files: '/etc/passwd'", {}),
    ("open-files", "RuntimeError: received 0 items of ancdata", {}),
    ("processes", "RuntimeError: can't start new thread", {}),
    ("processes", "BlockingIOError: [Errno 11] Resource temporarily unavailable", {}),
    ("allocation", "MemoryError", {}),
    (
        "allocation",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried "
        "to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)",
        {},
    ),
    (
        "allocation",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.28 TiB for an array with shape",
        {},
    ),
    ("allocation", "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 4398046511104 bytes.", {}),
    ("worker-killed", "RuntimeError: DataLoader worker (pid(s) 41, 42) exited unexpectedly", {}),
    ("worker-killed", "RuntimeError: DataLoader worker (pid 41) is killed by signal: Killed.", {}),
    # Images
    ("opencv-libraries", "ImportError: libGL.so.1: cannot open shared object file: No such file or directory", {}),
    (
        "opencv-libraries",
        "ImportError: libgthread-2.0.so.0: cannot open shared object file: No such file or directory",
        {},
    ),
    ("cuda-library", "OSError: libcudart.so.11.0: cannot open shared object file: No such file or directory", GPU),
    ("no-gpu", "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", {}),
    (
        "cuda-library",
        "ImportError: libcudnn_ops_infer.so.8: cannot open shared object file: No such file or directory",
        GPU,
    ),
    ("cuda-library", "ImportError: libnvinfer.so.8: cannot open shared object file: No such file or directory", GPU),
    ("library", "ImportError: libcurl.so.4: cannot open shared object file: No such file or directory", {}),
    ("library", "ImportError: libcups.so.2: cannot open shared object file: No such file or directory", {}),
    ("library", "OSError: libsndfile.so.1: cannot open shared object file: No such file or directory", {}),
    ("glibc", "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /x/a.so)", {}),
    (
        "numpy-abi",
        "ImportError:\nA module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.0.0 as it may crash.",
        {},
    ),
    (
        "numpy-abi",
        "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C "
        "header, got 88 from "
        "PyObject",
        {},
    ),
    ("protobuf", "TypeError: Descriptors cannot be created directly.", {}),
    (
        "undefined-symbol",
        "ImportError: /usr/lib/flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined symbol: "
        "_ZN3c104cuda9SetDevice",
        {},
    ),
    ("module", "ModuleNotFoundError: No module named 'cv2'", {}),
    ("local-module", "ModuleNotFoundError: No module named 'utils.tools'", {}),
    ("local-module", "ModuleNotFoundError: No module named 'gear'", {"modules": ("gear",)}),
    ("system-module", "ModuleNotFoundError: No module named 'tkinter'", {}),
    (
        "shadowed-module",
        "AttributeError: partially initialized module 'torch' has no attribute 'nn' (most likely due to a "
        "circular import)",
        {},
    ),
    ("shadowed-module", "ModuleNotFoundError: No module named 'torch.nn'; 'torch' is not a package", {}),
    (
        "shadowed-module",
        "ModuleNotFoundError: No module named 'torch.nn'; 'torch' is not a package",
        {"modules": ("torch",)},
    ),
    ("import", "ImportError: cannot import name 'AdamW' from 'transformers' (/usr/lib/transformers/__init__.py)", {}),
    ("exception", "ImportError: cannot import name 'nothing' from 'os' (/usr/lib/python3.11/os.py)", {}),
    ("display", "_tkinter.TclError: no display name and no $DISPLAY environment variable", {}),
    (
        "display",
        "cv2.error: OpenCV(4.8.0) /io/window.cpp:1272: error: (-2:Unspecified error) The function is not implemented. "
        "Rebuild the library with Windows, GTK+ 2.x or Cocoa support.",
        {},
    ),
    ("architecture", "OSError: [Errno 8] Exec format error: '/tmp/y'", {}),
    # Beyond the network
    (
        "no-network",
        "urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>",
        {"network": "none"},
    ),
    ("name-resolution", "socket.gaierror: [Errno -2] Name or service not known", {}),
    (
        "certificate",
        "urllib.error.URLError: <urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
        "unable to get "
        "local issuer certificate (_ssl.c:1006)>",
        {},
    ),
    ("login", "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: x)", {}),
    ("no-network", "OSError: We couldn't connect to 'https://huggingface.co' to load the files", {"network": "none"}),
    (
        "download",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them "
        "in the cache",
        {},
    ),
    # Code
    ("start-method", "RuntimeError: context has already been set", {}),
    (
        "start-method",
        "RuntimeError: \n        An attempt has been made to start a new process before the\n"
        "        current process has finished its bootstrapping phase.\n",
        {},
    ),
    (
        "pickle-main",
        "_pickle.PicklingError: Can't pickle <function <lambda> at 0x7f>: attribute lookup <lambda> on __main__ failed",
        {},
    ),
    ("pickle-main", "AttributeError: Can't get attribute 'Data' on <module '__main__' (built-in)>", {}),
    ("syntax", "SyntaxError: invalid syntax", {}),
    ("exception", "ValueError: boom", {}),
)
"""Last words of a Python traceback."""

LINES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    (
        "nccl-timeout",
        "[rank1]:[E626 06:24:44.903881913 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective "
        "operation timeout: "
        "WorkNCCL(SeqNum=808, OpType=ALLREDUCE, NumelIn=9801523, NumelOut=9801523, Timeout(ms)=600000) ran for 600020 "
        "milliseconds before timing out.\nterminate called after throwing an instance of 'c10::DistBackendError'",
        {"exit_code": 134, "gpus": 2},
    ),
    (
        "nccl-timeout",
        "[rank1]:[F1122 06:32:44 ProcessGroupNCCL.cpp:1395] [PG ID 0 PG GUID 0(default_pg) Rank 0] ProcessGroupNCCL's "
        "watchdog got stuck for 480 seconds without making progress in monitoring enqueued collectives.",
        {"exit_code": 134, "gpus": 2},
    ),
    (
        "peer-lost",
        "F1122 00:00:00.0 123 client.h:80] Terminating process because the JAX distributed service detected fatal "
        "errors. This most likely indicates that another task died.",
        {"exit_code": 134},
    ),
    ("script-missing", "/usr/bin/python3: can't open file '/d/nope.py': [Errno 2] No such file or directory", USAGE),
    ("module", "/usr/bin/python3: No module named nothing", {}),
    ("file-outside", "cat: /data/list.txt: No such file or directory", {}),
    ("permission", "sh: 1: /etc/passwd: Permission denied", {"exit_code": 126}),
    ("launcher-usage", "usage: run.py [-h] [--nnodes NNODES]\nrun.py: error: unrecognized arguments: --nprocs", USAGE),
    ("arguments", "usage: train.py [-h] --lr LR\ntrain.py: error: the following arguments are required: --lr", USAGE),
    ("arguments", "Usage: train.py [OPTIONS]\n\nError: No such option: --lrr", USAGE),
    ("exit-code", "train.py: error: something of the script's own", {}),
    ("syntax", '  File "/d/syn.py", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax', {}),
    ("architecture", "sh: 1: /tmp/y: Exec format error", {"exit_code": 126}),
    ("display", "qt.qpa.xcb: could not connect to display\nAborted (core dumped)", {"exit_code": 134}),
    ("processes", "libgomp: Thread creation failed: Resource temporarily unavailable", {}),
    ("allocation", "terminate called after throwing an instance of 'std::bad_alloc'", {"exit_code": 134}),
    (
        "crash",
        "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):",
        {"exit_code": 139},
    ),
    ("bus-error", "Fatal Python error: Bus error", {"exit_code": 135}),
    ("process-failed", "Primary job  terminated normally, but 1 process returned", {}),
    ("killed", "mpirun noticed that process rank 1 with PID 77 on node n exited on signal 9 (Killed).", {}),
    ("download", "ERROR: No matching distribution found for nothing-xyz", {}),
    ("no-network", "ERROR: No matching distribution found for nothing-xyz", {"network": "none"}),
    (
        "aborted",
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  nothing that we know",
        {"exit_code": 134},
    ),
    ("exit-code", "terminate called after throwing an instance of 'std::runtime_error'", {}),
    (
        "cpu-instructions",
        "The TensorFlow library was compiled to use AVX instructions, but these aren't available on",
        {"exit_code": 134},
    ),
)
"""Lines outside any traceback."""

ENDS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("completed", {"exit_code": 0}),
    ("time-limit", {"exit_code": 137, "timeout_s": 90.0}),
    ("stopped", {"exit_code": 137, "stopped_by_us": True}),
    ("memory-limit", {"exit_code": 137, "oom_killed": True, "memory_limit": 8 * GIB}),
    ("host-memory", {"exit_code": 137, "oom_killed": True}),
    ("not-run", {"exit_code": 125}),
    ("not-executable", {"exit_code": 126}),
    ("no-command", {"exit_code": 127}),
    ("interrupted", {"exit_code": 130}),
    ("cpu-instructions", {"exit_code": 132}),
    ("aborted", {"exit_code": 134}),
    ("bus-error", {"exit_code": 135}),
    ("signal", {"exit_code": 136}),
    ("killed", {"exit_code": 137}),
    ("crash", {"exit_code": 139}),
    ("terminated", {"exit_code": 143}),
    ("exit-code", {"exit_code": 3}),
)


def names(examples: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """Return what to call each example."""
    return [f"{number}-{example[0]}" for number, example in enumerate(examples)]


def facts(launcher: str, given: Mapping[str, Any]) -> Facts:
    """Return what is known of a job of one process that wrote this."""
    values = {"exit_code": 1, "mounts": ("/project",), "workdir": "/project", "network": "bridge", **given}
    return Facts(**values, nodes=(NodeFacts(launcher=launcher),))


def traceback(words: str) -> str:
    """Return a log whose last traceback ends with these words."""
    frames = '  File "/project/train.py", line 3, in <module>\n    run()\n'
    return f"epoch 1\nTraceback (most recent call last):\n{frames}{words}\n"


@pytest.mark.parametrize(("cause", "words", "given"), EXCEPTIONS, ids=names(EXCEPTIONS))
def test_exceptions_are_recognised(cause: str, words: str, given: Mapping[str, Any]) -> None:
    found = diagnose(facts(traceback(words), given))
    assert found.cause == cause
    assert found.evidence
    assert found.evidence in words
    assert found.traceback.startswith("Traceback")
    assert found.message


@pytest.mark.parametrize(("cause", "words", "given"), LINES, ids=names(LINES))
def test_lines_are_recognised(cause: str, words: str, given: Mapping[str, Any]) -> None:
    found = diagnose(facts(f"epoch 1\n{words}\n", given))
    assert found.cause == cause
    assert found.evidence == "" if cause == "exit-code" else found.evidence in re.sub(r"^\[rank1\]:", "", words)


@pytest.mark.parametrize(("cause", "given"), ENDS, ids=[each[0] for each in ENDS])
def test_ends_are_recognised(cause: str, given: Mapping[str, Any]) -> None:
    found = diagnose(facts("epoch 1\n", given))
    assert (found.cause, found.evidence, found.traceback) == (cause, "", "")
    assert bool(found.message) == (cause != "completed")


def test_every_entry_has_an_example() -> None:
    shown = {each[0] for each in (*EXCEPTIONS, *LINES, *ENDS)} | {"program-missing"}
    assert {cause.id for cause in CATALOGUE} == shown - {"completed"}


def test_a_missing_program_is_no_missing_file() -> None:
    frames = '  File "/usr/lib/python3.11/subprocess.py", line 1901, in _execute_child\n'
    log = traceback(frames + NO_FILE + "'ffmpeg'")
    found = diagnose(facts(log, {}))
    assert (found.cause, found.message) == ("program-missing", "The program ffmpeg is not in this image.")
    assert "%dlapt ffmpeg" in found.remedy


@pytest.mark.parametrize(
    ("path", "call", "cause"),
    [
        ("/data/work", "subprocess.run(['ls'], cwd=folder)", "file-outside"),
        ("work", "subprocess.run(['ls'], cwd='work')", "file-missing"),
        ("ls", "subprocess.run(['ls'], cwd='work')", "program-missing"),
    ],
)
def test_a_folder_to_start_in_is_no_program(path: str, call: str, cause: str) -> None:
    frames = (
        f'  File "t.py", line 1\n    {call}\n  File "/usr/lib/python3.11/subprocess.py", line 1901, in _execute_child\n'
    )
    assert diagnose(facts(traceback(f"{frames}{NO_FILE}'{path}'"), {})).cause == cause


WORKER_ENDED = "RuntimeError: DataLoader worker (pid(s) 56811) exited unexpectedly"
PADDLE_ENDED = "SystemError: (Fatal) DataLoader process (pid   1. If run DataLoader by DataLoader.from_generator(...)"
NO_SERVER = "tensorflow.python.framework.errors_impl.UnknownError: Could not start gRPC server"


@pytest.mark.parametrize(
    ("before", "words", "cause"),
    [
        ("ERROR: Unexpected bus error encountered in worker.", WORKER_ENDED, "shm-full"),
        ("ERROR: Unexpected BUS error encountered in DataLoader worker.", PADDLE_ENDED, "shm-full"),
        ("epoch 1", WORKER_ENDED, "worker-killed"),
        ("epoch 1", PADDLE_ENDED, "worker-killed"),
        ('E0101 server_chttp2.cc:40] {"os_error":"Address already in use"}', NO_SERVER, "port-in-use"),
        ("E0101 Address already in use", "RuntimeError: UNKNOWN: Failed to start RPC server", "port-in-use"),
    ],
)
def test_an_exception_that_says_little_is_told_by_the_lines_before_it(before: str, words: str, cause: str) -> None:
    assert diagnose(facts(f"{before}\n{traceback(words)}", {})).cause == cause


# What is said ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "given", "helps"),
    [
        (NO_FILE + "'/data/train/x.csv'", {}, "--mount /data/train:/data/train:ro"),
        ("ModuleNotFoundError: No module named 'cv2'", {}, "%pip install opencv-python-headless"),
        ("ModuleNotFoundError: No module named 'sklearn.svm'", {}, "%pip install scikit-learn"),
        ("ModuleNotFoundError: No module named 'tkinter'", {}, "%dlapt python3-tk"),
        ("RuntimeError: unable to write to file </torch_1_2_3>", {"shm_bytes": 2 * GIB}, "--shm-size 4g"),
        ("RuntimeError: unable to write to file </torch_1_2_3>", {"shm_bytes": 1 << 20}, "--shm-size 2m"),
        ("RuntimeError: No CUDA GPUs are available", {}, "--gpus 1"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", {"network": "none"}, "--network bridge"),
        (NCCL + "unhandled system error", GPU, "NCCL_SOCKET_IFNAME"),
    ],
)
def test_the_remedy_can_be_typed(words: str, given: Mapping[str, Any], helps: str) -> None:
    assert helps in diagnose(facts(traceback(words), given)).remedy


@pytest.mark.parametrize("limit", [1, 64 << 20, GIB - 1, 3 * GIB // 2])
def test_more_memory_is_twice_as_much(limit: int) -> None:
    remedy = diagnose(facts("", {"exit_code": 137, "oom_killed": True, "memory_limit": limit})).remedy
    assert parse_size(remedy.rpartition("--memory ")[2].rstrip(".")) >= 2 * limit


@pytest.mark.parametrize(
    ("module", "package"), [("yaml", "PyYAML"), ("PIL.Image", "Pillow"), ("my_thing", "my-thing"), ("torch", "torch")]
)
def test_modules_have_their_packages(module: str, package: str) -> None:
    assert package_of(module) == package


@pytest.mark.parametrize("cause", CATALOGUE, ids=lambda cause: cause.id)
def test_sentences_name_what_is_known(cause: Cause) -> None:
    groups = {name for sign in cause.signs for name in re.compile(sign).groupindex}
    known = set(values_of(Facts(1), Found())) | groups
    for text in (cause.describe(), cause.advise()):
        assert {name for _text, name, _spec, _kind in string.Formatter().parse(text) if name} <= known
    assert cause.describe()[-1] in ".}"


def test_ids_and_codes_are_said_once() -> None:
    assert len(BY_ID) == len(CATALOGUE)
    codes = [code for cause in CATALOGUE for code in cause.codes]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", cause.id) for cause in CATALOGUE)


# How signs are written ------------------------------------------------------------------------------------------------

SIGNS = sorted({sign for cause in LOG_CAUSES for sign in cause.signs})


@pytest.mark.parametrize("sign", SIGNS)
def test_signs_repeat_nothing_without_bound_but_at_their_end(sign: str) -> None:
    inside = re.sub(r"\\.|\[(?:\\.|[^\]])*\]", lambda match: "x" if match.group()[0] != "\\" else "y", sign)
    endless = [match.start() for match in re.finditer(r"[*+](?![)]?\Z)|\{\d*,\}", inside)]
    assert [at for at in endless if inside[at - 1] != " "] == []
    assert "\n" not in sign


@pytest.mark.parametrize(
    ("sign", "begin"),
    [
        (r"\[Errno 98\] .{0,100}", "[Errno 98] "),
        (r"a|b", ""),
        (r"^x", ""),
        (r"abc?", "ab"),
        (r"a\.?b", "a"),
        (r"CUDA (?:out|in)", "CUDA "),
        (r"ran{2}", "ra"),
        (r"x\d", "x"),
    ],
)
def test_what_a_sign_begins_with(sign: str, begin: str) -> None:
    assert literal_begin(sign) == begin


@pytest.mark.parametrize("sign", SIGNS)
def test_no_sign_is_missed_for_its_beginning(sign: str) -> None:
    begin = literal_begin(sign)
    assert re.match(re.escape(begin) if begin else "", sign.replace("\\", "")) or "(" in begin
    for _cause, words, _given in (*EXCEPTIONS, *LINES):
        match = re.search(sign, words, re.MULTILINE)
        assert not match or match.group().startswith(begin)


# The document ---------------------------------------------------------------------------------------------------------


def cell(text: str) -> str:
    """Return a sentence as it stands in the table: what differs from case to case in capitals."""
    return re.sub(r"\{(\w+)\}", lambda match: match.group(1).upper(), text).replace("|", "\\|")


def test_the_document_shows_the_catalogue() -> None:
    section = TABLE.read_text(encoding="utf-8").partition("<!-- causes -->\n")[2].partition("<!-- /causes -->")[0]
    rows = [f"| `{cause.id}` | {cell(cause.describe())} | {cell(cause.advise())} |" for cause in CATALOGUE]
    assert section.splitlines()[2:] == rows
