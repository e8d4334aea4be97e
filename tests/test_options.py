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
    words += ["--servers", "1", "--workers", "0", "--retries", "3"]
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
        workers=0,
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
        ["a.py", "-m", "pkg", "--detach=1"],
        ["a.py", "-e", "NOT_SET_ANYWHERE"],
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
    ],
)
def test_api_bodies_are_checked(body: object) -> None:
    with pytest.raises(InvalidRequest):
        request_from_json(body)


def test_an_api_body_is_read() -> None:
    request = request_from_json({"script": "a.py", "args": ["x"], "nproc": 2})
    assert (request.script, request.args, request.nproc) == ("a.py", ("x",), 2)
