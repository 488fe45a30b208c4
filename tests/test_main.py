"""The commands of `python -m numbadw`, and the demo behind one of them."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

import numbadw as ndw
from numbadw import __main__ as commands
from numbadw import demo
from numbadw.bench import command


def run_once(callables, **options):
    for call in callables.values():
        call()
    return dict.fromkeys(callables, 1e-3)


class TestDemo:
    @pytest.fixture(autouse=True)
    def libraries(self):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        pytest.importorskip("scipy", reason="scipy is not installed")

    def test_bank_runs_every_filter_on_every_channel(self):
        bank = demo.filter_bank(3)
        assert bank.shape == (3, 3, 3, len(demo.FILTERS))
        np.testing.assert_allclose(bank.sum((0, 1)), [[1, 1, 0, 0]] * 3)
        for c in range(3):
            np.testing.assert_array_equal(bank[:, :, c, 2], demo.FILTERS["Sobel x"])
            np.testing.assert_array_equal(bank[:, :, c, 3], bank[:, :, c, 2].T)

    def test_photo_agrees_with_scipy(self, monkeypatch):
        monkeypatch.setattr(demo, "interleaved", run_once)
        image = demo.load_photo()
        assert image.dtype == np.float32
        assert image.shape[-1] == 3
        assert 0 <= image.min() < 0.1 < 0.9 < image.max() <= 1
        photo = demo.filter_photo(image[:, :60, :50])
        assert photo.filtered.shape == (1, 60, 50, 12)
        assert photo.difference < 1e-5

    def test_writes_a_sheet_and_a_table(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(demo, "interleaved", run_once)
        path = tmp_path / "sheet.png"
        assert commands.main(["demo", "--output", str(path)]) == 0
        assert path.read_bytes().startswith(b"\x89PNG")
        printed = capsys.readouterr()
        assert "scipy.ndimage.correlate, same result: 1 ms" in printed.out
        assert printed.out.count("GFLOP/s") == 9
        assert "compiling the filters" in printed.err

    def test_says_what_is_missing(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert commands.main(["demo"]) == 1
        printed = capsys.readouterr().err
        assert "needs matplotlib and scipy" in printed
        assert 'pip install "numbadw[plot]"' in printed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 us"), (999e-6, "999 us")],
)
def test_times_have_units(seconds, text):
    assert demo._time(seconds) == text


def test_bench_passes_its_options_on(monkeypatch):
    seen = []
    monkeypatch.setattr(command, "main", lambda argv: seen.append(argv) or 0)
    assert commands.main(["bench", "--threads", "1"]) == 0
    assert seen == [["--threads", "1"]]


def test_warmup_mirrors_the_function(monkeypatch):
    seen, function = [], inspect.signature(ndw.warmup)
    monkeypatch.setattr(ndw, "warmup", lambda size, **rest: seen.append((size, rest)))
    for line in (
        "3",
        "3x5 --strides 2x1 --dilation-rate 2",
        "7 --activation elu=0.1 --depth-multiplier 4 --data-format channels_first",
        "1 --dtype float64 --gradients --pointwise",
    ):
        assert commands.main(["warmup", *line.split()]) == 0
    plain = {
        "strides": 1,
        "dilation_rate": 1,
        "depth_multiplier": 1,
        "dtype": "float32",
        "data_format": "channels_last",
        "activation": None,
        "gradients": False,
        "pointwise": False,
        "backend": "auto",
    }
    assert list(function.parameters) == ["kernel_size", *plain]
    assert seen[:2] == [
        (3, plain),
        ((3, 5), plain | {"strides": (2, 1), "dilation_rate": 2}),
    ]
    multiplied = {"depth_multiplier": 4, "data_format": "channels_first"}
    assert seen[2:] == [
        (7, plain | multiplied | {"activation": ("elu", 0.1)}),
        (1, plain | {"dtype": "float64", "gradients": True, "pointwise": True}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "COMMAND"),
        ("dance", "invalid choice: 'dance'"),
        ("warmup", "kernel_size"),
        ("warmup 3y3", "a number or two as in 3x5, got '3y3'"),
        ("warmup 3 --activation elu=b", "a name or name=number, got 'elu=b'"),
        ("warmup 0", "kernel_size must be a positive int"),
        ("warmup 3 --activation relu7", "activation must be one of"),
        ("info --loud", "unrecognized arguments"),
    ],
)
def test_wrong_commands_are_explained(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        commands.main(line.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_runs_as_a_module(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "numbadw", *arguments]
        env = {**os.environ, "NUMBADW_CACHE_DIR": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=env)

    assert run("--version").stdout == ndw.__version__ + "\n"
    shown = run("info")
    assert shown.returncode == 0
    assert "threads" in shown.stdout
    assert np.__version__ in shown.stdout
