"""Layers: weights and configuration over the functions, with Keras 3's arguments."""

from numbadw.layers.depthwise import DepthwiseConv1D, DepthwiseConv2D
from numbadw.layers.separable import SeparableConv2D

__all__ = ["DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv2D"]
