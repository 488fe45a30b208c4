"""Weights for `mobilenet.py`: from a Keras or PyTorch model object, or from a file.

They are a dict of float32 arrays, "step/kernel" and "step/bias" with the batch
normalisations folded in, and "pixels/scale" and "pixels/offset", which turn pixels from
0 to 255 into what the model was trained on.
"""

import numpy as np

import numbadw as ndw


def from_keras(model, steps):
    """Return the folded weights of a `keras.applications` model, any weights in it.

    MobileNets are scaled as their `preprocess_input` does; EfficientNet does it itself.
    """
    scale, offset = np.ones(3), np.zeros(3)
    if not any(type(layer).__name__ == "Rescaling" for layer in model.layers):
        scale, offset = scale / 127.5, offset - 1
    found = []
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Rescaling":
            scale, offset = scale * layer.scale, offset * layer.scale + layer.offset
        elif kind == "Normalization":
            mean, variance = (
                np.ravel(numbers(part)) for part in (layer.mean, layer.variance)
            )
            spread = np.sqrt(variance)
            scale, offset = scale / spread, (offset - mean) / spread
        elif kind in ("Conv2D", "DepthwiseConv2D", "Dense"):
            arrays = [numbers(weight) for weight in layer.get_weights()]
            found.append([arrays[0], arrays[1] if arrays[1:] else None, None])
        elif kind == "BatchNormalization":
            parts = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
            found[-1][2] = (*map(numbers, parts), layer.epsilon)
    return folded(found, steps, scale, offset)


def from_torch(
    model, steps, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)
):
    """Return the folded weights of a PyTorch model with the same layers in this order.

    `mean` and `deviation` are those of the pixels, from 0 to 1, that it was trained on.
    """
    found = []
    for module in model.modules():
        kind = type(module).__name__
        if kind in ("Conv2d", "Linear"):
            kernel = numbers(module.weight)
            if kind == "Linear":
                kernel = kernel.T
            elif module.groups > 1:
                kernel = ndw.kernel_from_torch(kernel)
            else:
                kernel = kernel.transpose(2, 3, 1, 0)
            bias = None if module.bias is None else numbers(module.bias)
            found.append([kernel, bias, None])
        elif kind == "BatchNorm2d":
            parts = module.weight, module.bias, module.running_mean, module.running_var
            found[-1][2] = (*map(numbers, parts), module.eps)
    deviation = np.asarray(deviation)
    return folded(found, steps, 1 / 255 / deviation, -np.asarray(mean) / deviation)


def numbers(value):
    """Return a Keras variable, a PyTorch tensor or an array as an array."""
    if hasattr(value, "detach"):
        value = value.detach()
    elif hasattr(value, "numpy"):
        value = value.numpy()
    return np.asarray(value)


def folded(found, steps, scale, offset):
    """Fold the normalisations; return kernels and biases by the names of the steps."""
    shapes = shapes_of(steps)
    if len(found) != len(shapes):
        raise ValueError(f"the model has {len(found)} layers, not {len(shapes)}")
    weights = {"pixels/scale": scale, "pixels/offset": offset}
    for (name, shape), (kernel, bias, norm) in zip(shapes.items(), found, strict=True):
        if len(shape) == 2:
            kernel = np.ascontiguousarray(kernel).reshape(-1, kernel.shape[-1])
        if kernel.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {kernel.shape}")
        if norm is not None:
            kernel, bias = ndw.fold_batch_norm(kernel, bias, *norm)
        outputs = kernel.shape[2 if len(shape) == 4 else 1]
        weights[f"{name}/kernel"] = kernel
        weights[f"{name}/bias"] = np.zeros(outputs) if bias is None else bias
    return {name: np.array(w, np.float32, order="C") for name, w in weights.items()}


def random_weights(steps, rng):
    """Return weights that mean nothing but keep the numbers in bounds."""
    weights = {"pixels/scale": np.full(3, 1 / 127.5), "pixels/offset": -np.ones(3)}
    for name, shape in shapes_of(steps).items():
        size = np.prod(shape[:2] if len(shape) == 4 else shape[:1])
        outputs = shape[2 if len(shape) == 4 else 1]
        weights[f"{name}/kernel"] = rng.normal(0, np.sqrt(2 / size), shape)
        weights[f"{name}/bias"] = rng.normal(0, 0.1, outputs)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def save(path, weights):
    """Write weights to an `.npz` file."""
    np.savez(path, **weights)


def load(path, steps):
    """Read the weights of these steps from an `.npz` file, without pickle."""
    wanted = {"pixels/scale": (3,), "pixels/offset": (3,)}
    for name, shape in shapes_of(steps).items():
        wanted[f"{name}/kernel"] = shape
        wanted[f"{name}/bias"] = (shape[2 if len(shape) == 4 else 1],)
    weights = {}
    with np.load(path, allow_pickle=False) as file:
        for name, shape in wanted.items():
            if name not in file:
                raise ValueError(f"{path} has no array {name}")
            weights[name] = np.array(file[name], np.float32, order="C")
            if weights[name].shape != shape:
                raise ValueError(
                    f"{name} in {path} must have shape {shape}, got "
                    f"{weights[name].shape}"
                )
    return weights


def shapes_of(steps):
    """Return the shapes of all kernels by their names."""
    return {name: shape for step in steps for name, shape in step.shapes.items()}
