"""Whether a running container still reaches its GPUs.

Device nodes that the toolkit's hook put into a container are unknown to systemd. When it reloads its units it sets the
container's device rules anew without them, and every later open fails, while what is open already goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..engines.docker.engine import DockerEngine
from ..errors import DLEnvError, NoGpu
from ..i18n import _

LOSSES: dict[str, str] = {}
"""What is to be said of running kernels and jobs that have lost their GPUs, by id, as far as this process looked."""

_MARK = "DLENV_REACH"

# EPERM is what the device rules answer; EACCES is the file's mode, which no reload changes.
_PYTHON = f"""import errno, glob, os
lost = []
for path in sorted(glob.glob("/dev/nvidia*") + glob.glob("/dev/nvidia-caps/nvidia-cap*")):
    if os.path.isdir(path):
        continue
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.EPERM:
            lost.append(path)
print("{_MARK} " + " ".join(lost))
"""

_SHELL = f"""found=
for path in /dev/nvidia* /dev/nvidia-caps/nvidia-cap*; do
    [ -c "$path" ] || continue
    case "$( ( : < "$path" ) 2>&1 )" in *"not permitted"*) found="$found $path" ;; esac
done
echo "{_MARK}$found"
"""


async def lost(engine: DockerEngine, native_id: str, python: str) -> tuple[str, ...]:
    """Return the NVIDIA device nodes in a running container that cannot be opened any more.

    Empty, too, where nobody can look: the container has ended, or holds neither this Python nor a shell.

    Args:
        python: The interpreter in the image.
    """
    for argv in ([python, "-I", "-S", "-c", _PYTHON], ["env", "LC_ALL=C", "sh", "-c", _SHELL]):
        try:
            code, output = await engine.execute(native_id, argv)
        except DLEnvError:
            continue
        found = lost_nodes(output) if code == 0 else None
        if found is not None:
            return found
    return ()


def lost_nodes(output: bytes) -> tuple[str, ...] | None:
    """Return the nodes that the probe found lost, None when the output is not the probe's."""
    lines = [line.split() for line in output.decode(errors="replace").splitlines() if line.startswith(_MARK)]
    return tuple(lines[-1][1:]) if lines else None


def explain_loss(nodes: Sequence[str], *, cgroup_driver: str = "") -> NoGpu:
    """Return what happened to a container whose nodes are lost, what helps now, and how it is prevented.

    Args:
        nodes: What :func:`lost` found.
        cgroup_driver: As the daemon tells it.
    """
    message = _(
        "The container has lost its GPUs: {nodes} cannot be opened any more. The host took them back, most likely when "
        "systemd reloaded its units (systemctl daemon-reload); what held them open goes on."
    ).format(nodes=", ".join(nodes))
    remedies = [_("Restart the kernel or run the job again: a new container has the GPUs again.")]
    if cgroup_driver != "cgroupfs":
        remedies.append(
            _(
                "An administrator prevents it with CDI (c.DLEnv.gpu_access = 'cdi'), or with "
                '"exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json.'
            )
        )
    return NoGpu(message, hint="\n".join(remedies))
