"""Makes the root of an image that knows no other C library than musl: run as ``python3 musl_root.py WHEELS ROOT``.

Runs inside a Debian with the packages ``python3``, ``musl`` and ``busybox-static``; no distribution of musl has to be
reachable. The interpreter is the one that freeze-core's wheel for musl carries, a whole CPython in which only ``main``
runs a frozen program; that is led back to ``Py_BytesMain``, as in any ``python3``. The standard library is Debian's.
"""

import os
import platform
import shutil
import struct
import sys
import zipfile
from pathlib import Path

MACHINE = platform.machine()
MINOR = "{}.{}".format(*sys.version_info[:2])
_DYNSYM = 11
_WEAK = 2
_GLOBAL = 1


class Program:
    """An ELF file of 64 bits whose symbols can be changed."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        (offset,) = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<HH", data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, offset + number * size) for number in range(count)]
        symbols = next(header for header in headers if header[1] == _DYNSYM)
        self._headers, self._names = headers, headers[symbols[6]][4]
        self._symbols = range(symbols[4], symbols[4] + symbols[5], 24)

    def weaken(self) -> None:
        """Let every symbol that is wanted be missing, as long as nothing calls it."""
        for place in self._symbols:
            _name, info, _other, section = struct.unpack_from("<IBBH", self.data, place)
            if section == 0 and info >> 4 == _GLOBAL:
                self.data[place + 4] = _WEAK << 4 | info & 15

    def address(self, wanted: str) -> "tuple[int, int]":
        """Return a symbol's address and section."""
        for place in self._symbols:
            name, _info, _other, section, value = struct.unpack_from("<IBBHQ", self.data, place)
            start = self._names + name
            if section and self.data[start : self.data.index(0, start)] == wanted.encode():
                return value, section
        raise LookupError(wanted)

    def redirect(self, name: str, target: str) -> None:
        """Make a function jump to another."""
        here, section = self.address(name)
        way = self.address(target)[0] - here
        place = here - self._headers[section][3] + self._headers[section][4]
        jump = {
            "x86_64": b"\xe9" + struct.pack("<i", way - 5),
            "aarch64": struct.pack("<I", 5 << 26 | way >> 2 & ~(-1 << 26)),
        }
        self.data[place : place + len(jump[MACHINE])] = jump[MACHINE]


def write_interpreter(unpacked: Path, prefix: Path) -> None:
    """Write ``bin/python3`` with its library into a prefix."""
    (base,) = (unpacked / "freeze_core" / "bases").glob("console-*")
    program = Program(base.read_bytes())
    program.redirect("main", "Py_BytesMain")
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python3").write_bytes(program.data)
    (prefix / "bin" / "python3").chmod(0o755)
    library = prefix / "lib" / f"python{MINOR}"
    left_out = shutil.ignore_patterns("lib-dynload", "_sysconfigdata*", "__pycache__", "config-*", "sitecustomize.py")
    shutil.copytree(f"/usr/lib/python{MINOR}", library, ignore=left_out)
    (library / "site-packages").mkdir()
    (library / f"_sysconfigdata__linux_{MACHINE}-linux-musl.py").write_text("build_time_vars = {}\n")
    (library / "lib-dynload").mkdir()
    for module in (unpacked / "freeze_core" / "lib").glob("*.so"):
        shutil.copy(module, library / "lib-dynload")
    shutil.copytree(unpacked / "freeze_core.libs", prefix / "lib" / "freeze_core.libs")
    for needed in (unpacked / "freeze_core.libs").glob("libintl*"):
        shutil.copy(needed, prefix / "lib")


def write_system(root: Path) -> None:
    """Write the C library, zlib, a shell and the accounts."""
    for folder in ("lib", "bin", "etc", "tmp", "proc"):
        (root / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    shutil.copytree(f"/usr/lib/{MACHINE}-linux-musl", root / "lib" / f"{MACHINE}-linux-musl")
    os.symlink(f"{MACHINE}-linux-musl/libc.so", root / "lib" / f"ld-musl-{MACHINE}.so.1")
    zlib = Program(Path(f"/usr/lib/{MACHINE}-linux-gnu/libz.so.1").read_bytes())
    zlib.weaken()  # What it has of glibc alone is for gzopen and gzprintf, which Python never calls.
    (root / "lib" / "libz.so.1").write_bytes(zlib.data)
    shutil.copy("/usr/bin/busybox", root / "bin")
    for name in ("sh", "rm", "cat", "ls"):
        os.symlink("busybox", root / "bin" / name)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")


def main(wheels: Path, root: Path) -> None:
    """Fill the root."""
    root.mkdir()
    (wheel,) = wheels.glob("freeze_core-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall("/unpacked")
    write_interpreter(Path("/unpacked"), root / "opt" / "python")
    write_system(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
