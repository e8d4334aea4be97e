"""One table of options for the magic, the command line and the API."""

from __future__ import annotations

import pytest

from jupyter_dlenv.errors import InvalidRequest, UnknownOption
from jupyter_dlenv.options import OPTIONS, RunRequest, parse_run, request_from_json, usage

DOCUMENTED = """
--gpus --nproc --nodes --image --launcher --engine --memory --cpus --shm-size --mount --network -e --servers --workers
--name --detach --retries --timeout --plain --plot --notify --debug --shared --gpu-memory --dry-run -m
--node-rank --master --rdma
"""


def test_a_whole_line_is_read() -> None:
    words = [
        "train.py",
        "--nproc",
        "2",
        "--image",
        "a/b:1",
        "--memory=8g",
        "--cpus",
        "1.5",
        "--mount",
        "/a:/b",
        "--mount",
        "/c:/d:ro",
        "--network",
        "none",
        "-e",
        "A=1",
        "-e",
        "B",
        "--timeout",
        "60",
        "--name",
        "run",
        "--detach",
        "--plain",
        "--",
        "--lr",
        "0.1",
        "--gpus",
        "x",
    ]
    options = parse_run(words, environ={"B": "secret"}, cwd="/w")
    assert options.request == RunRequest(
        request_id=options.request.request_id,
        script="train.py",
        args=("--lr", "0.1", "--gpus", "x"),
        cwd="/w",
        nproc=2,
        image="a/b:1",
        memory="8g",
        cpus=1.5,
        mounts=("/a:/b", "/c:/d:ro"),
        network="none",
        env={"A": "1"},
        secrets={"B": "secret"},
        timeout=60,
        name="run",
    )
    assert (options.detach, options.plain) == (True, True)


def test_the_options_of_several_nodes_are_read() -> None:
    words = ["train.py", "--nodes", "2", "--node-rank", "0", "--master", "gpu-1:29500", "--rdma"]
    words += ["--servers", "1", "--workers", "2", "--retries", "3"]
    more = ["--plot", "loss=(?P<loss>.*)", "--plot", "x (.*)", "--notify", "beep", "--debug", "1"]
    request = parse_run([*words, *more], cwd="/w").request
    assert request == RunRequest(
        request_id=request.request_id,
        script="train.py",
        cwd="/w",
        nodes=2,
        node_rank=0,
        master="gpu-1:29500",
        rdma=True,
        servers=1,
        workers=2,
        retries=3,
        plot=("loss=(?P<loss>.*)", "x (.*)"),
        notify="beep",
        debug="1",
    )


@pytest.mark.parametrize(
    ("words", "rank"), [(["--debug", "a.py"], "0"), (["a.py", "--debug"], "0"), (["--debug=3", "a.py"], "3")]
)
def test_the_rank_to_debug_may_be_left_out(words: list[str], rank: str) -> None:
    request = parse_run(words).request
    assert (request.debug, request.script) == (rank, "a.py")


def test_a_module_is_read() -> None:
    assert parse_run(["-m", "pkg.train"], cwd="/w").request.module == "pkg.train"


@pytest.mark.parametrize(("flag", "near"), [("--nporc", "--nproc"), ("--gpu", "--gpus"), ("--mounts", "--mount")])
def test_an_unknown_option_names_the_nearest(flag: str, near: str) -> None:
    with pytest.raises(UnknownOption, match=flag) as caught:
        parse_run(["a.py", flag, "2"])
    assert f"{near}?" in caught.value.hint
    assert f"a.py -- {flag} 2" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train.py", "--lr", "0.1"], "train.py -- --lr 0.1"),
        (["-m", "pkg.train", "--quick", "--nproc", "2"], "-m pkg.train -- --quick"),
        (["--lr", "0.1", "train.py"], ""),
    ],
)
def test_an_option_behind_the_script_may_be_the_script_s(words: list[str], line: str) -> None:
    with pytest.raises(UnknownOption) as caught:
        parse_run(words)
    assert (line in caught.value.hint) if line else (" -- " not in caught.value.hint)


VALUED = [option.flag for option in OPTIONS if option.read]


@pytest.mark.parametrize("flag", VALUED)
def test_an_empty_value_is_none_that_was_given(flag: str) -> None:
    with pytest.raises(InvalidRequest, match=r"empty|takes"):
        parse_run([*([] if flag == "-m" else ["a.py"]), flag, ""])
    if flag.startswith("--"):
        with pytest.raises(InvalidRequest, match="empty value"):
            parse_run(["a.py", f"{flag}="])


@pytest.mark.parametrize(
    "words",
    [
        ["a.py", "--nproc"],
        ["a.py", "--nproc", "0"],
        ["a.py", "--nproc", "2x"],
        ["a.py", "--nodes", "0"],
        ["a.py", "--node-rank", "-1"],
        ["a.py", "--retries", "many"],
        ["a.py", "--debug=x"],
        ["a.py", "--cpus", "nan"],
        ["a.py", "--network", "container:x"],
        ["a.py", "b.py"],
        ["a.py", "-m", "pkg"],
        ["-m", "pkg", "a.py"],
        ["-m", "pkg", "-m", "other"],
        ["-m", "pkg", "--detach=1"],
        [""],
        ["a.py", "--servers", "0"],
        ["a.py", "--workers", "0"],
        ["a.py", "-e", "NOT_SET_ANYWHERE"],
        ["a.py", "-e", "=x"],
        ["a.py", "-e", "A\0B=x"],
        ["a.py", "-e", "A=x\0"],
    ],
)
def test_bad_values_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        parse_run(words, environ={})


def test_only_documented_options_exist() -> None:
    assert {option.flag for option in OPTIONS} <= set(DOCUMENTED.split())
    assert all(option.flag in usage("%dlrun") for option in OPTIONS)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"nproc": True},
        {"nproc": -1},
        {"nproc": "2"},
        {"args": "x"},
        {"env": {"A": 1}},
        {"uid": 0},
        {"script": 1},
        {"dry_run": "yes"},
        {"nodes": 0},
        {"nodes": True},
        {"node_rank": -1},
        {"retries": 1.5},
        {"plot": "x"},
        {"rdma": 1},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"timeout": 10**400},
        {"nproc": 10**400},
        {"cpus": 10**400},
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"env": {"A\0": "1"}},
        {"secrets": {"A": "\0"}},
        {"script": "a\0.py"},
        {"script": "\ud800.py"},
        {"script": "a" * 256},
        {"script": "a/" * 2048},
        {"script": "a/" * 2000, "cwd": "/" + "b/" * 200},
        {"module": "a" * 256},
        {"cwd": "/" + "a" * 5000},
        {"args": ["\0"]},
    ],
)
def test_api_bodies_are_checked(body: object) -> None:
    with pytest.raises(InvalidRequest):
        request_from_json(body)


@pytest.mark.parametrize(
    "body",
    [
        {"secrets": {"TOKEN": "s3cr3t", "PORT": 8080}},
        {"secrets": "s3cr3t"},
        {"env": {"TOKEN": "s3cr3t", "PORT": None}},
        {"mounts": "cifs://me:s3cr3t@nas/share:/data"},
        {"args": ["--token", "s3cr3t", 1]},
    ],
)
def test_a_refused_body_s_secrets_are_not_told(body: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(body))) as caught:
        request_from_json(body)
    assert "s3cr3t" not in f"{caught.value}{caught.value.hint}"


def test_an_api_body_is_read() -> None:
    request = request_from_json({"script": "a.py", "args": ["x"], "nproc": 2})
    assert (request.script, request.args, request.nproc) == ("a.py", ("x",), 2)
