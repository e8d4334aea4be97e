"""Images of every kind as kernels, started as Jupyter starts them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker_images
import pytest
from clients import Notebook, environment, notebook
from docker_images import BASE, NEWER, base_image, image_from, image_id, musl_image, newer_image

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.errors import UnusableImage
from jupyter_dlenv.images.facts import ImageFacts
from jupyter_dlenv.images.probe import probe

pytestmark = [pytest.mark.docker, pytest.mark.slow]

SHADOWS = ("queue", "code", "platform", "random", "inspect", "json", "typing", "IPython", "traitlets")
VENV = f"""FROM {BASE}
COPY wheels /wheels
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-index --find-links /wheels /wheels/*.whl
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv
"""
PLOTTING = ("matplotlib==3.9.2", "traitlets==5.0.5", "Pygments==2.7.4")
OWN_KERNEL = ("ipykernel==6.9.2", "ipython==8.5.0", "traitlets==5.1.1", "pyzmq==25.1.2", "tornado==6.2")
CONDA = f"""FROM {BASE}
RUN mkdir -p /opt/conda/bin /opt/conda/lib /opt/conda/conda-meta && cp /usr/bin/python3.11 /opt/conda/bin/python \
 && ln -s python /opt/conda/bin/python3 && cp -r /usr/lib/python3.11 /opt/conda/lib \
 && mkdir -p $(/opt/conda/bin/python -c 'import site; print(site.getsitepackages()[0])')/torch-2.5.1.dist-info \
 && touch /opt/conda/conda-meta/python-3.11.2-0.json /opt/conda/conda-meta/cudatoolkit-11.8.0-h4ba93d1_13.json
ENV PATH=/opt/conda/bin:$PATH CONDA_PREFIX=/opt/conda
"""
STRANGER = f"""FROM {BASE}
RUN mkdir -p /srv/work /srv/data && chown 1234:1234 /srv/work
USER 1234
WORKDIR /srv/work
VOLUME /srv/data /dlenv /tmp
"""
DEAF = f"""FROM {BASE}
ENTRYPOINT ["/bin/sh", "-c", "echo I do what I want; exit 3"]
CMD ["nothing"]
HEALTHCHECK --interval=1s --retries=1 CMD false
"""
HOSTILE = f"""FROM {BASE}
RUN mkdir -p /opt/modules /opt/foreign/lib/python3.11/site-packages && cd /opt/modules \
 && for name in {" ".join(SHADOWS)}; do echo 'raise SystemExit("the wrong one")' > $name.py; done \
 && echo 'HERE = True' > image_module.py && cp -r /usr/lib/python3/dist-packages/pip /opt/modules \
 && echo 'FOREIGN = True' > /opt/foreign/lib/python3.11/site-packages/foreign_module.py \
 && touch /opt/foreign/pyvenv.cfg
ENV PYTHONPATH=/opt/modules:/nowhere VIRTUAL_ENV=/opt/foreign LD_PRELOAD=/usr/lib/nothing/libtcmalloc.so.4 \
 PYTHONSTARTUP=/nowhere/startup.py PYTHONDONTWRITEBYTECODE=1 PYTHONPYCACHEPREFIX=/nowhere CONDA_PREFIX=/nowhere
"""
FOREIGN_HOME = f"FROM {BASE}\nENV PYTHONHOME=/opt/foreign\n"
FOREIGN_PATH = f"""FROM {BASE}
RUN mkdir /opt/python2 && echo 'print "Python 2"' > /opt/python2/encodings.py
ENV PYTHONPATH=/opt/python2
"""
WITHOUT_PYTHON = f"FROM {BASE}\nRUN rm -f /usr/bin/python3*\n"


def interpreter(minor: str) -> str:
    """Return this host's interpreter of a minor version; skips the test where there is none."""
    managed = sorted(Path.home().glob(f".pyenv/versions/{minor}.*/bin/python"))
    found = str(managed[-1]) if managed else shutil.which(f"python{minor}")
    if not found or "shims" in found:
        pytest.skip(f"no Python {minor} on this host")
    return found


def image_with(minor: str) -> str:
    """Return an image whose only Python is a copy of this host's of that minor version."""
    prefix = probe_prefix(interpreter(minor))
    text = f"""FROM {BASE}
# {prefix}
RUN rm -f /usr/bin/python3*
COPY tree /opt/python
ENV PATH=/opt/python/bin:$PATH LD_LIBRARY_PATH=/opt/python/lib
"""
    return image_from(text, f"python{minor}", tree=Path(prefix))


def probe_prefix(python: str) -> str:
    return subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    ).stdout.strip()


async def facts_of(image: str) -> ImageFacts:
    return await probe(DockerEngine(), image_id(image), image)


async def value(book: Notebook, expression: str) -> Any:
    """Return an expression's value; it must be JSON's."""
    result = await book.run(f"import json as _json\nprint(_json.dumps({expression}))")
    assert result.status == "ok", result.error
    return json.loads(result.text)


CHILD = """
import os, subprocess, sys
code = "import os, sys; print([sys.executable, sys.path, dict(os.environ)])"
executable, path, environ = eval(subprocess.check_output([sys.executable, "-c", code]).decode())
"""


async def assert_image_is_a_kernel(book: Notebook, facts: ImageFacts, *, magics: bool = True) -> None:
    """A cell runs on the image's Python, our magics are there, and child processes see nothing of the runtime."""
    assert (await book.run("print(6 * 7)")).text == "42\n"
    assert await value(book, "__import__('sys').executable") == facts.python
    assert await value(book, "list(__import__('sys').version_info[:3])") == list(facts.version)
    stack = "[__import__(name).__file__.split('/site/')[0] for name in ('ipykernel', 'IPython', 'zmq', 'traitlets')]"
    assert await value(book, stack) == ["/dlenv/runtime"] * 4
    there = await value(book, "get_ipython().find_line_magic('dlrun').__module__")
    assert there == ("jupyter_dlenv.notebook.magics" if magics else "jupyter_dlenv")
    await assert_child_sees_the_image_only(book, facts)


async def assert_child_sees_the_image_only(book: Notebook, facts: ImageFacts) -> None:
    assert (await book.run(CHILD)).error == ""
    assert await value(book, "executable") == facts.python
    assert await value(book, "[entry for entry in path if 'runtime' in entry]") == []
    assert await value(book, "sorted(key for key in environ if 'runtime' in environ[key])") == []
    assert await value(book, "sorted({'MPLBACKEND', 'PYTHONHOME'} & set(environ))") == []
    printed = (
        await value(book, "__import__('os').path.exists('/bin/sh')")
        and (await book.run("!{sys.executable} -c 'import sys; print(sys.executable)'")).text.split()
    )
    assert printed in ([facts.python], False)


PLAIN: dict[str, Callable[[], str]] = {
    "bare": base_image,
    "conda": lambda: image_from(CONDA, "conda-like"),
    "own-kernel": lambda: image_from(VENV, "own-kernel", wheels=OWN_KERNEL),
    "stranger": lambda: image_from(STRANGER, "stranger"),
    "deaf": lambda: image_from(DEAF, "deaf"),
    "foreign-home": lambda: image_from(FOREIGN_HOME, "foreign-home"),
    "foreign-path": lambda: image_from(FOREIGN_PATH, "foreign-path"),
    "newer": newer_image,
    "musl": musl_image,
    "no-shell": lambda: image_from(f"FROM {musl_image()}\nRUN rm /bin/sh /bin/busybox\n", "no-shell"),
}


@pytest.mark.parametrize("kind", PLAIN)
async def test_any_image_with_a_python_is_a_kernel(kind: str, notebook_dir: Path) -> None:
    image = PLAIN[kind]()
    environment(f"any-{kind}", image=image)
    async with notebook(f"any-{kind}", notebook_dir) as book:
        await assert_image_is_a_kernel(book, await facts_of(image))
        assert await value(book, "__import__('os').getcwd()") == str(notebook_dir)
        assert (await book.run("open('written.txt', 'w').write('x')")).error == ""
    assert (notebook_dir / "written.txt").read_text() == "x"


async def test_a_venv_with_old_pins_keeps_its_own_versions_for_its_processes(notebook_dir: Path) -> None:
    image = image_from(VENV, "plotting", wheels=PLOTTING)
    environment("any-venv", image=image)
    async with notebook("any-venv", notebook_dir) as book:
        facts = await facts_of(image)
        assert facts.is_venv
        await assert_image_is_a_kernel(book, facts)
        versions = "!python -c 'import traitlets, pygments; print(traitlets.__version__, pygments.__version__)'"
        assert (await book.run(versions)).text.split() == ["5.0.5", "2.7.4"]
        assert (await book.run("!python -c 'import matplotlib.pyplot as p; print(p.get_backend())'")).text == "agg\r\n"
        drawn = await book.run("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])")
        assert "image/png" in drawn.displays[-1], drawn.error


async def test_the_images_own_ipykernel_is_left_to_its_processes(notebook_dir: Path) -> None:
    environment("own-kernel", image=image_from(VENV, "own-kernel", wheels=OWN_KERNEL))
    async with notebook("own-kernel", notebook_dir) as book:
        assert (await book.run("import ipykernel; print(ipykernel.__version__)")).text.strip() != "6.9.2"
        child = await book.run(
            "!python -c 'import ipykernel, IPython; print(ipykernel.__version__, IPython.__version__)'"
        )
        assert child.text.split() == ["6.9.2", "8.5.0"]


async def test_variables_of_the_image_reach_the_user_and_not_the_kernel_stack(notebook_dir: Path) -> None:
    image = image_from(HOSTILE, "hostile")
    environment("hostile", image=image)
    async with notebook("hostile", notebook_dir) as book:
        assert (await book.run("import image_module; print(image_module.HERE)")).text == "True\n"
        assert await value(book, "__import__('sys').path.index('/opt/modules')") == 0
        assert (await book.run("import foreign_module")).error.endswith("No module named 'foreign_module'")
        names = ("PYTHONPATH", "VIRTUAL_ENV", "LD_PRELOAD")
        given = await value(book, f"[__import__('os').environ[name] for name in {names}]")
        assert given == ["/opt/modules:/nowhere", "/opt/foreign", "/usr/lib/nothing/libtcmalloc.so.4"]
        assert "the wrong one" in (await book.run("!python3 -c 'import queue'")).text
        assert (await book.run("%dlrun --help")).error == ""


async def test_a_home_that_is_no_pythons_is_taken_away(notebook_dir: Path) -> None:
    assert (await facts_of(image_from(FOREIGN_HOME, "foreign-home"))).harmful == ("PYTHONHOME",)
    assert (await facts_of(image_from(FOREIGN_PATH, "foreign-path"))).harmful == ("PYTHONPATH",)
    assert (await facts_of(image_from(HOSTILE, "hostile"))).harmful == ()


async def test_the_probe_finds_what_is_there() -> None:
    conda = await facts_of(image_from(CONDA, "conda-like"))
    assert (conda.python, conda.prefix, conda.is_venv) == ("/opt/conda/bin/python3", "/opt/conda", False)
    assert (dict(conda.frameworks), conda.cuda) == ({"torch": "2.5.1"}, "11.8.0")
    stranger = await facts_of(image_from(STRANGER, "stranger"))
    assert (stranger.uid, stranger.libc) == (1234, "glibc")
    newer = await facts_of(newer_image())
    assert (newer.minor, newer.libc) == ("3.13", "glibc")  # although musl is there too
    musl = await facts_of(musl_image())
    assert (musl.minor, musl.libc, musl.python) == ("3.13", "musl", "/opt/python/bin/python3")
    assert musl.libc_version >= (1, 2)


async def test_a_probe_is_kept_by_the_images_id(notebook_dir: Path) -> None:
    first = await probe(DockerEngine(), image_id(base_image()), BASE)
    nobody: Any = None  # an answer that is known asks no engine
    assert await probe(nobody, image_id(base_image()), "another/name:1") == first


@pytest.mark.parametrize("minor", ["3.6", "3.7"])
async def test_an_old_python_is_a_plain_kernel_and_says_so(
    minor: str, notebook_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = image_with(minor)
    environment("old", image=image)
    async with notebook("old", notebook_dir) as book:
        assert f"The image has Python {minor}" in capsys.readouterr().err
        facts = await facts_of(image)
        await assert_image_is_a_kernel(book, facts, magics=False)
        for line in ("%dlrun train.py", "%%dlrun --nproc 2\nprint(1)"):
            refused = await book.run(line)
            assert refused.status == "error" or "UsageError" in refused.text + refused.error
            assert f"need Python 3.8 or newer, and this image has {minor}" in refused.text + refused.error
        assert (await book.run("%load_ext jupyter_dlenv")).error == ""
        interrupted = await book.run("print(input())", answer="an answer")
        assert interrupted.text == "an answer\n"


async def test_python_2_is_refused_for_kernels(notebook_dir: Path) -> None:
    environment("two", image=image_with("2.7"))
    with pytest.raises(UnusableImage, match="Python 2 cannot be a kernel") as refusal:
        async with notebook("two", notebook_dir):
            pass
    assert "Jobs and shells" in str(refusal.value)


@pytest.mark.parametrize("text", [WITHOUT_PYTHON, "musl"])
async def test_an_image_without_python_names_what_helps(text: str, notebook_dir: Path) -> None:
    if text == "musl":
        text = f"FROM {musl_image()}\nRUN rm -f /opt/python/bin/python3 /bin/sh /bin/busybox\n"
    environment("without-python", image=image_from(text, "no-python"))
    with pytest.raises(UnusableImage, match="has no Python") as refusal:
        async with notebook("without-python", notebook_dir):
            pass
    assert "%%dlbuild" in str(refusal.value)


def test_the_images_are_of_many_kinds() -> None:
    assert len({docker_images.image_id(make()) for make in PLAIN.values()}) == len(PLAIN) >= 8
    assert NEWER != BASE
