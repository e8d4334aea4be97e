"""Metrics: found in what frameworks really print, kept, read again and thinned."""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any

import pytest

from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.jobs import metrics, tables
from jupyter_dlenv.jobs.metrics import MOST_PATTERNS, MetricReader, Row
from jupyter_dlenv.jobs.plots import Plot
from jupyter_dlenv.jobs.tables import HEADER, Kept, csv_lines, read_csv


def rows_of(text: str, *patterns: str) -> list[Row]:
    """Return the rows of a whole log."""
    return MetricReader(patterns).feed(text.encode() + b"\n")


def only(text: str, *patterns: str) -> tuple[float | None, float | None, dict[str, float]]:
    """Return epoch, step and values of a log's one row."""
    (row,) = rows_of(text, *patterns)
    return row.epoch, row.step, dict(row.values)


BAR = (
    "\x1b[1m469/469\x1b[0m \x1b[32m━━━━━━━━━━\x1b[0m\x1b[37m\x1b[0m "
    "\x1b[1m2s\x1b[0m 3ms/step - accuracy: 0.8812 - loss: 0.421"
)


@pytest.mark.parametrize(
    ("line", "epoch", "step", "values"),
    [
        ("Train Epoch: 1 [49920/60000 (83%)]\tLoss: 0.195172", 1, 49920, {"loss": 0.195172}),
        (
            "Test set: Average loss: 0.0267, Accuracy: 9912/10000 (99%)",
            None,
            None,
            {"test_loss": 0.0267, "test_accuracy": 0.9912},
        ),
        (
            "1500/1500 [==============================] - 2s 1ms/step - loss: 0.2 - accuracy: 0.9 - val_loss: 1.5e-3",
            None,
            1500,
            {"loss": 0.2, "accuracy": 0.9, "val_loss": 0.0015},
        ),
        (BAR, None, 469, {"accuracy": 0.8812, "loss": 0.421}),
        ("epoch: 0, batch_id: 10, loss is: [0.69]", 0, 10, {"loss": 0.69}),
        ("step 10/938 - loss: 0.9 - acc: 0.8 - 12ms/step", None, 10, {"loss": 0.9, "acc": 0.8}),
        (
            "{'loss': 0.5, 'learning_rate': 1e-05, 'epoch': 0.5}",
            0.5,
            None,
            {"loss": 0.5, "learning_rate": 1e-05},
        ),
        (
            "Epoch 1:  50%|█████     | 10/20 [00:00<00:00, 100.2it/s, loss=0.3, v_num=1]",
            1,
            10,
            {"loss": 0.3},
        ),
        (
            "Epoch: [0][ 11/500]\tTime  0.512 ( 0.600)\tLoss 6.9e+00 (7.0e+00)\tAcc@1   0.50 (  0.20)",
            0,
            11,
            {"loss": 6.9, "acc@1": 0.5},
        ),
        ("Epoch [3/10], Step [100/938], Loss: 0.1234", 3, 100, {"loss": 0.1234}),
        ("INFO:tensorflow:loss = 0.5, step = 100 (0.3 sec)", None, 100, {"loss": 0.5}),
        ("step 200 reward=3.5 entropy=0.1", None, 200, {"reward": 3.5, "entropy": 0.1}),
        ("iter 5: loss 2.5, lr 1e-3", None, 5, {"loss": 2.5, "lr": 0.001}),
        ("2026-11-22 10:48:27,123 INFO loss: 0.25", None, None, {"loss": 0.25}),
        ("Val Loss: 0.3 Val Acc: 91.2%", None, None, {"val_loss": 0.3, "val_acc": 91.2}),
        ("Epoch 12 | Train Loss: 0.3 | Val Loss: 0.4", 12, None, {"train_loss": 0.3, "val_loss": 0.4}),
        ("epoch=2 train/loss=0.7 val/acc=0.9", 2, None, {"train/loss": 0.7, "val/acc": 0.9}),
        ('{"epoch": 1, "loss": "2.3"}', 1, None, {"loss": 2.3}),
        ("{'loss': np.float64(0.5)}", None, None, {"loss": 0.5}),
        ("loss: tensor(0.5, grad_fn=<NllLossBackward0>)", None, None, {"loss": 0.5}),
        ("loss: -1.5E+03.", None, None, {"loss": -1500.0}),
        (" 10%|#\r100%|## loss=1.25", None, None, {"loss": 1.25}),
        ("step 250: train loss 2.1, val loss 2.3", None, 250, {"train_loss": 2.1, "val_loss": 2.3}),
        ("validation loss 2.3, training_loss: 2.1", None, None, {"val_loss": 2.3, "train_loss": 2.1}),
        (
            "| end of epoch   1 | time: 35.12s | valid loss  5.53 | valid ppl   252.1",
            1,
            None,
            {"val_loss": 5.53, "val_ppl": 252.1},
        ),
        (
            "| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch 12.04 | loss  7.63 | ppl  2057.32",
            1,
            200,
            {"lr": 20, "loss": 7.63, "ppl": 2057.32},
        ),
        ("05/01 - Epoch(train) [1][ 50/938]  lr: 1.0e-02  loss: 0.5", None, 50, {"lr": 0.01, "loss": 0.5}),
        ("iter: 19  total_loss: 4.5  time: 0.35", None, 19, {"total_loss": 4.5}),
        (
            "epoch 1 node_acc: 0.9 memory_loss=1 data_time: 3 num_workers: 4",
            1,
            None,
            {"node_acc": 0.9, "memory_loss": 1},
        ),
        ("mIoU: 0.76", None, None, {"miou": 0.76}),
        ("loss: 1,234.5, acc: 0.5", None, None, {"loss": 1234.5, "acc": 0.5}),
        ("loss: 12,345,678", None, None, {"loss": 12345678}),
        ("F1 is: 0.5", None, None, {"f1": 0.5}),
        ("loss:1,acc:0.5", None, None, {"loss": 1, "acc": 0.5}),
        ("loss: \x1b[1m0.5\x1b[0m", None, None, {"loss": 0.5}),
    ],
)
def test_lines_that_frameworks_print(
    line: str, epoch: float | None, step: float | None, values: dict[str, float]
) -> None:
    assert only(line) == (epoch, step, values)


@pytest.mark.parametrize(
    "word", metrics._WORDS.replace("(?:uracy)?", "").replace("(?:or)?(?!_?(?:code|line))", "").split("|")
)
@pytest.mark.parametrize("line", ["{}: 0.5", "Val {}=0.5", "{} 0.5"])
def test_a_metric_alone_on_a_line(word: str, line: str) -> None:
    name = word.replace("?", "")
    if name in ("lr", "learning_rate", "grad_norm"):
        assert rows_of(line.format(name)) == []
        return
    for each in (name, name.upper(), name.title()):
        (row,) = rows_of(line.format(each))
        assert [*row.values.values()] == [0.5]


KERAS = "".join(
    "\b" * (len(f"{n}/5 [===...] - loss: 0.{n}") if n > 1 else 0) + f"\r{n}/5 [===...] - loss: 0.{n}"
    for n in range(1, 6)
)
PADDLE = "".join(
    "\b" * (60 if n > 1 else 0) + f"\rstep {n}/5 - loss: 0.{n} - acc: 0.{n} - 3ms/step" for n in range(1, 6)
)


@pytest.mark.parametrize(
    ("line", "step", "values"),
    [
        (KERAS, 5, {"loss": 0.5}),
        (PADDLE, 5, {"loss": 0.5, "acc": 0.5}),
        ("5/5 [=====] - loss: 0.5 - acc: 0.25" + "\b" * 50, 5, {"loss": 0.5, "acc": 0.25}),
        ("5/5 [=====] - loss: 0.5" + "\b" * 50 + "\r", 5, {"loss": 0.5}),
        (BAR + "\b" * 100, 469, {"accuracy": 0.8812, "loss": 0.421}),
        ("loss: 0.75\b\b25", None, {"loss": 0.25}),
        ("\b\b\bloss: 0.75|\b/\b ", None, {"loss": 0.75}),
    ],
)
def test_bars_that_go_back_by_backspaces(line: str, step: float | None, values: dict[str, float]) -> None:
    assert only(line)[1:] == (step, values)


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "Infinity"])
def test_numbers_that_are_none(text: str) -> None:
    (_epoch, _step, values) = only(f"iter 5: loss: {text}, lr: 0.1")
    assert str(values["loss"]) == str(float(text))
    assert values["lr"] == 0.1


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Epoch 3/10",
        "loss",
        "loss: info",
        "loss: 12:30",
        "access: 200",
        "listening on localhost:29500",
        "Step 5, port: 29500",
        "rank 0 step 7",
        "step 100 took 0.5s",
        "glossary: 5",
        "Downloading: 100%|#| 10/10 [00:00<00:00]",
        "[2] loss: 0.5",
        "[node 1] loss: 0.5",
        "[worker 1] loss: 0.5",
        "[ps 0] epoch 1 loss: 0.5",
        "error_code: 5",
        "the answer 5 of all: done",
        "loss: 0.5" + " " * 3000,
        "\0loss\0: \xff",
    ],
)
def test_lines_without_metrics(line: str) -> None:
    assert rows_of(line) == []


def test_an_epoch_holds_until_the_next() -> None:
    rows = rows_of("Epoch 1/2\nloss: 3\nloss: 2\nEpoch 2/2\n10/10 [====] - loss: 1")
    assert [(row.epoch, row.step, row.values["loss"]) for row in rows] == [(1, None, 3), (1, None, 2), (2, 10, 1)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_make_no_difference(size: int) -> None:
    data = "".join(f"Epoch {n // 10}\nstep {n} loss: 0.{n}\nnoise\n" for n in range(40)).encode()
    reader = MetricReader()
    rows = [row for at in range(0, len(data), size) for row in reader.feed(data[at : at + size])]
    assert rows == MetricReader().feed(data)
    assert len(rows) == 40


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert MetricReader().feed(b"\xff\xfe loss: 0.5 \xff\n")[0].values == {"loss": 0.5}


@pytest.mark.parametrize("patterns", [[], [r"loss: (?P<loss>\S+)"]])
def test_nothing_is_left_out_of_a_log_that_is_not_huge(patterns: list[str]) -> None:
    data = b"".join(b"epoch %d loss: %d acc: 1\n" % (n, n) for n in range(20_000))
    assert [row.values["loss"] for row in MetricReader(patterns).feed(data)] == [*range(20_000)]


@pytest.mark.parametrize("size", [99, 4000, 1 << 20])
def test_a_huge_log_is_sampled_alike_by_all(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_ALL_LINES", 500)
    data = b"".join(b"step %d loss: 0.5\n" % n for n in range(20_000))
    reader = MetricReader()
    rows = [row for at in range(0, len(data), size) for row in reader.feed(data[at : at + size])]
    assert [row.at for row in rows] == [row.at for row in MetricReader().feed(data)]
    assert rows[499].step == 499
    assert 500 < len(rows) < 1000
    assert {row.at >> 16 for row in rows} == {*range((len(data) >> 16) + 1)}


def test_lines_that_only_look_likely_are_looked_at_less_and_less() -> None:
    reader = MetricReader()
    for _turn in range(200):
        assert reader.feed(b"rank 0 step 7\n" * 1000) == []
    assert reader.feed(b"step 8 loss: 0.5\n")[0].values == {"loss": 0.5}


@pytest.mark.parametrize("word", ["step= ", "loss= ", "loss ", "epoch ", "1 loss: 2x "])
def test_a_line_of_a_stranger_costs_no_more_than_its_length(word: str) -> None:
    assert MetricReader().feed((word * (1 << 18)).encode() + b"\n") == []  # a square of that would be hours


def test_a_line_without_end_is_not_kept_whole() -> None:
    reader = MetricReader()
    for _turn in range(100):
        assert reader.feed(b"loss: 0.5 " * 10_000) == []
    assert len(reader._open) <= 1 << 16
    assert reader.feed(b"\nloss: 0.25\n")[0].values == {"loss": 0.25}


# --plot ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (r"reward: (?P<reward>\S+)", "reward: 3.5", (None, None, {"reward": 3.5})),
        (r"reward: (\S+)", "reward: 3.5,", (None, None, {"reward": 3.5})),
        (r"loss=([\d.]+)", "xloss=0.5", (None, None, {"loss": 0.5})),
        (r"\[(\d+)\]", "[7]", (None, None, {"value": 7.0})),
        (r"it (?P<step>\d+) e(?P<epoch>\d+) kl (?P<kl>\S+)", "it 5 e2 kl 1e-3", (2, 5, {"kl": 0.001})),
        (r"(?i)REWARD (?P<reward>\S+)", "reward nan?", None),
        (r"a (?P<a>\d+)(?: b (?P<b>\d+))?", "a 1", (None, None, {"a": 1.0})),
    ],
)
def test_patterns(pattern: str, line: str, found: Any) -> None:
    assert ([only(line, pattern)] if rows_of(line, pattern) else []) == ([found] if found else [])


@pytest.mark.parametrize(
    ("ranked", "named", "line", "found"),
    [
        (True, True, "[worker 1] loss: 0.5", ("worker 1", None, 0.5)),
        (True, True, "[node 1] loss: 0.5", ("node 1", None, 0.5)),
        (True, False, "[3] loss: 0.5", (3, None, 0.5)),
        (True, False, "[worker 1] loss: 0.5", (0, None, 0.5)),
        (False, False, "[3] loss: 0.5", (0, 3, 0.5)),
    ],
)
def test_whose_line_it_is(ranked: bool, named: bool, line: str, found: Any) -> None:
    for patterns in ([r"^(?:\[(?P<epoch>\d+)\] )?.*loss: (?P<loss>\S+)"], []):
        rows = MetricReader(patterns, ranked=ranked, named=named).feed(line.encode() + b"\n")
        seen = [(row.rank, row.epoch if patterns else found[1], row.values["loss"]) for row in rows]
        assert seen == ([found] if patterns or found[0] == 0 else [])


def test_a_pattern_that_was_given_up_is_told() -> None:
    reader = MetricReader([r"(?P<x>(a+)+)b", r"y (?P<y>\d)"])
    reader._plots[0].dropped = True
    assert reader.dropped == (r"(?P<x>(a+)+)b",)
    assert reader.names == ("x", "y")


def test_patterns_have_a_limit() -> None:
    with pytest.raises(InvalidRequest, match="33 times"):
        MetricReader([r"y (?P<y>\d)"] * (MOST_PATTERNS + 1))


def test_patterns_see_every_rank_and_the_usual_metrics_stay() -> None:
    rows = rows_of("[3] reward: 5\nloss: 0.5\nreward: 6 loss: 0.25", r"reward: (\S+)")
    assert [(row.rank, dict(row.values)) for row in rows] == [
        (3, {"reward": 5}),
        (0, {"loss": 0.5}),
        (0, {"reward": 6}),
    ]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(", "unterminated subpattern"),
        ("loss", "named groups"),
        (r"(\d+) (\d+)", "named groups"),
        ("(?P<x>" + "a" * 600 + ")", "longer than"),
        (r"(?P<x>a{99999999999})", "cannot be used"),
        (r"(?P<x>a{4000000})", "repeats come to more"),
        (r"(?P<x>(((((a{20}){20}){20}){20}){20}){20})", "repeats come to more"),
        (r"(?P<x>(?:ab|c){0,30000}?)", "repeats come to more"),
        (r"(?P<x>[ab]{30000,})", "repeats come to more"),
    ],
)
def test_bad_patterns_are_told(pattern: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        MetricReader([pattern])
    assert "--plot" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "needle"),
    [
        (r"reward: (\S+)", b"reward: "),
        (r"a+ mean (?P<x>\d+) end", b" mean "),
        (r"x\.y(?P<x>\d+)", b"x.y"),
        (r"(?P<x>\d+)", b""),
        (r"(?i)abc(?P<x>\d+)", b""),
        (r"ab?(?P<x>\d+)", b"a"),
        (r"a|b(?P<x>\d+)", b""),
        (r"奖励 (?P<x>\d+)", "奖励 ".encode()),
        (r"[abc]def(?P<x>\d+)", b"def"),
    ],
)
def test_the_plain_text_of_a_pattern(pattern: str, needle: bytes) -> None:
    assert Plot(pattern).needle == needle


def test_long_lines_are_not_searched() -> None:
    plot = Plot(r"r (?P<r>\d+)")
    assert plot.find("r 1" + " " * 2000) == {}
    assert plot.find("r 1") == {"r": "1"}
    assert not plot.dropped


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (r".*.*.*.*.*.*(?P<x>Z)b", "aZ" * 900),
        (r"(?P<x>(?:a?){40}a{40})c", "a" * 1000),
        (r"(?P<x>(a+)+)b", "a" * 1500),
        (r"((?P<x>a|aa)*)b", "a" * 1500),
        (r"(?P<x>(?:\w+\s?)*)!", "word " * 300),
        (r"(?P<x>[\d.]+[\d.]+[\d.]+[\d.]+[\d.]+)z", "1." * 900),
    ],
)
def test_no_pattern_holds_anybody_up(pattern: str, line: str) -> None:
    plot = Plot(pattern)
    begun = time.thread_time()
    for _line in range(20):
        plot.find(line)
    assert time.thread_time() - begun < 5  # and not until the end of the world


# Kept and shown -------------------------------------------------------------------------------------------------------

ROWS = [
    Row(0, 1, 0, {"loss": 0.5, "acc": 0.25}),
    Row(None, None, 3, {"loss": math.inf}),
    Row(10, 1.5, 0, {"loss": -math.inf, 'a,b "c"': 1e-05}),
    Row(10, 1.5, 0, {"loss": 2.0}),
    Row(10, 1.5, "worker 1", {"loss": 2.0}),
]


def test_what_was_written_is_read_again() -> None:
    assert [*read_csv(HEADER + csv_lines(ROWS))] == ROWS
    assert [*read_csv(HEADER + csv_lines(ROWS[:2]) + csv_lines(ROWS[2:]))] == ROWS
    assert [*Kept(ROWS).rows()] == ROWS
    (row,) = read_csv(csv_lines([Row(1, None, 0, {"loss": math.nan})]))
    assert math.isnan(row.values["loss"])


def test_the_file_is_plain() -> None:
    assert csv_lines(ROWS[:1]) == "1,0,0,loss,0.5\n1,0,0,acc,0.25\n"


@pytest.mark.parametrize("text", ["", HEADER, "1,2\n", "a,b,c,d,e\n", "1,0,0,loss,0.", "\0\0\0\n", ",,,,\n"])
def test_a_file_that_is_broken_gives_no_rows(text: str) -> None:
    assert [*read_csv(text)] == []


def test_a_half_written_line_is_left_out() -> None:
    assert [*read_csv("1,0,0,loss,0.5\n1,1,0,loss,0.")] == [Row(0, 1, 0, {"loss": 0.5})]


def test_a_table_is_json() -> None:
    made = Kept([*ROWS, Row(values={"loss": math.nan})]).table()
    assert made["columns"] == ["epoch", "step", "rank", "loss", "acc", 'a,b "c"']
    assert made["rows"][0] == [1, 0, 0, 0.5, 0.25, None]
    assert [row[3] for row in made["rows"]] == [0.5, "Infinity", "-Infinity", 2.0, 2.0, "NaN"]
    assert [row[2] for row in made["rows"]] == [0, 3, 0, 0, "worker 1", 0]
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_thinning_keeps_what_stands_out() -> None:
    rows = [Row(n, None, 0, {"loss": 100.0 - n / 1000}) for n in range(10_000)]
    rows[4321], rows[8765] = Row(4321, None, 0, {"loss": 1e9}), Row(8765, None, 0, {"loss": math.nan})
    thinned = Kept(rows).table(100)
    steps = [row[1] for row in thinned["rows"]]
    assert steps == sorted(steps)
    assert {0, 4321, 8765, 9999} <= set(steps)
    assert 90 < len(steps) <= 100


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_thinning_keeps_its_limit(most: int) -> None:
    kept = Kept(Row(n, None, 0, {f"acc{n % 7}": float(n)}) for n in range(50))
    assert len(kept.table(most)["rows"]) == most
    assert kept.table(50) == kept.table()
    assert kept.table(most)["total"] == 50


def test_names_have_a_limit() -> None:
    lines = [f"epoch {n} " + " ".join(f"a{n}x{i}=1" for i in range(50)) for n in range(100)]
    reader = MetricReader([r"kl (?P<kl>\d+)"])
    kept = Kept(reader.feed("\n".join([*lines, "loss: 0.5", "kl 3", ""]).encode()), reader.names)
    made = kept.table()
    assert kept.left_out
    assert made["columns"][-2:] == ["loss", "kl"]
    assert len(made["columns"]) < 70
    again = Kept(read_csv(csv_lines(kept.rows())), reader.names)
    assert again.table()["columns"] == made["columns"]
    assert not again.left_out
    assert len(Kept(Row(0, 0, n, {"loss": 1.0}) for n in range(5000)).table(10_000)["rows"]) == 1024


def test_more_numbers_than_there_is_room_for_are_thinned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_NUMBERS", 1000)
    rows = [
        Row(n, None, 0, {"loss": float(n), "lr": 0.5} if n % 1000 else {"val_loss": float(n), "loss": float(n)}, 20 * n)
        for n in range(9999)
    ]
    kept, whole = Kept(), Kept(rows)
    assert not kept.thinned
    for at in range(0, len(rows), 7):
        kept.add(rows[at : at + 7])
    assert [*kept.rows()] == [*whole.rows()]
    assert kept.thinned
    steps = [row.step for row in kept.rows() if "loss" in row.values and row.step is not None]
    assert steps == sorted(steps)
    assert steps[-1] == 9998
    assert 200 < len(steps) < 1000
    assert max(after - before for before, after in itertools.pairwise(steps)) < 60
    assert [row.values["val_loss"] for row in kept.rows() if "val_loss" in row.values] == [*range(0, 9999, 1000)]
    made = kept.table(100)
    assert made["columns"][3:] == ["val_loss", "loss", "lr"]
    assert made["rows"][-1] == [None, 9998, 0, None, 9998, 0.5]
