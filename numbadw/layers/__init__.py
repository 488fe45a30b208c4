"""Layers: weights and configuration over the functions, with Keras 3's arguments."""

from numbadw.layers.depthwise import DepthwiseConv2D

__all__ = ["DepthwiseConv2D"]
