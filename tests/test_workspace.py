"""What a container sees of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_dlenv import identity, placement, workspace
from jupyter_dlenv.errors import Denied, InvalidRequest
from jupyter_dlenv.resources import Mount
from jupyter_dlenv.spec import Identity


def test_the_root_is_the_nearest_project_or_the_folder_itself(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "notebooks"
    inner.mkdir(parents=True)
    assert workspace.find_root(inner) == inner
    (tmp_path / "project" / ".git").mkdir()
    assert workspace.find_root(inner) == tmp_path / "project"
    assert workspace.find_root(inner, server_root=str(tmp_path)) == tmp_path
    assert workspace.find_root(inner, server_root="/elsewhere", setting=str(inner)) == inner


def test_paths_are_compared_by_components() -> None:
    assert workspace.inside("/data/alice/x", "/data/alice")
    assert not workspace.inside("/data/alice2", "/data/alice")


def test_credentials_below_a_mount_are_masked(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "keys").mkdir()
    (tmp_path / ".aws").symlink_to(tmp_path / "keys")
    (tmp_path / ".netrc").write_text("secret")
    hidden = [str(tmp_path / name) for name in (".ssh", ".aws", ".netrc", ".kube")]
    dirs, files = workspace.masks([Mount(str(tmp_path), "/in")], hidden)
    assert dirs == ("/in/.ssh", "/in/keys")
    assert files == ("/in/.netrc",)


def test_a_mount_of_credentials_is_denied(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "innocent").symlink_to(tmp_path / ".ssh")
    for source in (".ssh", "innocent"):
        with pytest.raises(Denied, match="credentials"):
            workspace.check_mounts([Mount(str(tmp_path / source), "/x")], [str(tmp_path / ".ssh")])


@pytest.mark.parametrize("target", ["/", "/usr", "/etc", "/dev", "/tmp", "/dlenv", "/dlenv/run", "/a/../etc"])
def test_targets_that_the_container_needs_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidRequest, match="target"):
        workspace.check_mounts([Mount(str(tmp_path), target)], [])


def test_a_missing_source_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("missing", "file"):
        with pytest.raises(InvalidRequest, match=name):
            workspace.check_mounts([Mount(str(tmp_path / name), "/x")], [])


def test_a_link_that_leaves_the_mounts_is_named(tmp_path: Path) -> None:
    root, data = tmp_path / "root", tmp_path / "data:1"
    root.mkdir()
    data.mkdir()
    (root / "data").symlink_to(data)
    (root / "within").symlink_to(root)
    mounts = [Mount(str(root), str(root))]
    assert workspace.leaving_link(str(root / "data" / "x.csv"), mounts) == (str(root / "data"), str(data))
    assert workspace.leaving_link(str(root / "within"), mounts) is None
    assert workspace.leaving_links(root, mounts) == [(str(root / "data"), str(data))]
    assert workspace.link_hint(str(data)) == f"--mount 'src={data},dst={data}'"
    assert workspace.leaving_link(str(root / "data"), [*mounts, Mount(str(data), str(data))]) is None


def test_own_mounts_come_before_defaults() -> None:
    own, default, other = Mount("/mine", "/data"), Mount("/theirs", "/data"), Mount("/more", "/more")
    chosen = placement.user_mounts(Path("/root"), [default, other], [own])
    assert chosen == (Mount("/root", "/root"), own, other)


def test_variables_are_an_allow_list() -> None:
    env = workspace.container_env(
        image_env={"PATH": "/opt/bin"},
        user="alice",
        packages=workspace.PythonPackages(user_site=True, minor="3.11"),
        environ={
            "JUPYTERHUB_API_TOKEN": "x",
            "SSH_AUTH_SOCK": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "TZ": "Asia/Shanghai",
        },
    )
    assert not {"JUPYTERHUB_API_TOKEN", "SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY"} & set(env)
    assert (env["TZ"], env["HOME"], env["USER"], env["PIP_USER"]) == ("Asia/Shanghai", "/dlenv/home", "alice", "1")
    assert env["PATH"] == "/opt/bin:/dlenv/packages/bin"


def test_a_venv_gets_its_packages_by_a_prefix_before_the_image_s_own_path() -> None:
    packages = workspace.PythonPackages(user_site=False, minor="3.9")
    env = workspace.container_env(image_env={"PYTHONPATH": "/app"}, user="a", packages=packages, environ={})
    site, compiled = (f"/dlenv/packages/{lib}/python3.9/site-packages" for lib in ("lib", "lib64"))
    assert (env["PIP_PREFIX"], env["PYTHONPATH"]) == ("/dlenv/packages", f"{site}:{compiled}:/app")
    assert env["DLENV_PACKAGES_PATH"] == site
    assert not {"PIP_USER", "PIP_TARGET"} & set(env)


def test_an_image_s_own_cache_folders_stay() -> None:
    env = workspace.cache_env({"HF_HOME": "/models"})
    assert "HF_HOME" not in env
    assert (env["TORCH_HOME"], env["PIP_CACHE_DIR"]) == ("/dlenv/cache/torch", "/dlenv/cache/pip")


def test_a_moved_cache_is_one_folder_a_person(tmp_path: Path) -> None:
    uid = 4321 if os.geteuid() == 0 else os.geteuid()
    who = Identity(uid, uid, (), "alice")
    path = placement.shared_cache(str(tmp_path / "big" / "disk"), who)
    assert path == tmp_path / "big" / "disk" / f"uid-{uid}"
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (uid, 0o700)
    assert placement.shared_cache(str(tmp_path / "big" / "disk"), who) == path


def test_a_cache_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    who = Identity(os.geteuid() or 4321, 0, (), "alice")
    (tmp_path / "else").mkdir()
    (tmp_path / f"uid-{who.uid}").symlink_to(tmp_path / "else")
    with pytest.raises(Denied, match="rule: cache"):
        placement.shared_cache(str(tmp_path), who)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="cannot be made"):
        placement.shared_cache(str(tmp_path / "file"), who)


def test_pip_configuration_leaves_paths_and_passwords_out() -> None:
    text = (
        "[global]\nindex-url = https://mirror.example/simple\n"
        "extra-index-url = https://u:p@private.example/simple\n file:///local\ncert = /etc/ca.pem\n"
    )
    assert placement.pip_config([text]) == "[global]\nindex-url = https://mirror.example/simple\n"
    assert placement.pip_config(["not an ini"]) == ""
    variables = {
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://u:p@x.example/",
        "PIP_CERT": "/c",
    }
    assert placement.pip_variables(variables) == {"PIP_INDEX_URL": "https://mirror.example/simple"}


def test_identity_follows_the_daemon() -> None:
    caller = Identity(1000, 1000, (44,), "alice")
    assert identity.identity([], caller) == caller
    assert identity.identity(["seccomp", "rootless"], caller) == Identity(0, 0, (), "alice")
    with pytest.raises(Denied, match="remaps"):
        identity.identity(["userns"], caller)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for somebody else")
def test_root_acts_for_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 4322)
    assert identity.caller_identity(tmp_path) == Identity(4321, 4322, (), "dlenv")
    assert identity.caller_identity(tmp_path, "nobody").user == "nobody"


def test_groups_that_stand_for_root_do_not_pass() -> None:
    assert 0 not in identity.harmless_groups([0, 5, 12345], 12345)
    assert identity.harmless_groups([12345, 54321], 54321) == (12345,)


def test_passwd_gets_a_line_only_where_the_image_lacks_it() -> None:
    image = "root:x:0:0:root:/root:/bin/sh\nalice:x:7:7::/:/bin/sh\n"
    assert identity.passwd_text(image, Identity(0, 0), "/h") is None
    text = identity.passwd_text(image, Identity(1000, 100, (), "alice"), "/h")
    assert text is not None
    assert text.splitlines()[-1] == "dlenv1000:x:1000:100::/h:/bin/sh"
