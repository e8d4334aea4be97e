"""The catalogue's causes that lie in the code, in the image, or beyond the network: data. Pure."""

from __future__ import annotations

import sys

from ..i18n import _
from ..spec import Reason
from .facts import Cause, Facts, Found
from .packages import apt_package_of, is_local


def _is_local(facts: Facts, found: Found) -> bool:
    return is_local(found.groups.get("module", ""), facts.modules)


def _is_of_system(_facts: Facts, found: Found) -> bool:
    return bool(apt_package_of(found.groups.get("module", "")))


def _is_installed(facts: Facts, found: Found) -> bool:
    module = found.groups.get("module", "")
    return module.partition(".")[0] not in sys.stdlib_module_names and not is_local(module, facts.modules)


def _no_network(facts: Facts, _found: Found) -> bool:
    return facts.network == "none"


def _usage_error(_facts: Facts, found: Found) -> bool:
    return found.exit_code == 2


_NAMES = (
    r"Temporary failure in name resolution",
    r"Name or service not known",
    r"NameResolutionError",
    r"Could not resolve host",
    r"Failed to resolve '",
    r"\[Errno -[235]\]",
    r"No address associated with hostname",
    r"Network is unreachable",
)
_CU = r"(?:da|dart|blas(?:Lt)?|dnn[a-z_]{0,40}|fftw?|pti|rand|solver(?:Mg)?|sparse(?:Lt)?|file|tensor)"
_NV = r"(?:rtc(?:-builtins)?|infer[a-z_]{0,40}|JitLink|ToolsExt|jpeg|blas|onnxparser|parsers)"
IMAGE_CAUSES = (
    Cause(
        "opencv-libraries",
        Reason.USER_ERROR,
        lambda: _("A library of the desktop is missing in this image: {library}."),
        lambda: _("%pip install opencv-python-headless, which needs none; or a build: %dlapt libgl1 libglib2.0-0"),
        (r"(?P<library>lib(?:GL|EGL|SM|ICE|Xext|Xrender|X11|xcb|gthread-2\.0|glib-2\.0)\.so[.\d]{0,9}): cannot open",),
    ),
    Cause(
        "cuda-library",
        Reason.USER_ERROR,
        lambda: _("A library of CUDA is missing in this image: {library}."),
        lambda: _("Framework and CUDA do not go together here: use an image that was made with both (--image)."),
        (rf"(?P<library>lib(?:cu{_CU}|nv{_NV}|npp[a-z]{{1,9}}|nccl)\.so[.\d]{{0,12}}): cannot open",),
    ),
    Cause(
        "library",
        Reason.USER_ERROR,
        lambda: _("A library is missing in this image: {library}."),
        lambda: _("Add the package that holds it in a build: %dlapt PACKAGE. Or use an image that has it (--image)."),
        (r"(?P<library>lib[\w.+-]{1,80}?\.so[.\d]{0,20}): cannot open shared object file",),
    ),
    Cause(
        "glibc",
        Reason.USER_ERROR,
        lambda: _("A library was built for a newer system than this image: it needs {version}."),
        lambda: _("Use a newer image (--image), or install an older version of the package."),
        (r"version [`'](?P<version>GLIBC(?:XX)?_[\d.]{1,12})' not found",),
    ),
    Cause(
        "numpy-abi",
        Reason.USER_ERROR,
        lambda: _("A package was built for another NumPy than the one that is installed."),
        lambda: _('%pip install "numpy<2", or a newer version of that package.'),
        (
            r"compiled using NumPy 1\.x cannot be run in",
            r"numpy\.(?:dtype|ndarray) size changed",
            r"numpy\.core\.multiarray failed to import",
            r"_ARRAY_API not found",
            r"was removed in the NumPy 2\.0 release",
            r"module compiled against (?:ABI|API) version",
        ),
    ),
    Cause(
        "protobuf",
        Reason.USER_ERROR,
        lambda: _("A package was made for another protobuf than the one that is installed."),
        lambda: _('%pip install "protobuf<3.21", or a newer version of that package.'),
        (
            r"Descriptors cannot (?:not )?be created directly",
            r"cannot import name 'builder' from 'google\.protobuf\.internal'",
            r"Detected incompatible Protobuf Gencode/Runtime versions",
            r"'MessageFactory' object has no attribute 'GetPrototype'",
        ),
    ),
    Cause(
        "undefined-symbol",
        Reason.USER_ERROR,
        lambda: _("Two packages do not go together: one was built for another version of the other."),
        lambda: _("Install the one that the traceback names last anew, for the versions of this image."),
        (r"undefined symbol: ",),
    ),
    Cause(
        "shadowed-module",
        Reason.USER_ERROR,
        lambda: _("{module} was imported from itself: a file of yours has the same name, or imports go in a circle."),
        lambda: _("Rename that file; the traceback names it."),
        (
            r"partially initialized module '(?P<module>[\w.]{1,100})'",
            r"No module named '[\w.]{1,100}'; '(?P<module>[\w.]{1,100})' is not a package",
        ),
    ),
    Cause(
        "local-module",
        Reason.USER_ERROR,
        lambda: _("The module {module} was not found; it seems to be one of your own."),
        lambda: _(
            "Start the job in the folder that holds it, or name that folder: -e PYTHONPATH=FOLDER. "
            "If it is a package instead: %pip install {package}"
        ),
        (r"No module named '?(?P<module>[\w.]{1,100})",),
        when=_is_local,
    ),
    Cause(
        "system-module",
        Reason.USER_ERROR,
        lambda: _("The module {module} is not in this image, and pip has none."),
        lambda: _("Add it in a build: %dlapt {apt}"),
        (r"No module named '?(?P<module>[\w.]{1,100})",),
        when=_is_of_system,
    ),
    Cause(
        "module",
        Reason.USER_ERROR,
        lambda: _("The module {module} is not in this image."),
        lambda: _("%pip install {package} in a notebook of this environment, or an image that has it (--image)."),
        (r"No module named '?(?P<module>[\w.]{1,100})",),
    ),
    Cause(
        "import",
        Reason.USER_ERROR,
        lambda: _("{module} has no {name}: it is another version than the script expects."),
        lambda: _("Install the version that has it: %pip install {package}==VERSION"),
        (r"cannot import name '(?P<name>[\w.]{1,100})' from '(?P<module>[\w.]{1,100})'",),
        when=_is_installed,
    ),
    Cause(
        "display",
        Reason.USER_ERROR,
        lambda: _("It wanted to open a window, and a job has no screen."),
        lambda: _(
            "Write figures to files: -e MPLBACKEND=Agg, for Qt -e QT_QPA_PLATFORM=offscreen, for rendering "
            "-e MUJOCO_GL=egl; with OpenCV leave cv2.imshow out."
        ),
        (
            r"could not connect to display",
            r"couldn't connect to display",
            r"no display name and no \$DISPLAY",
            r"[Cc]an(?:'t|not|not to) open display",
            r"Could not load the Qt platform plugin",
            r"NoSuchDisplayException",
            r"Cannot connect to \"None\"",
            r"No available video device",
            r"The function is not implemented\. Rebuild the library with",
            r"Can't initialize GTK backend",
        ),
    ),
    Cause(
        "architecture",
        Reason.USER_ERROR,
        lambda: _("A program was built for another kind of processor, or begins with no interpreter line."),
        lambda: _("Use an image for this machine's architecture (--image); a script begins with #!/bin/sh."),
        (r"[Ee]xec format error", r"\[Errno 8\]"),
    ),
)

REACH_CAUSES = (
    Cause(
        "no-network",
        Reason.USER_ERROR,
        lambda: _("It wanted to reach another machine, and has no network."),
        lambda: _("Give it one: --network bridge. Or fetch what it needs before."),
        (
            *_NAMES,
            r"LocalEntryNotFoundError",
            r"We couldn't connect to 'https://",
            r"Max retries exceeded with url",
            r"No matching distribution found for",
        ),
        when=_no_network,
    ),
    Cause(
        "name-resolution",
        Reason.USER_ERROR,
        lambda: _("The name of another machine was not found."),
        lambda: _(
            "Behind a proxy hand it on: -e HTTPS_PROXY -e HTTP_PROXY. Else see which name servers the host gives "
            "containers, or use --network host."
        ),
        _NAMES,
    ),
    Cause(
        "certificate",
        Reason.USER_ERROR,
        lambda: _("The certificate of a server was not trusted."),
        lambda: _(
            "Where your site has a certificate authority of its own, hand its file on: --mount FOLDER:FOLDER:ro "
            "-e SSL_CERT_FILE=FILE -e REQUESTS_CA_BUNDLE=FILE"
        ),
        (r"CERTIFICATE_VERIFY_FAILED", r"certificate verify failed", r"unable to get local issuer certificate"),
    ),
    Cause(
        "login",
        Reason.USER_ERROR,
        lambda: _("A server asked for a login, or that login may not have this."),
        lambda: _("Hand your token on, kept nowhere: -e HF_TOKEN (or the variable that the library reads)."),
        (r"GatedRepoError", r"RepositoryNotFoundError", r"40[13] Client Error", r"HTTP Error 40[13]"),
    ),
    Cause(
        "download",
        Reason.USER_ERROR,
        lambda: _("Something could not be downloaded."),
        lambda: _(
            "See whether the host can: behind a proxy -e HTTPS_PROXY, with a mirror -e HF_ENDPOINT=URL or "
            "-e PIP_INDEX_URL=URL. Or fetch it before and show its folder by --mount."
        ),
        (
            r"LocalEntryNotFoundError",
            r"OfflineModeIsEnabled",
            r"We couldn't connect to 'https://",
            r"Max retries exceeded with url",
            r"ConnectTimeoutError",
            r"is not a local folder and is not a valid model identifier",
            r"Couldn't reach .{1,200} on the Hub",
            r"No matching distribution found for",
            r"urllib\.error\.(?:URLError|HTTPError)",
            r"requests\.exceptions\.(?:ConnectionError|ReadTimeout|HTTPError)",
        ),
    ),
)

CODE_CAUSES = (
    Cause(
        "start-method",
        Reason.USER_ERROR,
        lambda: _("Processes were started where the script is imported again by each of them."),
        lambda: _("Put what starts them below: if __name__ == '__main__':"),
        (r"context has already been set", r"An attempt has been made to start a new process before"),
    ),
    Cause(
        "pickle-main",
        Reason.USER_ERROR,
        lambda: _("Something that was defined in the script itself, or in a function, could not be sent to a process."),
        lambda: _("Define it at the top of a module beside the script, and import it from there."),
        (
            r"Can't pickle ",
            r"Can't get (?:attribute|local object) '",
            r"attribute lookup .{1,100} on __main__ failed",
            r"[Cc]annot pickle '",
        ),
    ),
    Cause(
        "launcher-usage",
        Reason.USER_ERROR,
        lambda: _("The launcher did not take its options: {error}"),
        lambda: _("The framework in the image may be older than the launcher needs; --dry-run shows the command."),
        (r"^(?:run\.py|torchrun|accelerate|deepspeed|launch\.py|horovodrun)(?: .{1,60})?: error: (?P<error>.+)",),
    ),
    Cause(
        "arguments",
        Reason.USER_ERROR,
        lambda: _("The script did not take its arguments: {error}"),
        lambda: _("Arguments of the script come after two dashes: %dlrun train.py -- --lr 0.1"),
        (
            r"^[\w./-]{1,100}: error: (?P<error>.+)",
            r"^Error: (?P<error>(?:No such option|Missing |Invalid value|Got unexpected).+)",
        ),
        when=_usage_error,
    ),
    Cause(
        "syntax",
        Reason.USER_ERROR,
        lambda: _("Python could not read the code: {error}"),
        lambda: _("The lines before it show where. Or the Python in the image is too old for it: see --image."),
        (r"^(?:SyntaxError|IndentationError|TabError): (?P<error>.+)",),
    ),
    Cause(
        "cpu-instructions",
        Reason.USER_ERROR,
        lambda: _("A library uses instructions that this machine's processor lacks (often AVX)."),
        lambda: _("Use an image with a build of it for older processors (--image)."),
        (r"Illegal instruction", r"was compiled to use .{1,60} instructions, but these aren't available"),
        codes=(132,),
    ),
    Cause(
        "crash",
        Reason.USER_ERROR,
        lambda: _("It crashed (SIGSEGV) in native code."),
        lambda: _("Set -e PYTHONFAULTHANDLER=1 to see where."),
        (r"Fatal Python error: Segmentation fault", r"Segmentation fault", r"is killed by signal: Segmentation fault"),
        codes=(139,),
    ),
    Cause(
        "bus-error",
        Reason.OUT_OF_MEMORY,
        lambda: _("Bus error (SIGBUS): mostly a full /dev/shm."),
        lambda: _("Raise --shm-size, for example --shm-size {more_shm}, or use fewer loader workers."),
        (r"Fatal Python error: Bus error", r"Bus error"),
        codes=(135,),
    ),
)
