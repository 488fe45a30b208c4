"""What the documents say is so: snippets run, paths exist, parameters are real."""

import contextlib
import doctest
import importlib
import inspect
import io
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import numbadw as ndw

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CHANGELOG.md", "docs/promises.md")
README = (ROOT / "README.md").read_text(encoding="ascii")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
FUNCTIONS = [
    name
    for name in ndw.__all__
    if inspect.isfunction(inspect.unwrap(getattr(ndw, name)))
]
LAYERS = [name for name in ndw.__all__ if name.endswith(("1D", "2D"))]


def documented(thing):
    """Names of the docstring's Parameters section."""
    lines = inspect.getdoc(thing).splitlines()
    if "Parameters" not in lines:
        return []
    section = lines[lines.index("Parameters") + 2 :]
    names = []
    for number, text in enumerate(section):
        if set(section[number + 1 : number + 2] or [""]) & {"-" * len(text)} and text:
            break
        if re.match(r"[a-z*]", text):
            names += re.split(r",\s*", text.split(" : ")[0])
    return [name.lstrip("*") for name in names]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_prints_what_its_comments_say(number):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {})
    expected = re.findall(r"^print\(.*\)  # (.*)$", SNIPPETS[number], re.MULTILINE)
    assert expected
    assert printed.getvalue().splitlines() == expected


def test_readme_is_short_and_has_both_commands():
    assert len(README.splitlines()) <= 200
    assert len(SNIPPETS) == 2
    first, second, *_ = COMMANDS
    assert re.fullmatch(r"pip install .* && python -m numbadw demo\n", first)
    assert re.fullmatch(r"pip install .* && pytest\n", second)
    assert README.index("<!-- speed:begin -->") < README.index("<!-- speed:end -->")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document):
    text = (ROOT / document).read_text(encoding="ascii")
    paths = re.findall(r"(?<![\w/.-])([\w.-]+/[\w./-]+|[A-Z]+\.md|LICENSE)(?!\w)", text)
    paths = [path for path in paths if re.search(r"\.\w+$|^\.ci/", path)]
    assert paths or document == "CHANGELOG.md"
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_promise_names_its_test():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="ascii")
    promises = re.findall(r"^- (.*?)(?=^- |^$|\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(promises) == text.count("\n- ")
    for promise in promises:
        assert re.search(r"`tests/test_\w+\.py`", promise), promise
    assert "docs/promises.md" in README


@pytest.mark.parametrize("name", re.findall(r"\bndw\.(\w+)", README))
def test_names_exist(name):
    assert name in ndw.__all__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_document_every_parameter(name):
    function = getattr(ndw, name)
    assert sorted(documented(function)) == sorted(
        inspect.signature(function).parameters
    )


@pytest.mark.parametrize("name", LAYERS)
def test_layers_document_what_they_add_to_the_function(name):
    layer = getattr(ndw, name)
    function = documented(ndw.depthwise_conv2d)
    parameters = list(inspect.signature(layer).parameters)
    assert set(documented(layer)) <= set(parameters)
    assert set(parameters) <= {*documented(layer), *function}


@pytest.mark.parametrize("name", [*FUNCTIONS, *LAYERS])
def test_examples_run(name):
    thing = inspect.unwrap(getattr(ndw, name))
    module = importlib.import_module(thing.__module__)
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(recurse=False).find(thing, name, module):
        runner.run(test)
    assert runner.failures == 0


def test_example_sharpens_a_photo(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    source, target = tmp_path / "photo.png", tmp_path / "sharp.png"
    pixels = np.full((8, 9, 3), 100, np.uint8)
    pixels[4, 4] = 110
    image.fromarray(pixels).save(source)
    monkeypatch.setattr(sys, "argv", ["filter_photo.py", str(source), str(target)])
    runpy.run_path(str(ROOT / "examples" / "filter_photo.py"))
    with image.open(target) as result:
        assert result.getpixel((4, 4)) == (150, 150, 150)
        assert result.getpixel((3, 4)) == (90, 90, 90)
