"""What training needs of a layer: its result together with the way back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from numbadw.memory import weights_copy

Array = npt.NDArray[Any]
Pullback = Callable[[Any], tuple[Array, list[Array]]]


class Trainable(ABC):
    """A layer that gives gradients and keeps nothing for them."""

    def vjp(self, inputs: Any) -> tuple[Array, Pullback]:
        """Call the layer, and give the function that takes gradients back through it.

        `pullback(grad)` takes the gradient at the result (another floating dtype than
        the layer's is cast to it) and may be called any number of times, from any
        thread. It holds the weights as they are now, copied, and `inputs` themselves,
        which must not change before its last call.

        Parameters
        ----------
        inputs : ndarray, shape (n, h, w, c), or (n, c, h, w) with channels first
            As in a call of the layer, which is built if need be.

        Returns
        -------
        result : ndarray
            What `layer(inputs)` gives.
        pullback : callable
            `pullback(grad)` returns `(inputs_grad, weight_grads)`: an array of the
            inputs' shape and a list in the order of `layer.weights`, all new and of
            the layer's dtype.

        Raises
        ------
        TypeError, ValueError
            As a call of the layer; `pullback` for a `grad` of a wrong type or shape.

        Examples
        --------
        >>> import numpy as np
        >>> import numbadw as ndw
        >>> layer = ndw.DepthwiseConv2D(3, padding="same", activation="relu")
        >>> y, pullback = layer.vjp(np.ones((1, 8, 8, 4), np.float32))
        >>> x_grad, (kernel_grad, bias_grad) = pullback(2 * y)  # of (y ** 2).sum()
        >>> x_grad.shape, kernel_grad.shape, bias_grad.shape
        ((1, 8, 8, 4), (3, 3, 4, 1), (4,))
        >>> layer.kernel -= 0.01 * kernel_grad
        """
        x = self._cast(inputs)
        result = self(x)
        weights = [weights_copy(weight) for weight in self.weights]

        def pullback(grad: Any) -> tuple[Array, list[Array]]:
            return self._gradients(x, weights, self._cast(grad, "grad"))

        return result, pullback

    @property
    @abstractmethod
    def weights(self) -> list[Array]:
        """The weights themselves."""

    @abstractmethod
    def __call__(self, inputs: Any, out: Array | None = None) -> Any:
        """Give the result."""

    @abstractmethod
    def _cast(self, array: Any, name: str = "inputs") -> Any:
        """Give a plain array of the layer's dtype."""

    @abstractmethod
    def _gradients(
        self, inputs: Array, weights: Sequence[Array], grad: Array
    ) -> tuple[Array, list[Array]]:
        """Give the gradients at the inputs and at these weights."""
