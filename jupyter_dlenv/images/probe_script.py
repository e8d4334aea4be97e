# Prints one JSON line about the interpreter that runs it. Fed to an image's Python: standard library only, Python 2.7
# and every Python 3, and nothing of the image's own packages is imported.
import os
import sys

# Before what PYTHONPATH names, where a platform.py or json.py of the image's own may lie.
sys.path.sort(key=lambda entry: entry != os.path.dirname(os.__file__) and os.path.basename(entry) != "lib-dynload")

import glob
import json
import platform
import re
import site
import subprocess
import sysconfig

FRAMEWORKS = {
    "torch": "torch",
    "tensorflow": "tensorflow",
    "tensorflow_gpu": "tensorflow",
    "tensorflow_cpu": "tensorflow",
    "intel_tensorflow": "tensorflow",
    "paddlepaddle": "paddlepaddle",
    "paddlepaddle_gpu": "paddlepaddle",
    "jax": "jax",
    "mxnet": "mxnet",
    "horovod": "horovod",
}
ACCOUNTS_LIMIT = 1 << 18
CUDA_OF = (
    ("torch/version.py", "cuda"),
    ("paddle/version.py", "cuda_version"),
    ("paddle/version/__init__.py", "cuda_version"),
    ("tensorflow/python/platform/build_info.py", "cuda_version"),
)


def read(path, limit=-1):
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except (IOError, OSError):
        return ""


def glibc_version():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # musl, and Python 2, which does not know the name
        name, version = platform.libc_ver()[:2]
        return version if name == "glibc" else ""


def musl_banner():
    loaders = glob.glob("/lib/ld-musl-*.so.1")
    if not loaders:
        return ""
    # musl's loader, started without arguments, names its version on stderr.
    process = subprocess.Popen(loaders[:1], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return process.communicate()[1].decode("utf-8", "replace")


def libc():
    for name, text in (("glibc", glibc_version()), ("musl", musl_banner())):
        found = re.search(r"(\d+)\.(\d+)", text)
        if found:
            return name, [int(found.group(1)), int(found.group(2))]
    return "", [0, 0]


def site_packages():
    paths = [sysconfig.get_paths()["purelib"]]
    if hasattr(site, "getsitepackages"):  # absent in the site module of old virtualenvs
        paths += site.getsitepackages()
    return sorted(set(paths), key=paths.index)


def user_site(in_venv):
    # Worked out by hand: the probe runs isolated, where site.ENABLE_USER_SITE is always false.
    shared = re.search(r"include-system-site-packages\s*=\s*true", read(os.path.join(sys.prefix, "pyvenv.cfg")), re.I)
    looked_into = hasattr(site, "getusersitepackages") and not os.environ.get("PYTHONNOUSERSITE")
    return looked_into and bool(shared or not in_venv)


def distributions():
    for folder in sys.path:
        names = os.listdir(folder) if os.path.isdir(folder) else []
        for name in names:
            found = re.match(r"([A-Za-z0-9_.]+)-([^-]+).*\.(dist|egg)-info$", name)
            if found:
                yield re.sub(r"[._]+", "_", found.group(1)).lower(), found.group(2)


def frameworks():
    found = {}
    for name, version in distributions():
        name = "mxnet" if name.startswith("mxnet_") else name
        if name in FRAMEWORKS:
            found.setdefault(FRAMEWORKS[name], version.replace("_", "-"))
    return found


def cuda():
    # What the framework was built with comes first: it is what the driver must support.
    for path, name in CUDA_OF:
        for folder in sys.path:
            found = re.search(
                r"^\W*" + name + r"\b.*?[=:]\s*['\"](\d[\d.]*)['\"]", read(os.path.join(folder, path)), re.M
            )
            if found:
                return found.group(1)
    return os.environ.get("CUDA_VERSION", "") or cuda_toolkit()


def cuda_toolkit():
    for path in glob.glob(os.path.join(sys.prefix, "conda-meta", "cuda*-*.json")):
        found = re.match(r"(?:cudatoolkit|cuda-version|cuda-runtime|cuda-cudart)-(\d[\d.]*)-", os.path.basename(path))
        if found:
            return found.group(1)
    for path in ("/usr/local/cuda/version.json", "/usr/local/cuda/version.txt"):
        found = re.search(r"(\d+\.\d+(?:\.\d+)*)", read(path))
        if found:
            return found.group(1)
    return ""


def facts():
    libc_name, libc_version = libc()
    base_prefix = getattr(sys, "base_prefix", getattr(sys, "real_prefix", sys.prefix))
    stdlib = sysconfig.get_paths()["stdlib"]
    return {
        "dlenv_facts": 1,
        "python": sys.executable,
        "version": list(sys.version_info[:3]),
        "implementation": platform.python_implementation(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "machine": platform.machine(),
        "libc": libc_name,
        "libc_version": libc_version,
        "prefix": sys.prefix,
        "base_prefix": base_prefix,
        "is_venv": sys.prefix != base_prefix,
        "site_packages": site_packages(),
        "user_site": user_site(sys.prefix != base_prefix),
        "pip": any(os.path.isdir(os.path.join(folder, "pip")) for folder in sys.path),
        "externally_managed": os.path.exists(os.path.join(stdlib, "EXTERNALLY-MANAGED")),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "frameworks": frameworks(),
        "cuda": cuda(),
        "passwd": read("/etc/passwd", ACCOUNTS_LIMIT),
        "group": read("/etc/group", ACCOUNTS_LIMIT),
        "harmful": os.environ.get("DLENV_HARMFUL", "").split(),
    }


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(facts(), sort_keys=True) + "\n")
