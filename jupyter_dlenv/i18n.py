"""Messages in the reader's language.

One catalogue serves Python and the browser: ``locale/<language>/LC_MESSAGES/jupyter_dlenv.json``, in the form that
JupyterLab reads, made from the ``.po`` beside it. Standard library only and Python 3.8 syntax.
"""

import json
import os
from functools import lru_cache
from typing import Dict, List, Union

LANGUAGE_VARIABLE = "DLENV_LANGUAGE"
"""Carries the server's language into containers, whose own locale is the image's."""

_LOCALE_DIR = os.path.join(os.path.dirname(__file__), "locale")


def language() -> str:
    """Return the reader's language (``zh_CN``), empty for English."""
    for variable in (LANGUAGE_VARIABLE, "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        name = os.environ.get(variable, "").split(":")[0].split(".")[0].replace("-", "_")
        if name:
            return "" if name in ("C", "POSIX", "en") or name.startswith("en_") else name
    return ""


@lru_cache(maxsize=None)
def _catalogue(name: str) -> Dict[str, Union[str, List[str]]]:
    for candidate in (name, "zh_CN" if name.startswith("zh") else ""):
        path = os.path.join(_LOCALE_DIR, candidate, "LC_MESSAGES", "jupyter_dlenv.json")
        if candidate and os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return dict(json.load(file))
    return {}


def _(text: str) -> str:
    """Return the text in the reader's language, or as it is."""
    found = _catalogue(language()).get(text)
    translated = found[0] if isinstance(found, list) and found else found
    return translated if isinstance(translated, str) and translated else text
