"""What .gitignore and .dockerignore leave out of the copy of a job's code. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from pathspec import GitIgnoreSpec, Pattern

from ..dockerignore import Rule, closed, ignored, lines, rule

_Parts = tuple[str, ...]


class _GitRule(NamedTuple):
    """A line of a .gitignore; what lies in a folder that it leaves out is not asked about.

    Attributes:
        lead: How many names of a path lead from the repository's root to where the file lies.
    """

    pattern: Pattern
    folders_only: bool
    lead: int

    def matches(self, parts: _Parts, is_folder: bool) -> bool:
        """Tell whether it names what lies there, itself: a rule for all that is in a folder is not one for it."""
        path = "/".join(parts[self.lead :]) + "/" * self.folders_only
        return self.folders_only <= is_folder and self.pattern.match_file(path) is not None


@dataclass(frozen=True)
class Ignored:
    """What is left out of a folder: all that Git or Docker would leave out.

    Attributes:
        above: The names that lead to the folder from the root of its repository.
        git: What each .gitignore on the way says, the deepest last.
        docker: What the folder's own .dockerignore says; Docker reads no other.
    """

    above: _Parts = ()
    git: tuple[_GitRule, ...] = ()
    docker: tuple[Rule, ...] = ()

    def leaves_out(self, parts: _Parts, is_folder: bool) -> bool:
        """Tell whether a path in the folder is left out; of a folder, whether all in it is."""
        by_docker = closed if is_folder else ignored
        return self._by_git((*self.above, *parts), is_folder) or by_docker("/".join(parts), self.docker)

    def _by_git(self, parts: _Parts, is_folder: bool) -> bool:
        """Return what the last rule says that matches: a deeper file may take back what an upper one leaves out."""
        for each in reversed(self.git):
            if each.matches(parts, is_folder):
                return bool(each.pattern.include)
        return False

    def with_git(self, parts: _Parts, text: str) -> Ignored:
        """Return the same with a .gitignore of the folder or of one below it, less the lines that are no patterns."""
        found = list(self.git)
        for line in text.lstrip("\ufeff").replace("\r\n", "\n").split("\n"):
            with suppress(ValueError, re.error):
                found += _git_rule(line, len(self.above) + len(parts))
        return replace(self, git=tuple(found))

    def with_docker(self, text: str) -> Ignored:
        """Return the same with the folder's .dockerignore, less the lines that are no patterns."""
        found = []
        for line in lines(text):
            with suppress(re.error):
                found.append(rule(line))
        return replace(self, docker=tuple(each for each in found if each))

    def below(self, name: str) -> Ignored:
        """Return what is said of a folder in the folder, in which the same repository goes on.

        A repository that leaves it out as a whole says nothing of it: it keeps something else, as a home folder's
        settings.
        """
        return Ignored() if self.leaves_out((name,), True) else Ignored((*self.above, name), self.git)


def _git_rule(line: str, lead: int) -> list[_GitRule]:
    """Return the rule in a line, none where it says nothing.

    Raises:
        ValueError: It is no pattern.
    """
    found = GitIgnoreSpec.from_lines([line]).patterns
    return [_GitRule(each, line.rstrip().endswith("/"), lead) for each in found if each.include is not None]
