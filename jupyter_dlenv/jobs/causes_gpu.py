"""The catalogue's causes that lie with GPUs, and with processes that do not find or lose each other: data. Pure."""

from __future__ import annotations

from ..i18n import _
from ..spec import Reason
from .facts import Cause, Facts, Found


def _has_gpus(facts: Facts, _found: Found) -> bool:
    return facts.gpus > 0


def _has_none(facts: Facts, _found: Found) -> bool:
    return facts.gpus == 0


def _address(_facts: Facts, found: Found) -> bool:
    """Tell whether a server that did not start, if that is all that is said, met an address in use."""
    return not found.groups.get("server") or "ddress already in use" in found.before


_INSUFFICIENT = r"CUDA driver version is insufficient for CUDA runtime version"
_NO_GPU = (
    r"Found no NVIDIA driver on your system",
    r"No CUDA GPUs are available",
    r"Cuda is not available\.",
    r"CUDA error: no CUDA-capable device is detected",
    r"CUDA error\(100\), no CUDA-capable device",
    r"Attempting to deserialize object on a CUDA device but",
    r"ProcessGroupNCCL is only supported with GPUs, no GPUs found",
    r"libcuda\.so\.1: cannot open shared object file",
    r"Unable to initialize backend 'cuda'",
    r"Unknown backend:? '(?:gpu|cuda)' requested",
    r"CUDAError: CUDA_ERROR_NO_DEVICE",
)

GPU_CAUSES = (
    Cause(
        "gpu-memory",
        Reason.OUT_OF_MEMORY,
        lambda: _("A GPU ran out of memory."),
        lambda: _(
            "Use a smaller batch or mixed precision, or ask for larger GPUs, for example --gpu-memory 40g. "
            "jupyter dlenv gpus shows who else uses them."
        ),
        (
            r"CUDA out of memory\.",
            r"CUDA error: out of memory",
            r"CUDA error\(2\), out of memory",
            r"HIP out of memory\.",
            r"OOM when allocating tensor with shape.{0,300}device:GPU",
            r"RESOURCE_EXHAUSTED: (?:Out of memory|Failed to allocate)",
            r"Out of memory error on GPU \d{1,4}\.",
            r"Cuda failure(?: 2)? 'out of memory'",
            r"CUDA_ERROR_OUT_OF_MEMORY",
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_ALLOC_FAILED",
        ),
        when=lambda facts, found: facts.gpus > 0 or "RESOURCE_EXHAUSTED" not in found.block,
    ),
    Cause(
        "duplicate-gpu",
        Reason.USER_ERROR,
        lambda: _("Ranks {one} and {other} use the same GPU."),
        lambda: _(
            "Let each process take its own: torch.cuda.set_device(int(os.environ['LOCAL_RANK'])); "
            "and start no more processes than GPUs: --nproc at most --gpus."
        ),
        (r"Duplicate GPU detected : rank (?P<one>\d{1,6}) and rank (?P<other>\d{1,6}) both on",),
    ),
    Cause(
        "gpu-number",
        Reason.USER_ERROR,
        lambda: _("It asked for a GPU with a number that is not there; it has {gpus}."),
        lambda: _("Inside, GPUs are numbered from 0. Start no more processes than GPUs: --nproc at most --gpus."),
        (
            r"CUDA error: invalid device ordinal",
            r"Attempting to deserialize object on CUDA device \d{1,4} but torch\.cuda\.device_count",
            r"AssertionError: Invalid device id",
            r"CUDA error\(101\), invalid device ordinal",
        ),
    ),
    Cause(
        "gpu-architecture",
        Reason.USER_ERROR,
        lambda: _("The framework in this image was not built for this GPU."),
        lambda: _(
            "Use an image with a newer framework (--image), or GPUs that it knows, for example --gpus 1+cc8.0; "
            "jupyter dlenv gpus shows what there is."
        ),
        (
            r"no kernel image is available for execution on the device",
            r"CUDA_ERROR_NO_BINARY_FOR_GPU",
            r"CUDA error\(209\)",
            r"is not compatible with the current PyTorch installation",
        ),
    ),
    Cause(
        "driver-old",
        Reason.ENGINE,
        lambda: _("The host's NVIDIA driver is too old for the CUDA in this image."),
        lambda: _("Use an image with an older CUDA (--image), or update the host's driver; see jupyter dlenv doctor."),
        (
            _INSUFFICIENT,
            r"The NVIDIA driver on your system is too old",
            r"forward compatibility was attempted on non supported HW",
            r"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            r"the provided PTX was compiled with an unsupported toolchain",
            r"unsatisfied condition: cuda>=",
        ),
        when=_has_gpus,
    ),
    Cause(
        "no-gpu",
        Reason.USER_ERROR,
        lambda: _("It needs a GPU, and it was given none."),
        lambda: _("Ask for one: --gpus 1. Or let the script use the CPU where torch.cuda.is_available() is false."),
        (*_NO_GPU, _INSUFFICIENT),
        when=_has_none,
    ),
    Cause(
        "gpu-unreachable",
        Reason.ENGINE,
        lambda: _("It was given GPUs, and could not reach them."),
        lambda: _("See jupyter dlenv gpus and jupyter dlenv doctor; start the job again when both are well."),
        (*_NO_GPU, r"CUDA driver initialization failed", r"CUDA unknown error - this may be due to"),
        when=_has_gpus,
    ),
    Cause(
        "no-cuda-build",
        Reason.USER_ERROR,
        lambda: _("The framework in this image was built without CUDA."),
        lambda: _("Use an image of the framework for GPUs (--image), or the CPU and the backend gloo."),
        (
            r"Torch not compiled with CUDA enabled",
            r"Cannot use (?:CUDAPlace|GPU).{0,60}CPU.only version",
            r"PaddlePaddle is not compiled with CUDA",
            r"paddle.{0,40}not compiled with CUDA",
            r"Distributed package doesn't have NCCL built in",
        ),
    ),
    Cause(
        "gpu-assert",
        Reason.USER_ERROR,
        lambda: _("A computation on the GPU failed a check, mostly an index or a label out of range."),
        lambda: _("Run it once with -e CUDA_LAUNCH_BLOCKING=1: the traceback then shows the right line."),
        (
            r"CUDA error: device-side assert triggered",
            r"CUDA error: an illegal memory access was encountered",
            r"CUDA error: unspecified launch failure",
            r"CUDA_ERROR_ILLEGAL_ADDRESS",
        ),
    ),
    Cause(
        "gpu-faulty",
        Reason.ENGINE,
        lambda: _("A GPU reported a fault of its own."),
        lambda: _("See jupyter dlenv gpus, and take other GPUs, for example --gpus 0,1."),
        (r"uncorrectable ECC error", r"CUDA_ERROR_ECC_UNCORRECTABLE", r"Unable to determine the device handle for GPU"),
    ),
    Cause(
        "cuda-fork",
        Reason.USER_ERROR,
        lambda: _("A process that had used CUDA was forked, and its child used CUDA too."),
        lambda: _("Start such processes by multiprocessing.get_context('spawn'), and use CUDA in none before."),
        (r"Cannot re-initialize CUDA in forked subprocess",),
    ),
)

_NETWORK_WORDS = (
    r"Bootstrap : no socket interface found",
    r"Bootstrap : no NCCL_SOCKET_IFNAME",
    r"socketStartConnect: Connect to .{0,100}failed",
    r"ncclSocketInit: connecting to address",
    r"Call to connect (?:to .{0,80})?(?:failed|returned)",
    r"No interface found in the same subnet as",
    r"ibv_(?:reg_mr|create_qp|modify_qp).{0,60}failed",
    r"NET/IB : Got completion .{0,80}with (?:error|status)",
)

RANK_CAUSES = (
    Cause(
        "nccl-network",
        Reason.USER_ERROR,
        lambda: _("NCCL did not reach another process over the network."),
        lambda: _(
            "Name the interface between the nodes, for example -e NCCL_SOCKET_IFNAME=eth0, or use --network host. "
            "-e NCCL_DEBUG=INFO shows what NCCL tries."
        ),
        _NETWORK_WORDS,
    ),
    Cause(
        "nccl-timeout",
        Reason.USER_ERROR,
        lambda: _("Processes waited for each other until their time was up: one hung, or did not take part."),
        lambda: _(
            "All ranks must make the same collective calls. -e TORCH_DISTRIBUTED_DEBUG=DETAIL -e NCCL_DEBUG=INFO show "
            "which one did not; init_process_group(timeout=...) allows more time."
        ),
        (
            r"Watchdog caught collective operation timeout",
            r"Timed out waiting \d{1,12}ms for (?:recv|send) operation to complete",
            r"Watchdog caught exception.{0,60}[Tt]imeout",
            r"RuntimeError: Socket Timeout",
            r"wait timeout after \d{1,12}ms",
            r"Timeout waiting for key: ",
            r"store->get\(.{1,200} got error: .{0,200}[Tt]imeout",
            r"watchdog got stuck for \d{1,9} seconds",
        ),
        consequence=True,
    ),
    Cause(
        "nccl-system",
        Reason.USER_ERROR,
        lambda: _("NCCL failed in a call of the system: network, shared memory or RDMA."),
        lambda: _(
            "-e NCCL_DEBUG=INFO shows which. Mostly -e NCCL_SOCKET_IFNAME=eth0, --network host or "
            "--shm-size {more_shm} helps."
        ),
        (r"unhandled system error", r"ncclSystemError: ", r"ncclSystemError\b"),
    ),
    Cause(
        "nccl-cuda",
        Reason.USER_ERROR,
        lambda: _("NCCL failed in a call of CUDA."),
        lambda: _("-e NCCL_DEBUG=INFO shows which. See that each rank has a GPU of its own: jupyter dlenv gpus."),
        (r"unhandled cuda error", r"ncclUnhandledCudaError"),
    ),
    Cause(
        "nccl",
        Reason.USER_ERROR,
        lambda: _("NCCL failed."),
        lambda: _("-e NCCL_DEBUG=INFO shows what it did last."),
        (r"NCCL error in: .{0,200}(?:invalid|internal)", r"ncclInternalError", r"ncclInvalid(?:Usage|Argument)"),
    ),
    Cause(
        "port-in-use",
        Reason.USER_ERROR,
        lambda: _("A port that it wanted to listen on is in use."),
        lambda: _(
            "Let the system choose (port 0), or take another: for nodes --master HOST:PORT. On --network host all "
            "programs of the host share the ports, on --network bridge a container has its own."
        ),
        (
            r"failed to listen on any local network address.{0,100}EADDRINUSE",
            r"EADDRINUSE",
            r"\[Errno 98\] .{0,100}",
            r"[Aa]ddress already in use",
            r"Could not start gRPC (?P<server>server)",
            r"Failed to start RPC (?P<server>server)",
        ),
        when=_address,
    ),
    Cause(
        "rendezvous",
        Reason.USER_ERROR,
        lambda: _("Not all processes met in time."),
        lambda: _(
            "Every node must run and reach node 0: look at the logs of the nodes that are missing, at --nodes, "
            "--node-rank and --master, and at the firewall between hosts; --network host leaves Docker's out."
        ),
        (
            r"DistStoreError: Timed out after .{1,30} waiting for (?:clients|workers)",
            r"The client socket has timed out after \d{1,12} ?m?s while trying to connect",
            r"Timed out initializing process group in store based barrier",
            r"The client socket has failed to connect to any network address",
            r"Rendezvous(?:Timeout|Connection|Closed|State|Graceful\w{1,12})Error",
            r"DistStoreError: ",
            r"DEADLINE_EXCEEDED: Barrier timed out",
            r"DEADLINE_EXCEEDED: (?:Deadline Exceeded|Connect\(\) timed out)",
            r"Stopping coordination service as cluster registration failed",
            r"UNAVAILABLE: failed to connect to all addresses",
            r"errors_impl\.(?:Unavailable|DeadlineExceeded)Error: .{0,200}(?:connect|Deadline)",
            r"connectFullMesh failed with .{0,200}[Tt]imed out",
            r"Gloo connect.{0,100}[Tt]imed out",
            r"Horovod timed out waiting",
            r"Timeout: Timed out waiting for all tasks",
        ),
    ),
    Cause(
        "connection-refused",
        Reason.USER_ERROR,
        lambda: _("Nobody answered at an address that it wanted to connect to."),
        lambda: _(
            "Start the other side first, and see that the address is right from inside: localhost is the container "
            "itself; --network host shares the host's."
        ),
        (r"ConnectionRefusedError: ", r"\[Errno 111\] Connection refused", r"Connect(?:ion)?Error: .{0,300}refused"),
        consequence=True,
    ),
    Cause(
        "peer-lost",
        Reason.USER_ERROR,
        lambda: _("Another process that it was connected to went away."),
        lambda: _("Look for what that one wrote last, in the full log."),
        (
            r"Connection closed by (?:remote )?peer",
            r"Connection reset by (?:remote )?peer",
            r"ncclRemoteError",
            r"recvValue failed",
            r"failed to recv, got 0 bytes",
            r"BrokenPipeError: ",
            r"^EOFError$",
            r"Socket closed",
            r"detected missing heartbeats",
            r"heartbeat timeout",
            r"Polled an error from coordination service",
            r"Shutdown barrier in coordination service",
            r"Terminating process because the JAX distributed service detected fatal errors",
            r"DistNetworkError: ",
        ),
        consequence=True,
    ),
    Cause(
        "process-failed",
        Reason.USER_ERROR,
        lambda: _("One of the processes that it started failed."),
        lambda: _("Look for what that one wrote, in the full log."),
        (
            r"torch\.distributed\.elastic\.multiprocessing\.errors\.ChildFailedError",
            r"CalledProcessError: Command ",
            r"(?:mpirun|prterun|mpiexec).{0,60} (?:noticed|detected) that",
            r"Primary job +terminated normally, but",
            r"ABORT!!! Out of all ",
            r"ProcessRaisedException",
            r"ProcessExitedException",
            r"exits with return code = ",
            r"SignalException: Process \d{1,9} got signal",
        ),
        consequence=True,
    ),
)
