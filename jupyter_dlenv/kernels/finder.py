"""Which copy of a module a kernel imports: the runtime's or the image's.

Runs inside the image's interpreter: standard library only, Python 3.6 syntax. The manifest says which distributions
the runtime holds. Those of the kernel stack come from the runtime alone. The others are shared: the image's copy serves
when its version meets what the runtime requires, so that user code sees the versions it was built for. Distributions
that only work together (a group) are decided together. Every other module is the image's.
"""

import os
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

INLINE_BACKEND = "module://matplotlib_inline.backend_inline"

Distributions = Mapping[str, Mapping[str, Any]]

_VERSION = re.compile(r"(\d+(?:\.\d+)*)(\.post\d+)?\Z")
_CLAUSE = re.compile(r"\s*(~=|==|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?\s*\Z")
_METADATA = re.compile(r"(?P<name>.+?)(?:-(?P<version>\d[^-]*)(?:-py[\d.]+)?)?\.(?:dist|egg)-info\Z")


def normalized(name: str) -> str:
    """Return a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(text: str) -> Tuple[int, ...]:
    parts = [int(part) for part in text.split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _starts_with(version: str, prefix: str) -> bool:
    wanted = [int(part) for part in prefix.split(".")]
    found = [int(part) for part in version.split(".")]
    return (found + [0] * len(wanted))[: len(wanted)] == wanted


def plainly_meets(version: str, specifiers: str) -> Optional[bool]:
    """Return whether a version meets PEP 440 specifiers, None where either is more than a release or post-release."""
    found = _VERSION.match(version)
    clauses = [_CLAUSE.match(clause) for clause in specifiers.split(",")] if specifiers else []
    if not found or not all(clauses):
        return None
    answers = [_meets_clause(found.group(1), bool(found.group(2)), *clause.groups()) for clause in clauses if clause]
    return None if None in answers else all(answers)


def _meets_clause(release: str, post: bool, operator: str, wanted: str, wildcard: Optional[str]) -> Optional[bool]:
    if wildcard:
        same = _starts_with(release, wanted)
        return {"==": same, "!=": not same}.get(operator)
    found, limit = _release(release), _release(wanted)
    if operator == "~=":
        series, dot, _last = wanted.rpartition(".")
        return found >= limit and _starts_with(release, series) if dot else None
    equal = found == limit and not post
    return {
        "==": equal,
        "!=": not equal,
        "<=": found < limit or equal,
        ">=": found >= limit,
        "<": found < limit,
        ">": found > limit,  # PEP 440: a post-release of the limit is not above it
    }[operator]


def meets(version: str, specifiers: str, site: str) -> bool:
    """Return whether a version meets PEP 440 specifiers, by the runtime's ``packaging`` in rare cases."""
    plain = plainly_meets(version, specifiers)
    return _by_packaging(version, specifiers, site) if plain is None else plain


def _by_packaging(version: str, specifiers: str, site: str) -> bool:
    # Imported and forgotten again: which copy user code gets is not decided yet.
    before = forget(["packaging"])
    sys.path.insert(0, site)
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion

        try:
            return SpecifierSet(specifiers).contains(version, prereleases=True)
        except InvalidVersion:
            return False
    finally:
        sys.path.remove(site)
        forget(["packaging"])
        sys.modules.update(before)


def forget(names: Iterable[str]) -> Dict[str, Any]:
    """Remove top-level modules and all below them from ``sys.modules``; return what was removed."""
    tops = set(names)
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}


class Image:
    """What the image itself has installed, looked up without importing any of it."""

    def __init__(self) -> None:
        self._listings: Dict[str, Dict[str, List[str]]] = {}

    def version(self, name: str, modules: Sequence[str]) -> Optional[str]:
        """Return the version of a distribution, None when the image lacks it or does not say."""
        spec = PathFinder.find_spec(modules[0])
        if spec is None or not spec.origin:
            return None
        folder = os.path.dirname(spec.origin)
        if spec.submodule_search_locations is not None:
            folder = os.path.dirname(folder)
        found = self._metadata(folder).get(name, [])
        return _stated_version(os.path.join(folder, found[0])) if len(found) == 1 else None

    def _metadata(self, folder: str) -> Dict[str, List[str]]:
        if folder not in self._listings:
            listing: Dict[str, List[str]] = {}
            for entry in os.listdir(folder):
                match = _METADATA.match(entry)
                if match:
                    listing.setdefault(normalized(match.group("name")), []).append(entry)
            self._listings[folder] = listing
        return self._listings[folder]


def _stated_version(path: str) -> Optional[str]:
    match = _METADATA.match(os.path.basename(path))
    if match and match.group("version"):
        return match.group("version")
    try:
        with open(os.path.join(path, "PKG-INFO"), encoding="utf-8", errors="replace") as file:
            return next((line[8:].strip() for line in file if line.startswith("Version:")), None)
    except OSError:
        return None


def served_by_runtime(distributions: Distributions, site: str) -> List[str]:
    """Return the names of the distributions that come from the runtime, decided group by group."""
    image = Image()
    groups: Dict[str, List[str]] = {}
    for name, about in distributions.items():
        groups.setdefault(about["group"], []).append(name)

    def acceptable(name: str) -> bool:
        about = distributions[name]
        version = None if about["exclusive"] else image.version(name, about["modules"])
        return version is not None and meets(version, about["requires"], site)

    return [name for members in groups.values() if not all(map(acceptable, members)) for name in members]


class RuntimeFinder:
    """A meta path finder that answers for the runtime's modules only.

    Attributes:
        inline_backend: Whether matplotlib, when it is imported, shall draw into the notebook.
    """

    def __init__(self, site: str, distributions: Distributions) -> None:
        self.inline_backend = False
        self._site = site
        self._folders = {name: about["info"] for name, about in distributions.items()}
        self._modules = frozenset(module for about in distributions.values() for module in about["modules"])

    @property
    def modules(self) -> "frozenset[str]":
        """The top-level modules that come from the runtime."""
        return self._modules

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Any = None
    ) -> Optional[ModuleSpec]:
        """Return the runtime's spec for its top-level modules; what lies below them is found along their own path."""
        if path is not None:
            return None
        if fullname in self._modules:
            return PathFinder.find_spec(fullname, [self._site])
        if fullname == "matplotlib" and self.inline_backend:
            return _with_inline_backend(PathFinder.find_spec(fullname))
        return None

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """Yield the metadata of the runtime's distributions, so that versions asked for are those imported."""
        if context is not None and "path" in vars(context):
            return  # The caller asks for certain folders.
        wanted = getattr(context, "name", None)
        names = list(self._folders) if wanted is None else [normalized(wanted)]
        for name in names:
            if name in self._folders:
                yield _distribution(os.path.join(self._site, self._folders[name]), name)


def _distribution(folder: str, name: str) -> Any:
    # Imported late: it costs every kernel's start some milliseconds otherwise.
    from pathlib import Path

    metadata: Any
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7, where only the backport asks for metadata.
        metadata = sys.modules["importlib_metadata"]

    class RuntimeDistribution(metadata.PathDistribution):  # type: ignore[misc]  # either module's
        # Python 3.8's and 3.9's class lacks what the importlib_metadata backport asks of every distribution.
        _normalized_name = name.replace("-", "_")

    return RuntimeDistribution(Path(folder))


def _with_inline_backend(spec: Optional[ModuleSpec]) -> Optional[ModuleSpec]:
    """Let matplotlib start with the inline backend, as MPLBACKEND would have it do in this process and its children."""
    if spec is None or spec.loader is None:
        return spec
    loader: Any = spec.loader
    original = loader.exec_module

    def exec_module(module: Any) -> None:
        original(module)
        if not os.environ.get("MPLBACKEND"):
            module.rcParams["backend"] = INLINE_BACKEND

    loader.exec_module = exec_module
    return spec


def install(site: str, distributions: Distributions) -> RuntimeFinder:
    """Put the finder before all others and return it; modules that start-up files imported too early are forgotten."""
    names = served_by_runtime(distributions, site)
    finder = RuntimeFinder(site, {name: distributions[name] for name in names})
    forget(finder.modules)
    sys.meta_path.insert(0, finder)
    return finder
