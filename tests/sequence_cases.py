"""Sequences of every form of tile, and the same convolutions of images of one row."""

from numbadw.cpu.plan import ROWS_COLUMNS
from numbadw.cpu.tile import CHAIN

FEW, MANY = 3, 19
# Kernel width and channels of every form of tile.
FORMS = {
    "block": (4, MANY),
    "rows": (11, MANY),
    "wide": (ROWS_COLUMNS + 5, MANY),
    "chained": (CHAIN + 50, MANY),
    "flat": (4, FEW),
    "flat, chained": (CHAIN + 50, FEW),
}


def draw(rng, shape, k, m=1, dtype="float32", first=False):
    """Draw sequences of shape (n, length, c), a kernel and a bias."""
    n, length, c = shape
    x = rng.standard_normal((n, c, length) if first else shape).astype(dtype)
    kernel = rng.standard_normal((k, c, m)).astype(dtype)
    return x, kernel, rng.standard_normal(c * m).astype(dtype)


def as_images(x, first=False):
    return x[:, :, None] if first else x[:, None]


def image_options(strides=1, padding="valid", dilation_rate=1, k=1, **options):
    """Give the options of the same convolution of images of one row."""
    if padding == "causal":
        padding = ((k - 1) * dilation_rate, 0)
    if padding == "same":
        pads = "same"
    elif padding == "valid":
        pads = 0
    else:
        pads = ((0, 0), padding if isinstance(padding, tuple) else (padding, padding))
    return {
        "strides": (1, strides),
        "padding": pads,
        "dilation_rate": (1, dilation_rate),
        **options,
    }
