"""Keep the translations: strings in the code -> ``jupyter_dlenv.po`` -> ``jupyter_dlenv.json``.

::

    python jupyter_dlenv/locale/catalogue.py update     # take the code's strings into every .po
    python jupyter_dlenv/locale/catalogue.py compile    # write the .json beside every .po
    python jupyter_dlenv/locale/catalogue.py check      # name what is not translated; exit status 1 when anything is

Not part of the wheel; needs Babel, which JupyterLab brings along.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po

DOMAIN = "jupyter_dlenv"
LOCALE = Path(__file__).resolve().parent
ROOT = LOCALE.parents[1]

_Keywords = dict[str, tuple[int | tuple[int, str], ...] | None]
_PYTHON: _Keywords = {"_": None}
_TYPESCRIPT: _Keywords = {"__": None, "_n": (1, 2), "_p": ((1, "c"), 2)}
_PLACEHOLDER = re.compile(r"%\d+|\{[^{}]*\}")


def po_files() -> list[Path]:
    """Return every language's catalogue."""
    return sorted(LOCALE.glob(f"*/LC_MESSAGES/{DOMAIN}.po"))


def read(path: Path) -> Catalog:
    """Return the catalogue in a ``.po`` file; its language is the folder's."""
    with path.open("rb") as file:
        return read_po(file, locale=path.parents[1].name, domain=DOMAIN)


def extract() -> Catalog:
    """Return a catalogue of all strings that the code shows to people."""
    found = Catalog(domain=DOMAIN)
    for path, method, keywords in _sources():
        options = {"jsx": True} if method == "javascript" else {}
        for _line, message, _comments, context in extract_from_file(method, path, keywords=keywords, options=options):
            found.add(message, locations=[(path.relative_to(ROOT).as_posix(), 0)], context=context)
    return found


def _sources() -> Iterator[tuple[Path, str, _Keywords]]:
    for path in sorted((ROOT / DOMAIN).rglob("*.py")):
        if LOCALE not in path.parents:
            yield path, "python", _PYTHON
    for path in sorted((ROOT / "labextension" / "src").rglob("*.ts*")):
        if "__tests__" not in path.parts:
            yield path, "javascript", _TYPESCRIPT


def update() -> None:
    """Take the code's strings into every ``.po``; those that the code no longer has go."""
    strings = extract()
    for path in po_files():
        catalogue = read(path)
        catalogue.update(strings, no_fuzzy_matching=True, update_creation_date=False)
        catalogue.obsolete.clear()
        with path.open("wb") as file:
            write_po(file, catalogue, width=116, include_lineno=False, sort_output=True, ignore_obsolete=True)


def compile_json() -> None:
    """Write the ``.json`` beside every ``.po``."""
    for path in po_files():
        text = json.dumps(as_json(read(path)), ensure_ascii=False, indent=1, sort_keys=True)
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def as_json(catalogue: Catalog) -> dict[str, object]:
    """Return the form that JupyterLab reads. Pure.

    JupyterLab looks for ``zh-CN``, not ``zh_CN``, and takes a plural entry only when its list is longer than one.
    """
    header = {
        "domain": DOMAIN,
        "language": str(catalogue.locale_identifier).replace("_", "-"),
        "plural_forms": catalogue.plural_forms,
        "version": catalogue.version,
    }
    entries = {_key(message): _forms(message) for message in catalogue if message.id and _translated(message)}
    return {"": header, **entries}


def _key(message: Message) -> str:
    singular = message.id[0] if isinstance(message.id, (tuple, list)) else message.id
    return f"{message.context}\x04{singular}" if message.context else singular


def _forms(message: Message) -> list[str]:
    forms = list(message.string) if isinstance(message.string, (tuple, list)) else [str(message.string)]
    padding = 2 - len(forms) if isinstance(message.id, (tuple, list)) else 0
    return forms + [""] * padding


def _translated(message: Message) -> bool:
    forms = message.string if isinstance(message.string, (tuple, list)) else [message.string]
    return not message.fuzzy and all(forms)


def problems(strings: Catalog, catalogue: Catalog) -> list[str]:
    """Return one line for each string that is not translated, or whose placeholders were changed. Pure."""
    found = []
    for message in strings:
        translation = catalogue.get(message.id, message.context) if message.id else message
        if translation is None or (message.id and not _translated(translation)):
            found.append(f"not translated: {_key(message)!r}")
        elif message.id and any(_placeholders(form) - _placeholders(_key(message)) for form in _forms(translation)):
            found.append(f"other placeholders: {_key(message)!r}")
    return found


def _placeholders(text: str) -> set[str]:
    return set(_PLACEHOLDER.findall(text))


def check() -> int:
    """Print what is wrong with the catalogues; return the exit status."""
    strings = extract()
    found = [f"{path.parents[1].name}: {line}" for path in po_files() for line in problems(strings, read(path))]
    for path in po_files():
        if json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) != as_json(read(path)):
            found.append(f"{path.parents[1].name}: the .json is not the .po's; run this script with 'compile'")
    print("\n".join(found) or "Everything is translated.")
    return 1 if found else 0


def main(arguments: list[str]) -> int:
    """Run one of the three steps; return the exit status."""
    match arguments:
        case ["update"]:
            update()
        case ["compile"]:
            compile_json()
        case ["check"]:
            return check()
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
