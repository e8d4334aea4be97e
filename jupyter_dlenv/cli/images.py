"""``images`` and ``build``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .output import connect, json_text, lines, say, show


def build_image(arguments: argparse.Namespace) -> int:
    """Build an image from a Dockerfile."""
    from ..notebook.builds import build_body, dockerfile_text, summary, until_built

    body = build_body(arguments, dockerfile_text(arguments.path))
    built = until_built(connect(), body, lines().add)
    print("\n".join(summary(built)))
    return 0


def _docker_engine() -> Any:
    from ..engines.registry import load_engine

    return load_engine("docker")


def list_images(arguments: argparse.Namespace) -> int:
    """List the images of this host."""
    import asyncio

    from ..resources import format_size

    found = asyncio.run(_docker_engine().images())
    rows = [f"{item.ref}  {format_size(item.size_bytes)}" for item in found]
    data = [{"id": item.id, "ref": item.ref, "size_bytes": item.size_bytes, "created": item.created} for item in found]
    return show(arguments, data, lambda: "\n".join(rows))


def pull_image(arguments: argparse.Namespace) -> int:
    """Fetch an image from its registry."""
    import asyncio

    from ..images.pull import pull_with_progress

    asyncio.run(pull_with_progress(_docker_engine(), arguments.image, say))
    return 0


def probe_image(arguments: argparse.Namespace) -> int:
    """Look into an image."""
    import asyncio

    from ..images.probe import probe

    async def ask() -> Any:
        engine = _docker_engine()
        return await probe(engine, (await engine.image(arguments.image)).id, arguments.image)

    facts = {key: value for key, value in asdict(asyncio.run(ask())).items() if key not in ("passwd", "group")}
    print(json_text(facts))
    return 0


def bootstrap_image(arguments: argparse.Namespace) -> int:
    """Build the starter image."""
    from ..engines.docker.images import DockerImages
    from ..images.bootstrap import bootstrap

    ref = bootstrap(
        DockerImages.connect(),
        progress=say,
        suite=arguments.suite,
        mirror=arguments.mirror,
        rebuild=arguments.rebuild,
        install=arguments.install,
    )
    print(ref)
    return 0
