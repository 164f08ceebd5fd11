"""torch, CuPy, JAX and Numba for tests: arrays on the GPU of each, and streams."""

from __future__ import annotations

import os
from contextlib import nullcontext

import numpy as np
import pytest

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take nearly all memory


class Library:
    """One of them.

    Attributes
    ----------
    has_streams : bool
        Whether it has a current stream that work is queued on.
    """

    has_streams = False

    def stream(self):
        """A stream of its own, a context in which it is the current one."""
        return nullcontext()

    def take(self, array):
        raise NotImplementedError

    def is_mine(self, array):
        """Whether it is one of the library's arrays on the GPU."""
        raise NotImplementedError

    def keep_busy(self):
        """Queue some tens of milliseconds of work on the current stream."""

    def busy(self):
        """Whether the current stream still has work to do."""
        raise NotImplementedError

    def fill(self, array, source):
        """Copy, on the current stream."""
        raise NotImplementedError

    def wait(self):
        """For all that the GPU was given."""


class Torch(Library):
    has_streams = True

    def __init__(self):
        self.torch = pytest.importorskip("torch")
        self._big = self.torch.zeros((8192, 8192), device="cuda")
        self.torch.cuda.synchronize()

    def give(self, array):
        return self.torch.from_numpy(np.ascontiguousarray(array)).cuda()

    def take(self, array):
        return array.cpu().numpy()

    def is_mine(self, array):
        return isinstance(array, self.torch.Tensor) and array.is_cuda

    def stream(self):
        return self.torch.cuda.stream(self.torch.cuda.Stream())

    def keep_busy(self):
        for _ in range(20):
            self.torch.mm(self._big, self._big)

    def busy(self):
        return not self.torch.cuda.current_stream().query()

    def fill(self, array, source):
        array.copy_(source)

    def wait(self):
        self.torch.cuda.synchronize()


class CuPy(Library):
    has_streams = True

    def __init__(self):
        self.cupy = pytest.importorskip("cupy")
        self._big = self.cupy.zeros((8192, 8192), np.float32)
        self._big @ self._big  # cuBLAS begins
        self.cupy.cuda.Device().synchronize()

    def give(self, array):
        return self.cupy.asarray(array)

    def take(self, array):
        return self.cupy.asnumpy(array)

    def is_mine(self, array):
        return isinstance(array, self.cupy.ndarray)

    def stream(self):
        return self.cupy.cuda.Stream(non_blocking=True)

    def keep_busy(self):
        for _ in range(20):
            self._big @ self._big

    def busy(self):
        return not self.cupy.cuda.get_current_stream().done

    def fill(self, array, source):
        array[...] = source

    def wait(self):
        self.cupy.cuda.Device().synchronize()


class JAX(Library):
    def __init__(self):
        self.jax = pytest.importorskip("jax")
        try:
            self._device = self.jax.devices("cuda")[0]
        except RuntimeError as error:
            pytest.skip(f"JAX has no GPU: {error}")

    def give(self, array):
        return self.jax.device_put(array, self._device)

    def take(self, array):
        return np.asarray(array)

    def is_mine(self, array):
        return isinstance(array, self.jax.Array) and array.devices() == {self._device}


class Numba(Library):
    def __init__(self):
        self.cuda = pytest.importorskip("numba.cuda")

    def give(self, array):
        return self.cuda.to_device(np.ascontiguousarray(array))

    def take(self, array):
        return array.copy_to_host()

    def is_mine(self, array):
        return self.cuda.is_cuda_array(array) and type(array).__module__.startswith("numba.")


class Interface:
    """An array that has nothing but the interface of another one."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


class Others(Numba):
    """Of a library that is not known: results are `DeviceArray`s."""

    def give(self, array):
        return Interface(super().give(array))

    def take(self, array):
        return np.asarray(array)

    def is_mine(self, array):
        from fastrnn.cuda.device_array import DeviceArray

        return type(array) is DeviceArray


LIBRARIES = {"torch": Torch, "cupy": CuPy, "jax": JAX, "numba": Numba, "others": Others}
