"""What is in an image: one short container, once an image, its answer cached by image ID."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..atomic import write_text
from ..errors import StartFailed, UnusableImage
from ..i18n import _
from ..paths import data_dir
from ..resources import Mount
from ..spec import CONTAINER_ROOT
from .facts import CANDIDATES, PROBE_COMMAND, ImageFacts, facts_from_text, facts_to_text, parse_facts

_SCRIPT = Path(__file__).with_name("probe_script.py")
_TARGET = f"{CONTAINER_ROOT}/probe.py"
_NO_PYTHON = 127


class ShortRunner(Protocol):
    """The part of an engine that a probe needs."""

    async def run_short(
        self, image_id: str, argv: Sequence[str], *, user: str = "", mounts: Sequence[Mount] = (), timeout_s: int = 60
    ) -> tuple[int, bytes]:
        """Run a short command in a container; return its exit code and output."""


async def probe(engine: ShortRunner, image_id: str, ref: str) -> ImageFacts:
    """Return the facts of an image, asking a container only the first time.

    Raises:
        UnusableImage: It has no Python, or nothing in it can run.
    """
    # A probe that has learnt something asks again.
    asked = hashlib.sha256(PROBE_COMMAND.encode() + _SCRIPT.read_bytes()).hexdigest()[:8]
    cache = data_dir() / "probes" / f"{image_id.removeprefix('sha256:')}-{asked}.json"
    if cache.is_file():
        return facts_from_text(cache.read_text(encoding="utf-8"))
    facts = await _ask(engine, image_id, ref)
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_text(cache, facts_to_text(facts), mode=0o644)
    return facts


async def _ask(engine: ShortRunner, image_id: str, ref: str) -> ImageFacts:
    code, output = await _run_script(engine, image_id)
    if code == 0:
        return parse_facts(output.decode(errors="replace"))
    if code == _NO_PYTHON:
        raise UnusableImage(
            _("The image {ref} has no Python, so it cannot be a kernel or run a script.").format(ref=ref),
            hint=_(
                "Add one with %%dlbuild: 'FROM {ref}' and 'RUN apt-get update && apt-get install -y python3', "
                "or what the image installs packages with"
            ).format(ref=ref),
        )
    raise UnusableImage(
        _("Looking into the image {ref} failed with exit code {code}: {output}").format(
            ref=ref, code=code, output=output.decode(errors="replace").strip()[-500:]
        ),
        hint=f"docker run --rm -it --entrypoint sh {ref}",
    )


async def _run_script(engine: ShortRunner, image_id: str) -> tuple[int, bytes]:
    """Return the exit code and output of the probe's script; 127 where there is no Python to run it."""
    # Without -I: the facts are those of the interpreter as kernels and jobs will run it.
    commands = [["/bin/sh", "-c", PROBE_COMMAND, _TARGET], *([name, _TARGET] for name in CANDIDATES)]
    mount = Mount(str(_SCRIPT), _TARGET, read_only=True)
    for command in commands:
        try:
            return await engine.run_short(image_id, command, mounts=[mount])
        except StartFailed as error:
            if f'"{command[0]}"' not in str(error):
                raise
            continue  # An image without a shell: its Python is started by guess.
    return _NO_PYTHON, b""
