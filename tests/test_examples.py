"""The example that trains: a few short epochs of it, and the picture."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_digits.py"


@pytest.fixture(scope="module")
def digits():
    """Return the example as a module."""
    spec = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_and_test_share_no_digit(digits):
    data, test = digits.load_data(np.random.default_rng(0))
    assert len(data[0]) + len(test[0]) == 1797
    assert not {x.tobytes() for x in data[0]} & {x.tobytes() for x in test[0]}
    shares = np.bincount(test[1]) / np.bincount(np.concatenate([data[1], test[1]]))
    np.testing.assert_allclose(shares, 0.2, atol=0.005)


def test_two_epochs_learn_and_give_a_picture(digits, backend, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (images, labels), test = digits.load_data(rng)
    few = rng.permutation(len(images))[:640]
    layers = digits.make_network(rng, backend)
    before = [weight.copy() for layer in layers for weight in layer.weights]
    losses, tests = digits.train(layers, (images[few], labels[few]), test, rng, 2)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert tests[-1][1] > 0.7
    assert capsys.readouterr().out.count("test accuracy") == 2
    after = [weight for layer in layers for weight in layer.weights]
    for old, new in zip(before, after, strict=True):
        assert not np.array_equal(old, new)
    digits.draw(tmp_path / "digits.png", layers, losses, tests)
    picture = image.imread(tmp_path / "digits.png")
    assert picture.shape[0] > 300
    assert picture.std() > 0.05


def test_gradients_of_the_whole_network_by_differences(digits, rng):
    layers = digits.make_network(rng)
    (images, labels), _ = digits.load_data(rng)
    x, labels = images[:20], labels[:20]
    _, grads = digits.gradients(layers, x, labels)
    weights = [weight for layer in layers for weight in layer.weights]
    # One step of float32 along the gradient lowers the loss by step * |gradient| ** 2.
    size = sum(float((grad**2).sum()) for grad in grads)
    losses = []
    for step in (0.01, -0.01):
        for weight, grad in zip(weights, grads, strict=True):
            weight += step / size * grad
        losses.append(digits.gradients(layers, x, labels)[0])
        for weight, grad in zip(weights, grads, strict=True):
            weight -= step / size * grad
    assert abs((losses[0] - losses[1]) / 0.02 - 1) < 0.02
