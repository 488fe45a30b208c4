"""Sharpen a photo: `python filter_photo.py photo.jpg sharp.png`. Needs Pillow."""

import sys

import numpy as np
from PIL import Image

import numbadw as ndw

source, target = sys.argv[1:3]
pixels = np.asarray(Image.open(source).convert("RGB"), np.float32)

# One filter for each of the three channels: (kh, kw, C, M) = (3, 3, 3, 1).
sharpen = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)
kernel = np.repeat(sharpen[:, :, None, None], 3, axis=2)

sharp = ndw.depthwise_conv2d(pixels[None], kernel, padding="same")[0]
Image.fromarray(np.clip(sharp, 0, 255).astype(np.uint8)).save(target)
