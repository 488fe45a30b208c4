"""The command `python -m numbadw bench`: rows, files, charts and the README's table."""

import io
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from numbadw.bench import charts, cold, command, report, results, table, tasks, worker
from numbadw.bench.bar import Bar
from numbadw.bench.ceilings import Ceilings
from numbadw.bench.passes import FORWARD, GRADIENTS, PASSES
from numbadw.bench.peers import PEERS
from numbadw.bench.results import Row, Run
from numbadw.bench.workloads import Workload

ROOT = Path(__file__).resolve().parents[1]
LAYER = "mobilenet_v1-7x7x1024-k3x3-s1"
PNG = b"\x89PNG\r\n"


def make_row(name, threads=1, group=tasks.LAYERS, kind=FORWARD, n=1, **peers):
    """Make a row of which we took 2 us, with peers' times in microseconds."""
    ours = PASSES[kind].ours
    seconds = dict.fromkeys(ours, 2e-6) | {k: v * 1e-6 for k, v in peers.items()}
    workload = Workload(name, n, 8, 8, 32, 3, 3)
    return Row(
        group,
        workload.id,
        kind,
        threads,
        ours,
        seconds,
        workload.flops,
        workload.needed,
        workload.bytes,
        1e-6,
        workload,
        ("opencv: no",),
    )


@pytest.fixture
def run():
    """Give a run with a win, a loss, batches, gradients and a start, on 1 and 2."""
    limits = [Ceilings(n, n * 1e11, ((1 << 14, 9e10, 8e10),)) for n in (1, 2)]
    rows = []
    for n in (1, 2):
        rows += [
            make_row("mobilenet_v1", n, litert=4, jax=80),
            make_row("convnext_t", n, litert=1),
            make_row("mobilenet_v1", n, tasks.BATCHES, n=8, litert=8),
            make_row("mobilenet_v1", n, tasks.TRAINING, GRADIENTS, torch_contiguous=6),
        ]
    start = {"numbadw": 0.5, "scipy": 0.1}
    rows.append(Row(tasks.COLD, "import", tasks.COLD, 2, ("numbadw",), start))
    machine = {"cpu": "A CPU", "cpus allowed": "2", "system": "Linux", "python": "3.12"}
    machine |= {"numbadw": "1", "numba": "0.68"}
    line = "python -m numbadw bench --json run.json"
    missing = {"scipy": "scipy is not installed; pip install 'scipy'"}
    return Run(line, "2030-01-02", "cpu", machine, missing, limits, rows, 0.25)


def test_row_is_compared_with_the_best_peer():
    row = make_row("small", litert=4, jax=80)
    assert (row.best_peer, row.ratio, row.share) == ("litert", 2, 0.5)
    assert row.peers == pytest.approx({"litert": 4e-6, "jax": 8e-5})
    alone = make_row("small")
    assert alone.best_peer is None
    assert not alone.lost
    near, lost = make_row("small", litert=1.991), make_row("small", litert=1.989)
    assert (near.lost, lost.lost) == (False, True)
    assert alone.ratio != alone.ratio


def test_lines_show_rates_and_losses():
    row = make_row("small", litert=1)
    cells = table.line(row, 30).split()
    rates = [row.flops / 2e3, row.bytes / 2e3]
    assert [float(cell) for cell in cells[3:5]] == pytest.approx(rates, 5e-3)
    assert cells[5:] == ["50%", "1.00", "us", "0.50", "litert", "LOSS", *cells[11:]]
    assert " ".join(cells[11:]) == "(function 2.00 us, function_16 2.00 us)"
    assert "LOSS" not in table.line(make_row("small", litert=2), 30)
    start = Row(tasks.COLD, "import", tasks.COLD, 1, ("numbadw",), {"numbadw": 0.25})
    assert table.line(start, 8).split() == ["import", "250", "ms", "-", "-", "-"]


def test_summary_names_means_and_losses(run):
    text = "\n".join(table.summary(run, 1))
    assert "layers: geometric mean 1.00, 0.50 to 2.00, 1 of 2 lost" in text
    assert "\n    convnext_t-8x8x32-k3x3-s1: 0.50 (litert)\n" in text
    assert "litert: forward 1.59 (3 rows)" in text
    assert "jax: forward 40.00 (1 rows)" in text
    assert "torch_contiguous: gradients 3.00 (1 rows)" in text


def test_runs_are_compared(run):
    other = Run(**{**vars(run), "rows": [make_row("convnext_t", litert=2)]})
    (line,) = table.compare(run, other)[1:]
    assert line == "  layers, 1 thread: 1.00 -> 1.00 (+0%)"


def test_json_holds_the_whole_run(run, tmp_path):
    path = tmp_path / "run.json"
    results.save(run, path)
    assert results.load(path) == run
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    with pytest.raises(ValueError, match="is no run of"):
        results.load(path)


@pytest.mark.parametrize(
    ("options", "kind", "name"),
    [
        ("", FORWARD, LAYER),
        ("--pass gradients --batch 3", GRADIENTS, f"{LAYER}-n3"),
        ("--pass kernel_grad", "kernel_grad", LAYER),
    ],
)
def test_command_measures_without_peers(options, kind, name, capsys, tmp_path):
    path = tmp_path / "run.json"
    line = f"--filter {LAYER} --threads 1 --rounds 1 --peers= {options}"
    if not options:
        line += " --pass forward"
    assert command.main([*line.split(), "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^{name} .* us .*%", printed, re.MULTILINE)
    (row,) = results.load(path).rows
    assert (row.name, row.kind, row.threads, row.peers) == (name, kind, 1, {})
    assert list(row.seconds) == list(PASSES[kind].ours)
    assert all(0 < seconds < 1 for seconds in row.seconds.values())
    assert row.least > 0


def test_what_was_measured_before_ctrl_c_is_kept(run, monkeypatch, capsys, tmp_path):
    def start(job):
        yield "ceilings", asdict(run.ceilings[0])
        yield "row", asdict(run.rows[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "start_job", start)
    path = tmp_path / "run.json"
    assert command.main(["--threads", "1", "--json", str(path)]) == 0
    assert results.load(path).rows == run.rows[:1]
    assert "stopped; this is what was measured" in capsys.readouterr().err


def test_command_reports_a_run_from_its_file(run, capsys, tmp_path):
    source, readme = tmp_path / "run.json", tmp_path / "README.md"
    results.save(run, source)
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    charted = tmp_path / "charts"
    line = ["--from-json", source, "--readme", readme, "--plot", charted]
    line += ["--compare", source]
    assert command.main([str(word) for word in line]) == 0
    printed = capsys.readouterr().out
    assert "missing: scipy: scipy is not installed; pip install 'scipy'" in printed
    assert "left out: opencv: no" in printed
    assert "Disturbed: 25% of its time the measuring" in printed
    assert "layers, 2 threads: 1.00 -> 1.00 (+0%)" in printed
    assert readme.read_text().startswith("before\n<!-- speed:begin -->\n![")
    assert readme.read_text().endswith("<!-- speed:end -->\nafter\n")
    names = {"speed_forward.png", "speed_gradients.png", "roofline.png", "scaling.png"}
    assert {path.name for path in charted.iterdir()} == names
    for path in [*charted.iterdir(), tmp_path / report.CHART]:
        assert path.read_bytes().startswith(PNG)


def test_report_needs_markers(run, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(report.BEGIN)
    with pytest.raises(ValueError, match="must hold the markers"):
        report.write(run, path)


def test_table_shows_losses_and_means(run):
    text = report.block(run)
    assert "| mobilenet_v1-8x8x32-k3x3-s1 | 2.00 | litert 4.00 | 2.00 | 2.00 |" in text
    assert "| 2.00 | litert 1.00 | 0.50 **LOSS** | 2.00 | litert 1.00 | 0.50 **" in text
    assert "| **layers**, geometric mean |  | 1 of 2 lost | **1.00** |" in text
    assert "| **gradients**, geometric mean |  | 0 of 1 lost | **3.00** |" in text
    assert "cold start" not in text
    assert " Disturbed: 25% of its time" in text
    run.waited = 0.01
    assert "Disturbed" not in report.block(run)
    check_shape(text)


def test_readme_has_the_shape_that_the_report_writes():
    text = (ROOT / "README.md").read_text(encoding="ascii")
    block = text.partition(report.BEGIN)[2].partition(report.END)[0]
    check_shape(block.strip())
    chart = (ROOT / report.CHART).read_bytes()
    assert chart.startswith(PNG)
    assert len(chart) < 100_000


def check_shape(block):
    """Check a block of a README: chart, table, then where and how it was measured."""
    lines = block.splitlines()
    assert re.fullmatch(rf"!\[.+\]\({report.CHART.as_posix()}\)", lines[0])
    first, dashes, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    threads = [int(cell.split()[0]) for cell in first[1::3]]
    assert first == report.heads(threads)
    assert len(dashes) == len(first)
    assert rows
    for row in rows:
        assert len(row) == len(first)
        for ratio in row[3::3]:
            number = re.match(r"[*\d]*(\d+\.\d\d)", ratio)
            assert number, row
            mean = ratio.startswith("**")
            lost = float(ratio.split()[0].strip("*")) < 1
            assert mean or lost == ratio.endswith(report.LOSS), row
    facts = r"Ratio: .* a loss\. .+, \d+ cores \(.+ GFLOP/s and .+ GB/s on .+\), .+, "
    facts += r"\d{4}-\d\d-\d\d, python .+, numbadw .+, numba .+\. "
    assert re.fullmatch(
        facts + r"Made by `python -m numbadw bench.*`\.( Disturbed: .*)?", lines[-1]
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_is_drawn_where_somebody_looks(monkeypatch, capsys):
    steps = []
    shown = SimpleNamespace(
        clear=lambda: steps.append("clear"),
        refresh=lambda: steps.append("refresh"),
        update=lambda: steps.append("update"),
        close=lambda: steps.append("close"),
    )
    module = SimpleNamespace(tqdm=lambda **options: shown)
    monkeypatch.setitem(sys.modules, "tqdm", module)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bar(2) as bar:
        bar.say("a row")
        bar.step("name")
    assert steps == ["clear", "refresh", "update", "close"]
    assert capsys.readouterr().out == "a row\n"


@pytest.mark.parametrize(
    ("kind", "lines"), [(Terminal, "[1/2] name\n"), (io.StringIO, "")]
)
def test_rows_are_counted_in_lines_without_tqdm(kind, lines, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", errors := kind())
    with Bar(2) as bar:
        bar.say("a row")
        bar.step("name")
    assert errors.getvalue() == lines
    assert capsys.readouterr().out == "a row\n"


def test_every_peer_has_a_colour_of_its_own():
    assert set(charts.COLOURS) == set(PEERS)
    assert len({charts.OUR_COLOUR, *charts.COLOURS.values()}) == len(PEERS) + 1


def test_chart_shows_every_colour(run, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    row = make_row("small", **dict(zip(PEERS, range(3, 99, 4), strict=False)))
    path = tmp_path / "speed.png"
    charts.draw_speed([row], run, path)
    with image.open(path) as picture:
        drawn = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for colour in (charts.OUR_COLOUR, *charts.COLOURS.values()):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(drawn - wanted).sum(1).min() < 12, colour


def test_cold_start_is_measured_in_new_processes():
    rows = cold.cold_rows(["scipy"], 1, 0.1)
    states = ("nothing cached", "cached")
    names = [
        f"{what}, {state}" for state in states for what in (cold.FIRST, cold.FURTHER)
    ]
    assert [row.name for row in rows] == [cold.IMPORT, *names]
    assert list(rows[0].seconds) in (["numbadw", "scipy"], ["numbadw"])
    times = {row.name: row.time for row in rows}
    assert times["first call, cached"] < times["first call, nothing cached"]
    assert times["further kernel, cached"] < times["further kernel, nothing cached"]


@pytest.mark.parametrize(
    ("times", "alone", "expected"),
    [
        ([30, 9], {"": 10.0}, 9.0),  # the pause helped
        ([30, 40, 20, 5], {"": 10.0}, 20.0),  # not enough, and no fourth time
        ([12], {"": 10.0}, 12.0),  # some longer than on one thread
        ([30], {}, 30.0),  # which nobody measured
    ],
)
def test_rows_in_which_all_peers_are_held_up_are_measured_again(
    times, alone, expected, monkeypatch
):
    task = tasks.Task("layers", FORWARD, Workload("small", 1, 8, 8, 4, 3, 3))
    ours, given = PASSES[FORWARD].ours, iter(times)

    def measure(self, peers, budget, many):
        taken = next(given)
        return dict.fromkeys(ours, 1.0) | {"litert": float(taken)}, ()

    monkeypatch.setattr(worker.Sittings, "measure", measure)
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(worker, "missing_peers", lambda *arguments: {})
    events = []
    known = {f"{FORWARD} {task.workload.id}": v for v in alone.values()}
    job = worker.Job("cpu", 1, (task,), ("litert",), 1, 0.0, known)
    worker.run_job(job, lambda name, value: events.append((name, value)))
    (row,) = [value for name, value in events if name == "row"]
    assert row["seconds"] == dict.fromkeys(ours, 1.0) | {"litert": expected}
    assert list(given) == times[3:]  # three times at most


def test_what_peers_take_alone_is_known_by_row():
    one, two = make_row("a", litert=9, jax=7), make_row("a", threads=2, litert=5)
    run = Run("", "", "cpu", {}, rows=[one, two, make_row("b")])
    assert run.alone == {f"{FORWARD} {one.name}": 7e-6}


def test_failed_process_tells_what_it_wrote():
    task = tasks.Task("layers", "sideways", Workload("small", 1, 8, 8, 4, 3, 3))
    job = worker.Job("cpu", 1, (task,), (), 1, 0.0)
    with pytest.raises(worker.WorkerError, match="KeyError: 'sideways'"):
        list(worker.start_job(job))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--pass backward", "invalid choice: 'backward'"),
        ("--batch 0", "--batch must be at least 1, got 0"),
        ("--rounds 0", "--rounds must be at least 1, got 0"),
        ("--threads 0", r"--threads must be 1 to \d+ here, got 0"),
        ("--threads 9999", r"--threads must be 1 to \d+ here, got 9999"),
        ("--peers torch", "peers are torch_channels_last, "),
        ("--pass gradients --peers litert", "jax; got 'litert'"),
        ("--backend abacus", "invalid choice: 'abacus'"),
    ],
)
def test_wrong_options_are_explained(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(line.split())
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--filter nowhere", "no workload has 'nowhere' in its name"),
        ("--from-json no_such_file", "FileNotFoundError: "),
    ],
)
def test_what_cannot_be_measured_is_explained(line, message, capsys):
    assert command.main(line.split()) == 1
    assert message in capsys.readouterr().err
