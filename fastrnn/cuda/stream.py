"""A layer on a GPU run step by step: its state stays there."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import stream as host
from .. import validate
from . import elementwise, engine
from .arrays import Port, port
from .runtime import Array, Device


class Stream(host.Stream):
    """See `fastrnn.stream.Stream`."""

    def _begin(self) -> None:
        self._device: Device = self._stack.backend  # type: ignore[assignment]
        sizes, N = self._stack.sizes, self._batch_size
        with self._device:
            self._last = port(self._device, self._dtype).kind
            stream = self._last.stream
            self._layers = [
                (
                    stream.zeros((1, N, sizes.out_size), self._dtype),
                    stream.zeros((1, N, sizes.c_size), self._dtype) if sizes.spec.has_c else None,
                )
                for _ in self._stack.prepared
            ]

    def step(self, x_t: Any, out: Any = None) -> Any:
        with self._device:
            way = port(self._device, self._dtype, x_t=x_t, out=out)
            x = validate.real_array("x_t", way.look("x_t", x_t), self._dtype)
            self._check_step(x)
            shape = (*x.shape[:-1], self._stack.sizes.out_size)
            if out is not None:
                validate.out(way.look("out", out), shape, self._dtype)

            def lift(view: Array) -> Array:
                return view[None] if view.ndim == 2 else view[None, None]

            x_1 = way.put("x_t", x.reshape(1, self._batch_size, -1), lift)
            y = self._run_on(way, x_1)
            if way.library is not None and out is not None:
                way.stream.copy(lift(way.views["out"]), y)
                way.leave(lambda _: None, y)
                return out
            found = way.leave(lambda y: y[0] if x.ndim == 2 else y[0, 0], y)
        if out is None:
            return found
        out[...] = found
        return out

    step.__doc__ = host.Stream.step.__doc__

    def process(self, chunk: Any) -> Any:
        with self._device:
            way = port(self._device, self._dtype, chunk=chunk)
            x = validate.real_array("chunk", way.look("chunk", chunk), self._dtype)
            unbatched, swap = self._check_chunk(x)

            def time_major(a: Any) -> Any:
                return a[:, None] if unbatched else a.swapaxes(0, 1) if swap else a

            steps = way.put("chunk", time_major(x), time_major)
            y = self._run_on(way, steps)
            return way.leave(lambda y: y[:, 0] if unbatched else y.swapaxes(0, 1) if swap else y, y)

    process.__doc__ = host.Stream.process.__doc__

    def _run_on(self, way: Port, x: Array) -> Array:
        """(T, N, I) -> (T, N, H_out), through all layers."""
        self._ready(way)
        before, layers = self._layers, list[Any]()
        for prepared, (h, c) in zip(self._stack.prepared, before, strict=True):
            last = len(layers) == len(before) - 1
            shape = (x.shape[0], self._batch_size, self._stack.sizes.out_size)
            y = way.empty(shape, self._dtype) if last else way.stream.empty(shape, self._dtype)
            found = engine.forward(prepared.together, way.stream, x, y, h, c)
            layers.append((found.h_n, found.c_n))
            x = y
        self._settle(way, layers)
        return x

    def _ready(self, way: Port) -> None:
        """The state may be used on the stream of `way`."""
        if way.stream is not self._last.stream:
            self._last.stream.synchronize()

    def _settle(self, way: Port, layers: list[Any]) -> None:
        """Take over a state made on the stream of `way`."""
        if way.stream is not self._last.stream:
            # The memory of the old state goes back in the order of its own stream.
            way.stream.synchronize()
        self._layers, self._last = layers, way.kind

    def reset(self, mask: Any = None) -> None:
        with self._device:
            way = port(self._device, self._dtype, self._last, mask=mask)
            N = self._batch_size
            rows = None
            if mask is not None:
                seen = validate.mask("mask", way.look("mask", mask, np.bool_), (N,))
                rows = way.put("mask", np.array(seen, order="C").view(np.uint8), lambda view: view)
            self._ready(way)
            layers = []
            for states in self._layers:
                new = []
                for state in states:
                    copy = None
                    if state is not None and rows is None:
                        copy = way.stream.zeros(state.shape, state.dtype)
                    elif state is not None and rows is not None:
                        copy = way.copied(state)
                        elementwise.clear_rows(way.stream, copy[0], rows)
                    new.append(copy)
                layers.append(tuple(new))
            self._settle(way, layers)

    reset.__doc__ = host.Stream.reset.__doc__

    @property
    def state(self) -> Any:
        """As of a layer on the CPU; arrays of the kind that the stream was last given."""
        with self._device:
            way = port(self._device, self._dtype, self._last)
            self._ready(way)
            sizes, shape = self._stack.sizes, (len(self._layers), self._batch_size)
            h = way.empty((*shape, sizes.out_size), self._dtype)
            c = way.empty((*shape, sizes.c_size), self._dtype) if sizes.spec.has_c else None
            for i, (h_i, c_i) in enumerate(self._layers):
                way.stream.copy(h[i], h_i[0])
                if c is not None and c_i is not None:
                    way.stream.copy(c[i], c_i[0])
            found = way.leave(lambda s: s[0] if c is None else (s[0], *sizes.spec.split_c(s[1])), (h, c))
            if way.stream is not self._last.stream:
                way.stream.synchronize()
            return found

    @state.setter
    def state(self, value: Any) -> None:
        with self._device:
            way = port(self._device, self._dtype, state=value)
            way.keeps = True
            sizes, stream = self._stack.sizes, way.stream
            checked = self._checked_state(way.look("state", value))
            # A NumPy array is copied first, since nobody waits until it has been read.
            parts = [way.put(name, np.array(array), lambda view: view) for name, array in checked.items()]
            self._ready(way)
            layers = []
            for i in range(len(self._layers)):
                h, *others = (way.copied(part[i : i + 1]) for part in parts if part is not None)
                c = stream.empty((1, self._batch_size, sizes.c_size), self._dtype) if others else None
                if c is not None:
                    for to, part in zip(sizes.spec.split_c(c), others, strict=True):
                        stream.copy(to, part)
                layers.append((h, c))
            self._settle(way, layers)
