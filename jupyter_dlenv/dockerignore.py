"""What the lines of a .dockerignore leave out of a folder, as Docker's own builder reads them.

Standard library only, Python 3.8 syntax: a kernel packs the folder of a build by it. Pure.
"""

import re
from posixpath import normpath
from typing import List, NamedTuple, Optional, Sequence

_SET = re.compile(r"\[(?:\\.|[^\]\\])*\]", re.DOTALL)
_WILD = re.compile(r"[*?\[\\]")


class Rule(NamedTuple):
    """One line, which names things in the folder and all that lies below them.

    Attributes:
        keep: Whether it takes back what lines before it leave out.
        within: Where all of it lies, as far as the line says so without a wildcard: ``src/lib/``, or empty.
    """

    matches: "re.Pattern[str]"
    keep: bool
    within: str


def lines(text: str) -> List[str]:
    """Return the lines that are meant as rules; only what starts with ``#`` at once is a comment."""
    found = text.lstrip("\ufeff").replace("\r\n", "\n").split("\n")
    return [line for line in found if line.strip() and not line.startswith("#")]


def rule(line: str) -> Optional[Rule]:
    """Return what a line says, None where it names the folder itself, which says nothing.

    Raises:
        re.error: It is no pattern.
    """
    words = line.strip()
    keep = words.startswith("!")
    pattern = normpath(words[1:].strip() if keep else words).lstrip("/")
    if pattern in (".", ""):
        return None
    within = _WILD.split(f"{pattern}/", maxsplit=1)[0].rpartition("/")
    return Rule(re.compile(expression(pattern) + r"(/.*)?", re.DOTALL), keep, within[0] + within[1])


def expression(pattern: str) -> str:
    """Return a regular expression for a pattern of Docker's: ``*`` and ``?`` stay within a folder, ``**`` does not."""
    text, at = "", 0
    while at < len(pattern):
        char, chosen = pattern[at], _SET.match(pattern, at)
        if pattern.startswith("**", at):
            first, at = at == 0, at + (3 if pattern.startswith("**/", at) else 2)
            text += ".*" if at == len(pattern) or (first and pattern[at - 1] != "/") else "(.*/)?"
            continue
        if chosen:
            text += "(?!/)" + chosen.group()
            at = chosen.end() - 1
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            text += re.escape(pattern[at])
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char))
        at += 1
    return text


def ignored(path: str, known: Sequence[Rule]) -> bool:
    """Tell whether a path below the folder, with slashes, is left out: the last rule that matches decides."""
    decides = next((each for each in reversed(known) if each.matches.fullmatch(path)), None)
    return decides is not None and not decides.keep


def closed(path: str, known: Sequence[Rule]) -> bool:
    """Tell whether a folder is left out and nothing below it is taken back, so that nobody need look into it."""
    for each in reversed(known):
        if each.matches.fullmatch(path):
            return not each.keep
        if each.keep and (f"{path}/".startswith(each.within) or each.within.startswith(f"{path}/")):
            return False
    return False
