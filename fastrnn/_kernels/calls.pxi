# What Python calls: one call of a layer, and steps of stacked layers.


cdef Py_ssize_t[8] ITEMSIZES = [
    sizeof(real), sizeof(real), sizeof(real), sizeof(real), sizeof(Py_ssize_t), 1, sizeof(real), sizeof(real)
]


cdef class LayerRun:
    """One call of one layer: `run(i)` does part i of it. All parts must be called, each in a thread of its own."""

    cdef PackedWeights weights
    cdef Py_buffer view[8]
    cdef Run run
    cdef Scratch shared
    cdef meeting meeting
    cdef char* memory
    cdef size_t bytes
    cdef size_t own_at, own_bytes
    cdef bint flush
    cdef readonly int parts

    def __cinit__(self, PackedWeights weights, tuple arrays, bint reverse, bint flush, int parts):
        cdef int i
        cdef Run* run = &self.run
        cdef Py_buffer* view = self.view
        cdef Packs* p = &weights.packs
        self.weights, self.flush, self.parts = weights, flush, parts
        for i in range(8):
            acquire(arrays[i], &view[i], i in (1, 2, 3, 6, 7), ITEMSIZES[i])
        run.T, run.N, run.reverse = view[0].shape[0], view[0].shape[1], reverse
        run.x, run.x_t, run.x_n = <char*>view[0].buf, view[0].strides[0], view[0].strides[1]
        run.y, run.y_t, run.y_n = <char*>view[1].buf, view[1].strides[0], view[1].strides[1]
        run.h, run.h_n = <char*>view[2].buf, view[2].strides[0]
        if view[3].buf != NULL:
            run.c, run.c_n = <char*>view[3].buf, view[3].strides[0]
        run.lengths = <Py_ssize_t*>view[4].buf
        if view[5].buf != NULL:
            run.reset, run.reset_t, run.reset_n = <char*>view[5].buf, view[5].strides[0], view[5].strides[1]
        if view[6].buf != NULL:
            run.c_all, run.c_all_t, run.c_all_n = <char*>view[6].buf, view[6].strides[0], view[6].strides[1]
        if view[7].buf != NULL:
            run.gates, run.gates_t, run.gates_n = <char*>view[7].buf, view[7].strides[0], view[7].strides[1]
        self.own_at = shared_scratch(p, run.T, run.N, &self.shared, NULL)
        self.own_bytes = own_scratch(run.N, &self.shared, NULL)
        self.bytes = self.own_at + parts * self.own_bytes
        self.memory = <char*>aligned_new(self.bytes)
        if self.memory == NULL:
            raise MemoryError(f"no scratch memory for a batch of {run.N}")
        shared_scratch(p, run.T, run.N, &self.shared, self.memory)

    def __call__(self, int index):
        cdef Scratch scratch = self.shared
        cdef Packs* p = &self.weights.packs
        cdef Part part
        cdef unsigned mode
        own_scratch(self.run.N, &scratch, self.memory + self.own_at + index * self.own_bytes)
        with nogil:
            part = make_part(p, index, self.parts, &self.meeting)
            mode = fp_flush_on() if self.flush else 0
            forward(p, &self.run, &scratch, &part)
            if self.flush:
                fp_restore(mode)

    @property
    def dropped(self) -> bool:
        """Whether the first part went on alone, because it waited too long for the others."""
        return meet_drop_at(&self.meeting) > 0

    def __dealloc__(self):
        cdef int i
        aligned_delete(self.memory, self.bytes)
        for i in range(8):
            PyBuffer_Release(&self.view[i])


cdef class Stepper:
    """Stacked layers of one direction, one step at a time: no allocation, one call per step."""

    cdef tuple layers           # of PackedWeights
    cdef Py_ssize_t L, N
    cdef Py_buffer h, c         # (L, N, H_out), (L, N, H): the caller's arrays, held
    cdef Run* runs              # (L,)
    cdef Scratch* scratch       # (L,)
    cdef char* memory
    cdef size_t bytes
    cdef bint flush, busy

    def __cinit__(self, layers, h, c, bint flush=True):
        cdef Py_ssize_t i, n_layers = len(layers)
        cdef PackedWeights layer
        cdef Run* run
        cdef size_t used = 0
        cdef real* y
        self.layers, self.L, self.flush = tuple(layers), n_layers, flush
        acquire(h, &self.h, True)
        acquire(c, &self.c, True)
        self.N = self.h.shape[1]
        for round in range(2):      # the first one measures
            used = 0
            take(self.memory, &used, n_layers * sizeof(Run))
            self.runs = <Run*>self.memory
            self.scratch = <Scratch*>take(self.memory, &used, n_layers * sizeof(Scratch))
            y = NULL
            for i in range(n_layers):
                layer = self.layers[i]
                used += self.place(layer, i, y, used)
                y = <real*>take(self.memory, &used, self.N * layer.packs.H_out * sizeof(real))
                if self.memory != NULL:
                    run = self.runs + i
                    run.y, run.y_n = <char*>y, layer.packs.H_out * sizeof(real)
            if self.memory == NULL:
                self.bytes = used
                self.memory = <char*>aligned_new(used)
                if self.memory == NULL:
                    raise MemoryError(f"no memory for a stream of {self.N} rows")

    cdef size_t place(self, PackedWeights layer, Py_ssize_t i, real* x, size_t at):
        """Set up layer i in memory from `at` on; how much it takes."""
        cdef Scratch measured
        cdef Scratch* s = self.scratch + i if self.memory != NULL else &measured
        cdef char* memory = self.memory + at if self.memory != NULL else NULL
        cdef size_t shared = shared_scratch(&layer.packs, 1, self.N, s, memory)
        cdef size_t own = own_scratch(self.N, s, memory + shared if memory != NULL else NULL)
        cdef Run* run = self.runs + i
        if memory != NULL:
            memset(run, 0, sizeof(Run))
            run.T, run.N = 1, self.N
            run.x, run.x_n = <char*>x, layer.packs.I * sizeof(real)
            run.h, run.h_n = <char*>self.h.buf + i * self.h.strides[0], self.h.strides[1]
            if self.c.buf != NULL:
                run.c, run.c_n = <char*>self.c.buf + i * self.c.strides[0], self.c.strides[1]
        return shared + own

    def step(self, x, y):
        """x (N, I) or (I,), contiguous, -> y (N, H_out) or (H_out,), contiguous; the states move on."""
        cdef Py_buffer x_view, y_view
        cdef Part part
        cdef PackedWeights layer
        cdef unsigned mode
        cdef Py_ssize_t i
        if self.busy:
            raise RuntimeError("a stream belongs to one thread, and another is in the middle of a step")
        acquire(x, &x_view)
        try:
            acquire(y, &y_view, True)
        except BaseException:
            PyBuffer_Release(&x_view)
            raise
        self.busy = True
        self.runs[0].x = <char*>x_view.buf
        self.runs[self.L - 1].y = <char*>y_view.buf
        mode = fp_flush_on() if self.flush else 0
        for i in range(self.L):
            layer = <PackedWeights>self.layers[i]
            part = make_part(&layer.packs, 0, 1, NULL)
            with nogil:
                forward(&layer.packs, self.runs + i, self.scratch + i, &part)
        if self.flush:
            fp_restore(mode)
        self.busy = False
        PyBuffer_Release(&x_view)
        PyBuffer_Release(&y_view)

    def __dealloc__(self):
        aligned_delete(self.memory, self.bytes)
        PyBuffer_Release(&self.h)
        PyBuffer_Release(&self.c)


def yields() -> int:
    """How often a thread of this process gave way while it waited for another."""
    return meet_yields()


def apply(str function, array):
    """sigmoid, tanh or relu of every element of a contiguous array, in place: the kernels' own, for tests."""
    cdef Py_buffer view
    cdef Py_ssize_t i, n
    cdef int which = ("sigmoid", "tanh", "relu").index(function)
    cdef real[64] last
    cdef real* a
    cdef vec v
    acquire(array, &view, True)
    n = view.len // <Py_ssize_t>sizeof(real)
    a = <real*>view.buf
    with nogil:
        i = 0
        while i < n:
            memset(last, 0, sizeof(last))
            copy_row(last, a + i, min(n - i, VL))
            v = vload(last)
            v = vsigmoid(v) if which == 0 else vtanh(v) if which == 1 else vrelu(v)
            vstore_part(a + i, v, min(n - i, VL))
            i += VL
    PyBuffer_Release(&view)
