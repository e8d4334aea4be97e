"""Packages and caches of environments, with real kernels in images of every kind."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook

from jupyter_dlenv.errors import EnvironmentNotFound
from jupyter_dlenv.kernels.environments import EnvironmentManager
from jupyter_dlenv.paths import cache_dir, environment_dir

pytestmark = pytest.mark.docker

Dockerfile = Callable[[], str]

BASE = docker_images.BASE
SIX = ("six==1.16.0",)
INSTALL = "COPY wheels /wheels\nRUN {python} -m pip install {options} --no-index --find-links /wheels six\n"
CONDA = (
    f"FROM {BASE}\nRUN mkdir -p /opt/conda/bin && cp /usr/bin/python3.11 /opt/conda/bin/python3"
    " && cp -a /usr/lib/python3.11 /usr/lib/python3 /tmp && mkdir /opt/conda/lib && mv /tmp/python3* /opt/conda/lib"
    " && ln -s python3 /opt/conda/bin/python && rm /opt/conda/lib/python3.11/EXTERNALLY-MANAGED\n"
    "ENV PATH=/opt/conda/bin:$PATH\n"
)
VENV = f"FROM {BASE}\nRUN python3 -m venv {{options}} /opt/venv\nENV PATH=/opt/venv/bin:$PATH\n"
KINDS = {
    "system": f"FROM {BASE}\n" + INSTALL.format(python="python3", options="--break-system-packages"),
    "conda": CONDA + INSTALL.format(python="python", options=""),
    "venv": VENV.format(options="") + "ENV PYTHONPATH=/app\n" + INSTALL.format(python="python", options=""),
    "no-pip": f"FROM {BASE}\n"
    + INSTALL.format(python="python3", options="--break-system-packages")
    + "RUN rm -rf /usr/lib/python3/dist-packages/pip*\n",
    "no-pip-venv": VENV.format(options="--without-pip")
    + INSTALL.format(python="/usr/bin/python3", options="--target /opt/venv/lib/python3.11/site-packages"),
}
SEE = "import importlib.metadata as m, small, six; print(m.version('small'), six.__version__, small.__file__)"


def image(kind: str) -> str:
    """Return the reference of an image of that kind, which has six and whose packages are root's."""
    return docker_images.image_from(KINDS[kind], f"kind-{kind}", wheels=SIX)


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel of one module, which says its version."""
    about = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"VERSION = '{version}'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{name}-says = {name}:print\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_pip_installs_beside_what_the_image_has(kind: str, notebook_dir: Path) -> None:
    wheel(notebook_dir, "small", "1", requires="six>=1")
    os.chown(notebook_dir, 4321, 4321) if os.geteuid() == 0 else None
    name = f"kind-{kind}"
    environment(name, image=image(kind))
    async with notebook(name, notebook_dir) as book:
        # No index: were six not taken from the image, there would be none.
        done = await book.run("%pip install --no-index --find-links . small")
        assert "Successfully installed small-1" in done.text, done
        assert re.match(r"1 1\.16\.0 /dlenv/packages/", (await book.run(SEE)).text)
        child = await book.run(f"!{{__import__('sys').executable}} -c \"{SEE}\"")
        assert child.text.startswith("1 1.16.0 /dlenv/packages/"), child
        assert (await book.run("!command -v small-says")).text.strip() == "/dlenv/packages/bin/small-says"
        await book.manager.restart_kernel()
        await book.client.wait_for_ready(timeout=120)
        assert (await book.run(SEE)).text.startswith("1 1.16.0 /dlenv/packages/")
        job = await book.run(f"%%dlrun --plain\n{SEE}")
        assert job.text.startswith("1 1.16.0 /dlenv/packages/"), job
        wheel(notebook_dir, "small", "2")
        wheel(notebook_dir, "six", "9")
        newer = await book.run("%pip install -U --no-index --find-links . small six")
        assert "Successfully installed six-9 small-2" in newer.text, newer
        look = "import importlib.metadata as m; print([d.version for n in ('small', 'six')"
        look += " for d in m.distributions(name=n) if '/dlenv/packages' in str(d._path)])"
        assert (await book.run(look)).text == "['2', '9']\n"
        gone = await book.run("%pip uninstall -y small six")
        assert "Successfully uninstalled small-2" in gone.text, gone
        assert (
            await book.run("!{__import__('sys').executable} -c 'import six; print(six.__version__)'")
        ).text == "1.16.0\r\n"
        if kind == "venv":
            path = (await book.run("import sys; print('/app' in sys.path)")).text
            assert path == "True\n"


async def test_an_image_that_can_make_no_pip_is_told_what_helps(notebook_dir: Path) -> None:
    without = KINDS["no-pip"] + "RUN rm -rf /usr/share/python-wheels\n"
    environment("never-pip", image=docker_images.image_from(without, "never-pip", wheels=SIX))
    async with notebook("never-pip", notebook_dir) as book:
        result = await book.run("%pip install small")
        assert result.status == "error"
        assert "has no pip" in result.error
        assert "%dlapt python3-pip" in result.error
        assert "Traceback" not in result.error


def reset(name: str, *options: str, answer: str | None = None) -> tuple[int, str]:
    """Run ``jupyter dlenv env reset``, at a terminal where there is an answer; return exit status and output."""
    argv = [sys.executable, "-m", "jupyter_dlenv", "env", "reset", name, *options]
    if answer is None:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr
    master, slave = pty.openpty()
    os.write(master, f"{answer}\n".encode())
    with subprocess.Popen(argv, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        os.close(slave)
        output = process.communicate()[0]
    os.close(master)
    return process.returncode, output


async def test_reset_empties_an_environment_of_all_its_images(notebook_dir: Path) -> None:
    wheel(notebook_dir, "small", "1")
    for kind in ("system", "venv"):
        environment("emptied", image=image(kind))
        async with notebook("emptied", notebook_dir) as book:
            done = await book.run("%pip install --no-index --find-links . small")
            assert "Successfully" in done.text, done
            await book.run("import os; os.makedirs('/dlenv/packages/deep/er'); os.chmod('/dlenv/packages/deep', 0o500)")
            await book.run("os.symlink('/etc', '/dlenv/packages/link'); import small")
            if kind == "venv":
                status, text = reset("emptied", "--yes")
                assert (status, "in use: kernel" in text) == (1, True), text
                assert "--force" in text
    status, text = reset("emptied")
    assert (status, "--yes" in text) == (1, True)
    status, text = reset("emptied", answer="n")
    assert status == 1
    assert text.count("small 1") == 2
    async with notebook("emptied", notebook_dir) as book:
        await book.run("import small")
        status, text = reset("emptied", "--force", answer="y")
        assert status == 0, text
        assert "2 packages, " in text
        assert "restarted" in text
        assert (await book.run("print(small.VERSION)")).text == "1\n"
        assert (await book.run("!ls -A /dlenv/packages")).text == ""
        again = await book.run("%pip install --no-index --find-links . small")
        assert "Successfully installed" in again.text, again
    assert len(EnvironmentManager().reset("emptied")) == 1
    assert reset("emptied", "--yes") == (0, "Nothing was installed into emptied.\n")
    assert os.path.isdir("/etc")
    folders = [path for path in environment_dir("emptied").rglob("packages/*") if path.is_dir()]
    assert len(folders) == 2
    assert not any(list(folder.iterdir()) for folder in folders)


def test_reset_of_what_does_not_exist() -> None:
    with pytest.raises(EnvironmentNotFound):
        EnvironmentManager().packages("never-made")
    status, text = reset("never-made", "--yes")
    assert (status, "There is no environment never-made" in text) == (1, True)


# Caches ---------------------------------------------------------------------------------------------------------------

WRITE = (
    "import os, json; names = ('HF_HOME', 'TORCH_HOME', 'PIP_CACHE_DIR')\n"
    "for name in names:\n"
    "    os.makedirs(os.environ[name], exist_ok=True)\n"
    "    open(os.environ[name] + '/from-a', 'w').write(str(os.getuid()))\n"
    "print(json.dumps([os.environ[name] for name in names]))"
)
READ = "import os; print([open(os.environ[n] + '/from-a').read() for n in ('HF_HOME', 'TORCH_HOME', 'PIP_CACHE_DIR')])"


async def test_one_person_s_containers_share_their_caches(notebook_dir: Path) -> None:
    os.chown(notebook_dir, 4321, 4321) if os.geteuid() == 0 else None
    uid = notebook_dir.stat().st_uid
    environment("cache-a", image=image("venv"))
    environment("cache-b", image=image("system"))
    async with notebook("cache-a", notebook_dir) as book:
        wrote = await book.run(WRITE)
        assert json.loads(wrote.text) == [f"/dlenv/cache/{name}" for name in ("huggingface", "torch", "pip")], wrote
        assert (await book.run("!pip cache dir")).text.strip() == "/dlenv/cache/pip"
    async with notebook("cache-b", notebook_dir) as book:
        assert (await book.run(READ)).text == f"{[str(uid)] * 3}\n"
        job = await book.run(f"%%dlrun --plain\n{READ}\nopen(os.environ['HF_HOME'] + '/from-job', 'w').close()")
        assert job.text == f"{[str(uid)] * 3}\n", job
    own = cache_dir() if uid == os.geteuid() else cache_dir() / f"uid-{uid}"
    assert (own.stat().st_uid, own.stat().st_mode & 0o777) == (uid, 0o700)
    assert (own / "huggingface" / "from-job").stat().st_uid == uid


async def test_what_the_image_and_the_person_set_goes_before(
    notebook_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"FROM {BASE}\nENV HF_HOME=/models TORCH_HOME=/baked\n"
    environment("cache-own", image=docker_images.image_from(text, "cache-own"))
    config = {"DLEnv": {"environment_variables": {"TORCH_HOME": "/mine"}, "cache_dir": str(tmp_path / "big")}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_dlenv_config.json").write_text(json.dumps(config))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    async with notebook("cache-own", notebook_dir) as book:
        shown = await book.run("!echo $HF_HOME $TORCH_HOME $PIP_CACHE_DIR; touch /dlenv/cache/moved")
        assert shown.text.split() == ["/models", "/mine", "/dlenv/cache/pip"]
        job = await book.run("%%dlrun --plain -e HF_HOME=/asked\nimport os; print(os.environ['HF_HOME'])")
        assert job.text == "/asked\n", job
    assert (tmp_path / "big" / f"uid-{notebook_dir.stat().st_uid}" / "moved").is_file()


async def test_off_means_off(notebook_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_dlenv_config.py").write_text("c.DLEnv.share_caches = False\n")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    environment("cache-off", image=image("system"))
    async with notebook("cache-off", notebook_dir) as book:
        look = "import os; print([n for n in os.environ if n in ('HF_HOME', 'TORCH_HOME', 'PIP_CACHE_DIR')]"
        look += ", os.path.exists('/dlenv/cache'))"
        assert (await book.run(look)).text == "[] False\n"
        job = await book.run(f"%%dlrun --plain\n{look}")
        assert job.text == "[] False\n", job
