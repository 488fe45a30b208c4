"""The example that runs MobileNets: its steps, its weights, and Keras as a witness."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

FOLDER = Path(__file__).resolve().parents[1] / "examples"
NAMES = ["v1", "v2", "efficientnet_b0"]
# Name, width, pixels a side: odd and even sizes are padded differently.
CASES = [
    ("v1", 0.5, 64),
    ("v1", 0.25, 75),
    ("v2", 0.35, 97),
    ("v2", 1.4, 64),
    ("efficientnet_b0", 1.0, 64),
    ("efficientnet_b0", 1.0, 75),
]


@pytest.fixture(scope="module")
def mobilenet():
    """Return the example as a module."""
    sys.path.insert(0, str(FOLDER))
    try:
        import mobilenet
    finally:
        sys.path.remove(str(FOLDER))
    return mobilenet


@pytest.fixture(scope="module")
def files(mobilenet):
    """Return the module of weights, which the example has imported."""
    return sys.modules["mobilenet_weights"]


def random_pixels(rng, size):
    """Return a bright image and a dark one."""
    bright = np.array([255, 120], np.float32)[:, None, None, None]
    return rng.random((2, size, size, 3), np.float32) * bright


def assert_close(got, expected):
    assert got.shape == expected.shape
    worst = np.abs(got - expected).max()
    assert worst <= 1e-4 * np.abs(expected).max()
    # Scores that hardly depend on the image would hide a fault in the first steps.
    assert worst <= 0.01 * np.abs(expected[0] - expected[1]).max()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_gives_the_same_scores(mobilenet, files, name, symmetric, rng):
    steps = mobilenet.NETWORKS[name](0.25, 10, symmetric)
    weights = files.random_weights(steps, rng)
    pixels = random_pixels(rng, 35)
    got = mobilenet.Network(steps, weights)(pixels)
    expected = mobilenet.Network(steps, weights, "reference")(pixels)
    assert_close(got, expected)
    again = mobilenet.Network(steps, weights)
    np.testing.assert_array_equal(again(pixels), got)
    np.testing.assert_array_equal(again(pixels), got)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [8, 9])
def test_the_stem_is_a_full_convolution(mobilenet, files, size, symmetric, rng):
    steps = mobilenet.NETWORKS["v1"](0.25, 10, symmetric)
    weights = files.random_weights(steps, rng)
    pixels = random_pixels(rng, size)
    network = mobilenet.Network(steps[:1], weights)
    got = network(pixels)
    x = pixels.astype(np.float64) * weights["pixels/scale"] + weights["pixels/offset"]
    before = 1 if symmetric or size % 2 else 0
    x = np.pad(x, ((0, 0), (before, 2), (before, 2), (0, 0)))
    kernel = weights["conv1/kernel"].reshape(3, 3, 3, -1)
    expected = np.zeros(got.shape) + weights["conv1/bias"]
    side = got.shape[1]
    assert side == (size + 1) // 2
    for i, j in np.ndindex(3, 3):
        taken = x[:, i : i + 2 * side : 2, j : j + 2 * side : 2][:, :side, :side]
        expected += taken @ kernel[i, j]
    np.testing.assert_allclose(got, np.clip(expected, 0, 6), atol=1e-5)


def test_weights_come_back_from_a_file(mobilenet, files, rng, tmp_path):
    steps = mobilenet.NETWORKS["v2"](0.35, 10)
    weights = files.random_weights(steps, rng)
    files.save(tmp_path / "weights.npz", weights)
    loaded = files.load(tmp_path / "weights.npz", steps)
    assert loaded.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name], array)
    with pytest.raises(ValueError, match=r"conv1/kernel in .* must have shape"):
        files.load(tmp_path / "weights.npz", mobilenet.NETWORKS["v2"](1.0, 10))
    with pytest.raises(ValueError, match="has no array"):
        files.load(tmp_path / "weights.npz", mobilenet.NETWORKS["efficientnet_b0"]())


def test_a_pickled_file_is_refused(mobilenet, files, tmp_path):
    np.savez(tmp_path / "weights.npz", **{"pixels/scale": np.array([{}], object)})
    with pytest.raises(ValueError, match="pickle"):
        files.load(tmp_path / "weights.npz", mobilenet.NETWORKS["v1"]())


# Keras' own way of turning its variables into arrays.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("name", "width", "size"), CASES)
def test_keras_gives_the_same_scores(mobilenet, files, name, width, size, rng):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    applications = pytest.importorskip(
        "keras.applications", reason="keras is not installed"
    )
    module, maker, width_option = {
        "v1": ("mobilenet", "MobileNet", {"alpha": width}),
        "v2": ("mobilenet_v2", "MobileNetV2", {"alpha": width}),
        "efficientnet_b0": ("efficientnet", "EfficientNetB0", {}),
    }[name]
    model = getattr(applications, maker)(
        weights=None,
        input_shape=(size, size, 3),
        classes=20,
        classifier_activation=None,
        **width_option,
    )
    randomize(model, rng)
    pixels = random_pixels(rng, size)
    preprocess = getattr(applications, module).preprocess_input
    expected = model.predict(preprocess(pixels.copy()), verbose=0)
    steps = mobilenet.NETWORKS[name](width, 20)
    network = mobilenet.Network(steps, files.from_keras(model, steps))
    assert_close(network(pixels), expected)
    with pytest.raises(ValueError, match="the model has"):
        files.from_keras(model, steps[:-1])


def randomize(model, rng):
    """Give a Keras model weights that let the image through to the scores."""
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "BatchNormalization":
            shape = layer.gamma.shape
            ranges = (0.7, 1.4), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5)
            layer.set_weights([rng.uniform(*each, shape) for each in ranges])
        elif kind in ("Conv2D", "DepthwiseConv2D", "Dense"):
            kernel, *bias = layer.get_weights()
            seen = kernel.shape[:-2] if kind == "DepthwiseConv2D" else kernel.shape[:-1]
            values = rng.normal(0, np.sqrt(2 / np.prod(seen)), kernel.shape)
            layer.set_weights([values, *(rng.normal(0, 0.1, b.shape) for b in bias)])


@pytest.mark.parametrize("name", NAMES)
def test_torch_gives_the_same_scores(mobilenet, files, name, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch_mobilenet import TorchNetwork

    torch.manual_seed(0)
    steps = mobilenet.NETWORKS[name](0.35, 10, True)
    model = TorchNetwork(steps).eval()
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    pixels = random_pixels(rng, 65)
    x = ((pixels / 255 - np.array(mean)) / np.array(deviation)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    weights = files.from_torch(model, steps, mean, deviation)
    assert_close(mobilenet.Network(steps, weights)(pixels), expected)


def test_the_times_and_the_picture(mobilenet, files, rng, tmp_path, capsys):
    steps = mobilenet.NETWORKS["v1"](0.25, 10)
    network = mobilenet.Network(steps, files.random_weights(steps, rng))
    photo = tmp_path / "photo.png"
    image.imsave(photo, rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    pixels = mobilenet.read_photo(photo, 32)
    assert pixels.shape == (1, 32, 32, 3)
    total, parts = mobilenet.measure(network, pixels, 2)
    assert total > 0
    assert parts.shape == (len(steps),)
    assert min(parts) > 0
    mobilenet.print_times(steps, total, parts)
    printed = capsys.readouterr().out
    assert all(name in printed for step in steps for name in [next(iter(step.shapes))])
    mobilenet.draw(tmp_path / "times.png", "times", steps, parts)
    assert image.imread(tmp_path / "times.png").std() > 0.05
    mobilenet.classify(network, pixels, [f"thing {n}" for n in range(10)])
    lines = capsys.readouterr().out.splitlines()
    best = int(np.argmax(network(pixels)[0]))
    assert len(lines) == 5
    assert lines[0].endswith(f"thing {best}")
