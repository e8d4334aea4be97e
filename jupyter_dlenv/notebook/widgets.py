"""The picker: choose an image and resources, and get an environment that every launcher lists."""

from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import quote

import ipywidgets
from IPython.display import display

from ..errors import DLEnvError
from ..i18n import _
from .client import Client, find_client
from .offer import SWITCH_MIME as SWITCH_MIME
from .offer import switch_offer as switch_offer


def default_name(ref: str) -> str:
    """Return a name for an environment made from an image's reference."""
    last = ref.rsplit("/", 1)[-1].partition("@")[0].replace(":latest", "").replace(":", "-").lower()
    return "".join(char if char.isalnum() or char in "._-" else "-" for char in last).strip("._-")[:63] or "env"


def image_choices(images: List[Dict[str, Any]]) -> List[Tuple[str, str]]:
    """Return label and reference of each image."""
    return [(f"{image['ref']}  ({image['size_bytes'] / 1e9:.1f} GB)", image["ref"]) for image in images]


def gpu_choices(gpus: List[Dict[str, Any]]) -> List[Tuple[str, str]]:
    """Return label and value of each number of GPUs that the host can give."""
    counts = [(str(count), str(count)) for count in range(1, len(gpus) + 1)]
    return [(_("none"), ""), *counts, *([(_("all"), "all")] if gpus else [])]


class Environments(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Shows the images of this host and writes an environment from the chosen one.

    Args:
        client: The job API; found by itself unless given.
    """

    def __init__(self, client: Optional[Client] = None) -> None:
        self._client = client or find_client()
        self.image = ipywidgets.Dropdown(description=_("Image"), layout={"width": "36em"})
        self.name = ipywidgets.Text(description=_("Name"))
        self.gpus = ipywidgets.Dropdown(description=_("GPUs"))
        self.memory = ipywidgets.Text(description=_("Memory"), placeholder=_("no limit, or 8g"))
        self.mounts = ipywidgets.Textarea(description=_("Mounts"), placeholder=_("SRC:DST[:ro], one a line"))
        self.save = ipywidgets.Button(description=_("Save"), button_style="primary")
        self.refresh = ipywidgets.Button(description=_("Refresh"))
        self.message = ipywidgets.HTML()
        self.output = ipywidgets.Output()
        self.image.observe(self._suggest_name, names="value")
        self.save.on_click(lambda _button: self.write())
        self.refresh.on_click(lambda _button: self.load())
        buttons = ipywidgets.HBox([self.save, self.refresh])
        rows = [self.image, self.name, self.gpus, self.memory, self.mounts, buttons, self.message, self.output]
        super().__init__(rows)
        self.load()

    def load(self) -> None:
        """Ask the host again for its images and GPUs."""
        try:
            self.image.options = image_choices(self._client.call("GET", "/images")["images"])
            self.gpus.options = gpu_choices(self._client.call("GET", "/gpus")["gpus"])
            self._say("" if self.image.options else _("No image yet: jupyter dlenv images bootstrap"))
        except DLEnvError as error:
            self._say(str(error))

    def write(self) -> None:
        """Write the environment and offer to switch this notebook to it."""
        mounts = [line.strip() for line in self.mounts.value.splitlines() if line.strip()]
        body = {
            "image": self.image.value or "",
            "gpus": self.gpus.value or "",
            "memory": self.memory.value.strip(),
            "mounts": mounts,
        }
        try:
            saved = self._client.call("PUT", f"/environments/{quote(self.name.value.strip(), safe='')}", body)
        except DLEnvError as error:
            self._say(str(error))
            return
        self._say(_("{name} is written.").format(name=saved["name"]))
        self.output.clear_output()
        with self.output:
            display(switch_offer(saved["name"]), raw=True)  # type: ignore[no-untyped-call]  # IPython has none

    def _suggest_name(self, change: Dict[str, Any]) -> None:
        if change["new"]:
            self.name.value = default_name(change["new"])

    def _say(self, text: str) -> None:
        self.message.value = "<pre>" + text.replace("&", "&amp;").replace("<", "&lt;") + "</pre>" if text else ""
