"""Which package a module comes from, where the names differ. Data. Pure."""

from __future__ import annotations

from collections.abc import Collection

PACKAGES = {
    "Crypto": "pycryptodome",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyOpenSSL",
    "PIL": "Pillow",
    "absl": "absl-py",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "cupy": "cupy-cuda12x",
    "dateutil": "python-dateutil",
    "distutils": "setuptools",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "PyMuPDF",
    "flash_attn": "flash-attn --no-build-isolation",
    "git": "GitPython",
    "google.protobuf": "protobuf",
    "hydra": "hydra-core",
    "ignite": "pytorch-ignite",
    "jwt": "PyJWT",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "osgeo": "GDAL",
    "paddle": "paddlepaddle",
    "pkg_resources": '"setuptools<81"',
    "pptx": "python-pptx",
    "ruamel": "ruamel.yaml",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torch.utils.tensorboard": "tensorboard",
    "umap": "umap-learn",
    "usb": "pyusb",
    "yaml": "PyYAML",
    "zmq": "pyzmq",
}
"""Module -> what pip calls it."""

_NOT_BY_PIP = {"tkinter": "python3-tk", "_tkinter": "python3-tk", "apt": "python3-apt", "gi": "python3-gi"}
_USUAL_OWN = frozenset(
    """args common conf config configs core data dataloader dataloaders dataset engine helper helpers layers losses main
    metric model models modules net nets network networks options scripts solver src tools train trainer trainers
    util utils""".split()  # noqa: SIM905
)


def package_of(module: str) -> str:
    """Return what ``pip install`` takes for a module."""
    top = module.partition(".")[0]
    return PACKAGES.get(module) or PACKAGES.get(top) or top.replace("_", "-")


def apt_package_of(module: str) -> str:
    """Return the Debian package of a module that pip does not have, empty for all others."""
    return _NOT_BY_PIP.get(module.partition(".")[0], "")


def is_local(module: str, beside: Collection[str]) -> bool:
    """Tell whether a module is most likely the user's own.

    Args:
        beside: Names of the modules and packages near the script.
    """
    top = module.partition(".")[0]
    return top in beside or top in _USUAL_OWN
