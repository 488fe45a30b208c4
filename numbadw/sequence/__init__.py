"""Depthwise convolution of sequences, (N, L, C): the 1-D functions.

Read `rank.py` (sequences are images of one row), `forward.py` (pieces of a sequence and
the state between them), `update.py` (one step at a time), `gradients.py`.
"""

from numbadw.sequence.forward import depthwise_conv1d
from numbadw.sequence.gradients import depthwise_conv1d_grad
from numbadw.sequence.rank import SEQUENCES
from numbadw.sequence.update import depthwise_conv1d_update

__all__ = [
    "SEQUENCES",
    "depthwise_conv1d",
    "depthwise_conv1d_grad",
    "depthwise_conv1d_update",
]
