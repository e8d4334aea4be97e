"""What the boot must know of the runtime's distributions, worked out once on the host.

The finder in the container only compares versions; who requires what of whom is decided here, with the environment
markers of the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .wheels import Target

OWN_NAME = "jupyter-dlenv"
OWN_MODULE = "jupyter_dlenv"

EXCLUSIVE = frozenset(
    {
        OWN_NAME,
        "comm",
        "debugpy",
        "ipykernel",
        "ipython",
        "ipython-pygments-lexers",
        "ipywidgets",
        "jupyter-client",
        "jupyter-core",
        "matplotlib-inline",
        "nest-asyncio",
        "nest-asyncio2",
        "pyzmq",
        "tornado",
        "traitlets",
    }
)
"""The kernel stack: never mixed with an image's copies, whose parts fit each other and not ours."""

GROUPS = (
    frozenset({"jedi", "parso"}),
    frozenset({"asttokens", "executing", "pure-eval", "stack-data"}),
    frozenset({"pexpect", "ptyprocess"}),
    frozenset({"prompt-toolkit", "wcwidth"}),
    frozenset({"importlib-metadata", "zipp"}),
)
"""Distributions that require certain versions of each other, so that all come from one side."""


def group_of(name: str) -> str:
    """Return the name of a distribution's group; most are alone in theirs."""
    return next((min(group) for group in GROUPS if name in group), name)


def top_level_modules(distribution: Distribution) -> list[str]:
    """Return the top-level modules and packages that a distribution's record lists."""
    found = set()
    for path in distribution.files or ():
        first = path.parts[0]
        if len(path.parts) == 1:
            first = first.partition(".")[0] if path.suffix in (".py", ".so") else ""
        elif not any(part.endswith((".py", ".so")) for part in path.parts):
            continue
        if first.isidentifier() and first != "__pycache__":
            found.add(first)
    return sorted(found)


def metadata_folder(distribution: Distribution) -> str:
    """Return the name of a distribution's ``.dist-info`` folder, whose spelling its record knows best."""
    return next(path.parts[0] for path in distribution.files or () if path.parts[0].endswith(".dist-info"))


def merged_requirements(metadata: Mapping[str, Iterable[str]], target: Target) -> dict[str, SpecifierSet]:
    """Return, for each distribution, all that the others require of it in the target.

    Members of a group do not count: an image's jedi goes with the image's parso, whatever ours would ask for.

    Args:
        metadata: The ``Requires-Dist`` lines by name.
        target: Decides the environment markers.
    """
    merged = {name: SpecifierSet() for name in metadata}
    markers = target.markers()
    for name, lines in metadata.items():
        for requirement in map(Requirement, lines):
            wanted = canonicalize_name(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate(markers)
            if applies and wanted in merged and group_of(wanted) != group_of(name):
                merged[wanted] &= requirement.specifier
    return merged


def describe(site: Path, target: Target) -> dict[str, dict[str, Any]]:
    """Return the manifest's entry for each distribution in a folder, by normalized name."""
    found = {canonicalize_name(each.metadata["Name"]): each for each in distributions(path=[str(site)])}
    merged = merged_requirements({name: each.requires or () for name, each in found.items()}, target)
    return {
        name: {
            "version": each.version,
            "info": metadata_folder(each),
            "modules": top_level_modules(each),
            "exclusive": name in EXCLUSIVE,
            "group": group_of(name),
            "requires": str(merged[name]),
        }
        for name, each in sorted(found.items())
    }


def write_own_metadata(site: Path, version: str) -> None:
    """Give the copy of our own package the metadata of an installed one."""
    folder = f"{OWN_MODULE}-{version}.dist-info"
    (site / folder).mkdir()
    about = f"Metadata-Version: 2.1\nName: {OWN_NAME}\nVersion: {version}\n"
    record = f"{folder}/METADATA,,\n{folder}/RECORD,,\n{OWN_MODULE}/__init__.py,,\n"
    (site / folder / "METADATA").write_text(about, encoding="utf-8")
    (site / folder / "RECORD").write_text(record, encoding="utf-8")
