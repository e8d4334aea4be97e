"""The picker, in a real container kernel."""

from __future__ import annotations

import json
from pathlib import Path

import docker_images
import pytest
from clients import environment, notebook

from jupyter_dlenv.kernels.environments import EnvironmentManager
from jupyter_dlenv.notebook.widgets import SWITCH_MIME, default_name, gpu_choices

PICK = """
from jupyter_dlenv import Environments
picker = Environments()
picker.image.value = {image!r}
picker.name.value, picker.memory.value, picker.mounts.value = "picked", "2g", "/data:/data:ro"
print([value for _label, value in picker.gpus.options])
picker.save.click()
print(picker.message.value)
print(picker.output.outputs)
"""


@pytest.mark.docker
async def test_the_picker_writes_an_environment_and_offers_the_switch(notebook_dir: Path) -> None:
    image = docker_images.base_image()
    environment("bare", image=image)
    async with notebook("bare", notebook_dir) as book:
        result = await book.run(PICK.format(image=image))
        assert result.status == "ok", result
        assert result.text.splitlines()[0] == "['']"
        assert "picked" in result.text
        shown = await book.run("%dlenv")
        assert "application/vnd.jupyter.widget-view+json" in shown.displays[-1]
        bad = await book.run("picker.name.value = 'Not A Name'\npicker.save.click()\nprint(picker.message.value)")
        assert "cannot name an environment" in bad.text
    made = EnvironmentManager().get("picked")
    assert (made.image, made.memory, made.mounts) == (image, "2g", ("/data:/data:ro",))


@pytest.mark.parametrize(
    ("ref", "name"),
    [("pytorch/pytorch:2.9.0-cuda12.8", "pytorch-2.9.0-cuda12.8"), ("a.b:5/X:latest", "x"), ("sha256@x", "sha256")],
)
def test_a_name_comes_from_the_reference(ref: str, name: str) -> None:
    assert default_name(ref) == name


def test_gpus_are_offered_up_to_what_is_there() -> None:
    assert [value for _label, value in gpu_choices([])] == [""]
    assert [value for _label, value in gpu_choices([{}, {}])] == ["", "1", "2", "all"]


def test_the_offer_reads_as_text_too() -> None:
    from jupyter_dlenv.notebook.widgets import switch_offer

    offer = switch_offer("picked")
    assert json.loads(json.dumps(offer[SWITCH_MIME])) == {"name": "picked"}
    assert "picked" in offer["text/plain"]
