"""Shares of file servers: what is read, what Docker is asked for, what the host must have, and what goes wrong."""

from __future__ import annotations

import getpass
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker_images
import pytest
from clients import environment

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.request import assert_safe, create_body, mount_words
from jupyter_dlenv.engines.docker.shares import nfs_body, share_failure
from jupyter_dlenv.errors import Denied, InvalidRequest, StartFailed
from jupyter_dlenv.kernels.environments import Environment
from jupyter_dlenv.resources import Mount, Share, parse_mount
from jupyter_dlenv.settings import DLEnv
from jupyter_dlenv.shares import addresses_of, cifs_folder, fstab_line, mounted_here
from jupyter_dlenv.spec import Identity, JobSpec, Role, new_id
from jupyter_dlenv.workspace import check_mounts, masks

WHO = Identity(1000, 1001)


def share(text: str) -> Share:
    found = parse_mount(text)
    assert isinstance(found, Share)
    return found


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "target", "read_only", "options"),
    [
        ("nfs://nas/data:/data", "nas", "", "/data", "/data", False, ()),
        ("nfs://nas.example.org:2050/a/b:/data:ro", "nas.example.org", "2050", "/a/b", "/data", True, ()),
        ("nfs://[fd00::1]/a:/data", "fd00::1", "", "/a", "/data", False, ()),
        ("nfs://[fe80::1%eth0]:2049/:/data", "fe80::1%eth0", "2049", "/", "/data", False, ()),
        ("nfs://nas/a%3Ab%2C%20c:/data", "nas", "", "/a:b, c", "/data", False, ()),
        ("nfs://nas/实验:/data", "nas", "", "/实验", "/data", False, ()),
        ("nfs://nas/a?vers=4.2,soft,timeo=100:/d:ro", "nas", "", "/a", "/d", True, ("vers=4.2", "soft", "timeo=100")),
        ("cifs://nas/Photos/2026:/data", "nas", "", "/Photos/2026", "/data", False, ()),
    ],
)
def test_an_address_is_read(
    text: str, host: str, port: str, path: str, target: str, read_only: bool, options: tuple[str, ...]
) -> None:
    found = share(text)
    assert (found.host, found.port, found.path) == (host, port, path)
    assert (found.target, found.read_only, found.options) == (target, read_only, options)
    assert found.kind == text[: text.index(":")]


@pytest.mark.parametrize(
    "text",
    [
        "nfs://nas/data",
        "nfs://nas:/data",
        "nfs:///data:/data",
        "nfs://nas/data:data",
        "nfs://nas/data:/data:rw",
        "nfs://nas:99999/data:/data",
        "nfs://na,s/data:/data",
        "nfs://nas,exec/data:/data",
        "nfs://user:secret@nas/data:/data",
        "nfs://fd00::1/data:/data",
        "nfs://nas/data%0ax:/data",
        "nfs://nas/../etc:/data",
        "nfs://nas/a?exec:/data",
        "nfs://nas/a?dev:/data",
        "nfs://nas/a?suid:/data",
        "nfs://nas/a?vers=9:/data",
        "nfs://nas/a?addr=10.0.0.1:/data",
        "nfs://nas/a?soft,,vers=4%2Csuid:/data",
        "cifs://nas:/data",
        "cifs://nas/:/data",
        "cifs://nas/share?password=x:/data",
        "smb://nas/share:/data",
        "file:///etc:/data",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_mount(text)
    with pytest.raises(InvalidRequest):
        Environment("x", image="a/b", mounts=(text,))


# NFS ------------------------------------------------------------------------------------------------------------------


def options(text: str) -> dict[str, str]:
    return dict(nfs_body(share(text))["VolumeOptions"]["DriverConfig"]["Options"])


@pytest.mark.parametrize(
    ("text", "words", "device"),
    [
        ("nfs://nas/a:/d", "addr=nas,vers=4,nodev,nosuid", ":/a"),
        ("nfs://[fd00::1]:99/a:/d:ro", "addr=fd00::1,port=99,vers=4,nodev,nosuid,ro", ":/a"),
        ("nfs://nas/a?soft,vers=3,nolock:/d", "addr=nas,soft,vers=3,nolock,nodev,nosuid", ":/a"),
    ],
)
def test_the_local_driver_is_told_all(text: str, words: str, device: str) -> None:
    assert options(text) == {"type": "nfs", "o": words, "device": device}


def body(*mounts: Mount) -> dict[str, Any]:
    values: dict[str, Any] = {"argv": ("true",), "workdir": "/", "run_dir": "", "owner": "a", "image": "sha256:1"}
    return create_body(JobSpec(id=new_id(), role=Role.KERNEL, identity=WHO, mounts=mounts, **values))


def test_a_share_passes_the_gate_as_it_was_made_and_no_other_way() -> None:
    made = share("nfs://[fd00::1]:99/a?soft:/d:ro")
    for each in (made, share("nfs://nas/a:/d"), share("nfs://nas/a?vers=4,hard:/d")):
        assert_safe(body(each))
    good = nfs_body(made)
    driver = good["VolumeOptions"]["DriverConfig"]
    told = driver["Options"]

    def with_driver(**change: Any) -> dict[str, Any]:
        return {**good, "VolumeOptions": {**good["VolumeOptions"], "DriverConfig": {**driver, **change}}}

    bad: list[dict[str, Any]] = [
        {**good, "Source": "somebodys-volume"},
        {**good, "ReadOnly": True},
        {**good, "VolumeOptions": {**good["VolumeOptions"], "NoCopy": False}},
        {**good, "VolumeOptions": {**good["VolumeOptions"], "Labels": {}}},
        {"Type": "volume", "Source": "somebodys-volume", "Target": "/d"},
        {"Type": "volume", "Target": "/d"},
        {**good, "Type": "npipe"},
        with_driver(Name="rexray"),
        with_driver(Options={**told, "type": "none"}),
        with_driver(Options={**told, "device": "/etc"}),
        with_driver(Options={**told, "device": ":/a/../.."}),
        with_driver(Options={**told, "o": told["o"] + ",suid"}),
        with_driver(Options={**told, "o": told["o"].replace("nosuid", "bind")}),
        with_driver(Options={**told, "more": "x"}),
        with_driver(Options=None),
        with_driver(Options={"type": "cifs", "o": "username=a,password=b", "device": "//nas/a"}),
    ]
    for each in bad:
        made_body = body()
        made_body["HostConfig"]["Mounts"] = [each]
        with pytest.raises(Denied):
            assert_safe(made_body)


def test_a_dry_run_is_a_command_that_docker_takes() -> None:
    assert mount_words(share("nfs://nas/a?soft:/d:ro")) == (
        "type=volume,target=/d,volume-driver=local,volume-nocopy,volume-opt=type=nfs,"
        '"volume-opt=o=addr=nas,soft,vers=4,nodev,nosuid,ro",volume-opt=device=:/a'
    ).replace("soft,vers=4", "vers=4,soft")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "error while mounting volume '/v/volumes/ab/_data': failed to mount local volume: "
            "mount :/x y:/v/volumes/ab/_data, data: addr=::1,vers=4.2,soft: no such device",
            "The share ::1:/x y cannot be mounted: no such device.",
            "sudo apt-get install nfs-common && sudo modprobe nfs",
        ),
        (
            "failed to mount local volume: mount :/x:/v/volumes/ab/_data, data: addr=10.0.0.9,hard: connection refused",
            "The share 10.0.0.9:/x cannot be mounted: connection refused.",
            "showmount -e 10.0.0.9",
        ),
        (
            "error resolving passed in network volume address: lookup nas.invalid on 10.0.0.53:53: no such host",
            "The share nas.invalid cannot be mounted: no such host.",
            "getent hosts nas.invalid",
        ),
    ],
)
def test_a_failure_is_said_in_words(text: str, message: str, hint: str) -> None:
    found = share_failure(text)
    assert found is not None
    assert (found.message, found.hint) == (message, hint)


def test_other_failures_are_not_a_share_s() -> None:
    assert share_failure("failed to mount local volume: something else") is None


@pytest.mark.docker
async def test_a_real_daemon_takes_the_share_and_leaves_nothing() -> None:
    """The daemon that runs here may have no NFS in its kernel: then the start fails, and says so in our words."""
    client, engine = docker_images.engine(), DockerEngine()
    image = docker_images.image_id(docker_images.base_image())
    before = {volume["Name"] for volume in client.volumes()["Volumes"] or []}
    values: dict[str, Any] = {"argv": ("/bin/true",), "workdir": "/", "run_dir": "", "owner": "shares"}
    spec = JobSpec(id=new_id(), role=Role.KERNEL, identity=WHO, image=image, network="none", **values)
    spec = replace(spec, mounts=(share("nfs://127.0.0.1/nobody/exports/this?soft,timeo=10:/data:ro"),))
    made = str(client.create_container_from_config(create_body(spec))["Id"])
    (mount,) = client.inspect_container(made)["Mounts"]
    assert (mount["Type"], mount["Driver"], mount["Destination"], mount["RW"]) == ("volume", "local", "/data", True)
    told = client.inspect_volume(mount["Name"])["Options"]
    assert told == options("nfs://127.0.0.1/nobody/exports/this?soft,timeo=10:/data:ro")
    client.remove_container(made, v=True)
    assert {volume["Name"] for volume in client.volumes()["Volumes"] or []} == before
    with pytest.raises(StartFailed, match=r"The share 127.0.0.1:/nobody/exports/this cannot be mounted"):
        await engine.submit(engine.plan(spec))
    assert not client.containers(all=True, filters={"label": f"io.jupyter-dlenv.id={spec.id}"})
    assert {volume["Name"] for volume in client.volumes()["Volumes"] or []} == before


def test_an_administrator_may_forbid_nfs() -> None:
    wanted = (Mount("/a", "/a"), share("nfs://nas/a:/data"))
    assert mounted_here(wanted, WHO, nfs_allowed=True) == wanted
    with pytest.raises(Denied, match="allow_nfs_mounts"):
        mounted_here(wanted, WHO, nfs_allowed=False)
    assert DLEnv().allow_nfs_mounts is True


def test_shares_are_no_folders_of_the_host(tmp_path: Path) -> None:
    wanted = (Mount(str(tmp_path), "/nb"), share("nfs://nas/a:/data"))
    assert check_mounts(wanted, [str(tmp_path / "hidden")]) == wanted
    (tmp_path / "hidden").mkdir()
    assert masks(wanted, [str(tmp_path / "hidden")]) == (("/nb/hidden",), ())
    for target in ("/dlenv/x", "/etc", "/"):
        with pytest.raises(InvalidRequest):
            check_mounts((share(f"nfs://nas/a:{target}"),), [])
    with pytest.raises(InvalidRequest, match="Two mounts"):
        check_mounts((Mount(str(tmp_path), "/data"), share("nfs://nas/a:/data")), [])


# CIFS -----------------------------------------------------------------------------------------------------------------

TABLE = r"""22 1 0:20 / /proc rw - proc proc rw
36 35 0:49 / /mnt/photos rw,relatime shared:1 - cifs //NAS/Photos rw,vers=3.1.1,username=a,addr=10.0.0.9
37 35 0:50 / /mnt/my\040data rw - cifs //nas/my\040data/sub rw,addr=10.0.0.9
38 35 0:51 / /mnt/six rw - cifs \134\134fd00--1.ipv6-literal.net\134six rw,addr=fd00::1
39 35 0:52 / /mnt/smb rw shared:2 master:3 - smb3 //other/share rw,addr=10.0.0.7
40 35 0:53 / /mnt/nfs rw - nfs4 nas:/Photos rw
41 35 0:49 / /second rw - cifs //NAS/Photos rw,addr=10.0.0.9
42 35 0:54 /al /mnt/shared rw - cifs //nas/home/al rw,addr=10.0.0.9
43 35 0:55 / /mnt/own rw - cifs //nas/priv/al rw,addr=10.0.0.9
44 35 0:56 / /mnt/bo rw - cifs //nas/twice/bo rw,addr=10.0.0.9
45 35 0:56 /bo /mnt/bobo rw - cifs //nas/twice/bo rw,addr=10.0.0.9
46 35 0:57 /al/x /mnt/deep rw - cifs //nas/work/al rw,addr=10.0.0.9
47 35 0:58 / /mnt/full rw - cifs //box.example.org/full rw,addr=10.0.0.8
48 35 0:59 / /mnt/covered rw - cifs //nas/covered rw,addr=10.0.0.9
49 48 0:60 / /mnt/covered rw - ext4 /dev/sda1 rw
"""


def nobody_answers(_host: str) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("cifs://nas/photos:/data", "/second"),
        ("cifs://nas/photos/2026/may:/data:ro", "/second/2026/may"),
        ("cifs://10.0.0.9/photos:/data", "/second"),
        ("cifs://nas/my%20data/sub/x:/data", "/mnt/my data/x"),
        ("cifs://[fd00::1]/six:/data", "/mnt/six"),
        ("cifs://[fd00:0:0::1]/six:/data", "/mnt/six"),
        ("cifs://other/share:/data", "/mnt/smb"),
        ("cifs://nas/home/al:/data", "/mnt/shared"),
        ("cifs://nas/home/al/sets:/data", "/mnt/shared/sets"),
        ("cifs://nas/priv/Al:/data", "/mnt/own"),
        ("cifs://nas/twice/bo:/data", "/mnt/bo"),
        ("cifs://nas/twice/bo/bo/x:/data", "/mnt/bobo/x"),
        ("cifs://nas/work/al/x:/data", "/mnt/deep"),
        ("cifs://nas.example.org/photos:/data", "/second"),
        ("cifs://nas./photos:/data", "/second"),
        ("cifs://BOX/full:/data", "/mnt/full"),
    ],
)
def test_a_mounted_share_is_its_folder(text: str, folder: str) -> None:
    assert cifs_folder(share(text), TABLE, WHO, nobody_answers) == Mount(folder, "/data", text.endswith(":ro"))


def test_a_server_of_another_name_is_known_by_its_address() -> None:
    asked = []

    def resolve(host: str) -> list[str]:
        asked.append(host)
        return ["fd00::9", "10.0.0.9"]

    assert cifs_folder(share("cifs://files/photos:/d"), TABLE, WHO, resolve) == Mount("/second", "/d")
    assert cifs_folder(share("cifs://nas/photos:/d"), TABLE, WHO, resolve) == Mount("/second", "/d")
    with pytest.raises(InvalidRequest):
        cifs_folder(share("cifs://files/nothing/of/that/name:/d"), TABLE, WHO, resolve)
    assert asked == ["files"]


@pytest.mark.parametrize("failure", [OSError("no such host"), UnicodeError("label too long")])
def test_a_name_that_is_unknown_has_no_address(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_words: Any, **_more: Any) -> None:
        raise failure

    assert addresses_of("127.0.0.1") == ["127.0.0.1"]
    monkeypatch.setattr("socket.getaddrinfo", fail)
    assert addresses_of("nas") == []


def test_a_resolver_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr("jupyter_dlenv.shares._RESOLVE_S", 0.01)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_words, **_more: done.wait() and [])
    assert addresses_of("nas") == []
    done.set()


@pytest.mark.parametrize(
    "text",
    [
        "cifs://nas/photo:/d",
        "cifs://nas2/photos:/d",
        "cifs://nas/my%20data:/d",
        "cifs://nas/photos2:/d",
        "cifs://nas/home:/d",
        "cifs://nas/home/bo:/d",
        "cifs://10/photos:/d",
        "cifs://box.example.com/full:/d",
        "cifs://nas/covered:/d",
    ],
)
def test_a_share_that_is_not_mounted_comes_with_its_fstab_line(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        cifs_folder(share(text), TABLE, WHO, nobody_answers)
    assert fstab_line(share(text), WHO) in caught.value.hint
    assert "sudo mount /mnt/" in caught.value.hint
    assert "mode 0600" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("cifs://nas/Photos/2026:/d", "//nas/Photos /mnt/Photos cifs credentials=/etc/cifs-Photos.cred,vers=3.1.1,"),
        ("cifs://nas:4450/a%20b:/d", "//nas/a\\040b /mnt/a_b cifs port=4450,credentials=/etc/cifs-a_b.cred,"),
        ("cifs://[fd00::1]/s:/d", "//fd00--1.ipv6-literal.net/s /mnt/s cifs ip=fd00::1,credentials="),
        ("cifs://[fe80::1%eth0]/s:/d", "//fe80--1seth0.ipv6-literal.net/s /mnt/s cifs ip=fe80::1%eth0,"),
    ],
)
def test_the_fstab_line_is_whole(text: str, begins: str) -> None:
    line = fstab_line(share(text), WHO)
    assert line.startswith(begins)
    assert "uid=1000,gid=1001," in line
    assert line.endswith("_netdev,nofail 0 0")
    assert len(line.split(" ")) == 6


@pytest.mark.parametrize(
    "text",
    [
        "cifs://me:hunter2@nas/share:/data",
        "cifs://me:p@ss/hunter2@nas/share:/data",
        "cifs://me:hunter2%40nas/share:/data",
        "nfs://me:hunter2@nas/data:/data",
        "nfs://me:hunter2@nas/data",
        "CIFS://me:hunter2@nas/share",
        "//me:hunter2@nas/share:/data",
        "src=cifs://me:hunter2@nas/share,dst=/data",
        "cifs://nas/share?username=me,password=hunter2:/data",
        "cifs://nas/share?username=me%hunter2:/data",
        "nfs://nas/share?pass=hunter2",
    ],
)
def test_a_password_is_nowhere(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_mount(text)
    assert "hunter2" not in f"{caught.value}{caught.value.message}{caught.value.hint}"
    assert "password" not in fstab_line(share("cifs://nas/share:/data"), WHO)


@pytest.mark.parametrize("text", ["cifs://me:secret@nas/share:/data", "cifs://nas/share?password=secret:/data"])
def test_where_a_password_belongs_is_said(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\*\*\*") as caught:
        parse_mount(text)
    assert "credentials=/etc/cifs-SHARE.cred" in caught.value.hint


# Through the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def bare() -> str:
    environment("shares-bare", image=docker_images.base_image())
    return docker_images.base_image()


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jupyter_dlenv", "run", *words], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.docker
def test_a_read_only_dataset_cannot_be_written(
    bare: str, notebook_dir: Path, tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    data = tmp_path / "dataset"
    data.mkdir()
    (data / "known").write_text("value")
    data.chmod(0o777)
    write(
        "use.py",
        "import os\nprint(open('/data/known').read())\n"
        "for do in (lambda: open('/data/new', 'w'), lambda: os.remove('/data/known'), lambda: os.mkdir('/data/x')):\n"
        "    try:\n        do()\n    except OSError as error:\n        print(error.errno)\n"
        "open('/out/result', 'w').write('done')\n",
    )
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    mounts = ("--mount", f"src={data},dst=/data,ro", "--mount", f"src={out},dst=/out")
    done = run(notebook_dir, "use.py", "--image", bare, "--network", "none", *mounts)
    assert (done.returncode, done.stdout) == (0, "value\n30\n30\n30\n"), done.stderr
    assert [path.name for path in data.iterdir()] == ["known"]
    assert (out / "result").read_text() == "done"


@pytest.mark.docker
def test_the_command_line_says_how_to_mount_a_cifs_share(
    bare: str, notebook_dir: Path, write: Callable[[str, str], Path]
) -> None:
    write("use.py", "print('never')\n")
    done = run(notebook_dir, "use.py", "--image", bare, "--mount", "cifs://nas.invalid/share:/data")
    assert done.returncode == 1
    assert "The share //nas.invalid/share is not mounted on this host." in done.stderr
    assert "//nas.invalid/share /mnt/share cifs credentials=/etc/cifs-share.cred,vers=3.1.1,uid=" in done.stderr
    assert getpass.getuser()


@pytest.mark.docker
def test_a_dry_run_shows_the_share(bare: str, notebook_dir: Path, write: Callable[[str, str], Path]) -> None:
    write("use.py", "print('never')\n")
    done = run(notebook_dir, "use.py", "--image", bare, "--mount", "nfs://nas.invalid/a:/data:ro", "--dry-run")
    assert "volume-opt=o=addr=nas.invalid,vers=4,nodev,nosuid,ro" in done.stdout, done.stderr
