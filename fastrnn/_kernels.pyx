# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Forward time loop of RNN, LSTM and GRU on vector lanes: one layer, one direction, all steps.

One source, compiled once per element type (`real` is float or double) and instruction set (`VL` lanes in a `vec`).

The hidden units are cut into panels. A panel is PANEL = 4 vectors of pre-activations `z` per row:

    LSTM      i f g o                  of VL units
    GRU       n r z hn                 of VL units; n holds the input part, hn the recurrent part of the n gate
    RNN       VL units each            of 4 * VL units

Weights are packed once, panel by panel, as [panel][k][vector][lane], so that the inner loop of `tile` reads them in
one stream. Units that H lacks to a full panel have weights of zero; nothing reads what is computed for them.

For a chunk of steps, `add_product` forms the input part of z as one matrix product. Then, step by step and panel by
panel, it adds the recurrent part, and the cell turns the panel's z into the new state while it is still in cache.

Every element of z is added up in one order: bias, x in blocks of `k_block` with k ascending, h likewise. A result is
therefore the same to the last bit whatever the batch, the chunks of time, and whether it was streamed.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memset


cdef extern from "_simd.h" nogil:
    ctypedef double real    # float or double: the build decides
    ctypedef double vec
    const Py_ssize_t VL
    vec vload(const real*)
    void vstore(real*, vec)
    void vstore_part(real*, vec, Py_ssize_t)
    vec vset(real)
    vec vzero()
    vec vfma(vec, vec, vec)
    vec vsigmoid(vec)
    vec vtanh(vec)
    vec vrelu(vec)
    unsigned fp_flush_on()
    void fp_restore(unsigned)

cdef extern from "_tile.h" nogil:
    const Py_ssize_t PANEL, ROWS_4, ROWS_3
    void tile_4(int rows, Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                Py_ssize_t ldz)
    void tile_3(int rows, Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                Py_ssize_t ldz)
    void tile_pair_4(Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                     Py_ssize_t ldz)
    void tile_pair_3(Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                     Py_ssize_t ldz)

cdef extern from "_alloc.h" nogil:
    void* aligned_new(size_t)
    void aligned_delete(void*)


cdef extern from "_meet.h" nogil:
    ctypedef struct meeting:
        pass
    bint meet(meeting*, long parts, long count)
    long meet_drop_at(meeting*)
    void meet_drop(meeting*, long count)
    long meet_yields()


cdef enum Cell: RNN_TANH, RNN_RELU, LSTM, GRU

CELLS = {"rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU, "lstm": LSTM, "gru": GRU}
cdef int[4] GATES = [1, 1, 4, 3]

# Short sums round less; an RNN has no gate that damps the error of its state. RNN, I=H=64, three layers, mean error over
# torch's: 1.74 with 128, 1.48 with 64, 1.11 with 32, which costs 3 % of the time.
cdef enum: K_BLOCK = 128, K_BLOCK_RNN = 32

# Rows of z formed by one product: enough to use each weight often, few enough to stay in cache.
cdef enum: CHUNK_ROWS = 192, CHUNK_ROWS_MIN = 24, CHUNK_BYTES = 256 * 1024


cdef struct Packs:
    int cell
    Py_ssize_t k_block      # products are added up in sums of this many, and these one after the other
    int nv                  # vectors of weights per panel and k: 3 for GRU, else 4
    Py_ssize_t I, H, P      # P: size of the projection, 0 without one
    Py_ssize_t H_out        # P or H: what is put out and fed back
    Py_ssize_t panels       # of z
    Py_ssize_t units        # per panel
    Py_ssize_t ldz          # elements from one row of z to the next
    Py_ssize_t panels_hr
    real* bias              # (panels, PANEL, VL)
    real* w_ih              # (panels, I, nv, VL)
    real* w_hh              # (panels, H_out, nv, VL)
    real* w_hr              # (panels_hr, H, PANEL, VL)


cdef struct Run:
    Py_ssize_t T, N
    const char* x           # (T, N, I) IN, any strides over T and N
    Py_ssize_t x_t, x_n     # strides in bytes
    char* y                 # (T, N, H_out) OUT, rows past their length are left alone
    Py_ssize_t y_t, y_n
    char* h                 # (N, H_out) INOUT: initial state, then final state
    Py_ssize_t h_n
    char* c                 # (N, H) INOUT, LSTM
    Py_ssize_t c_n
    char* c_all             # (T, N, H) OUT or NULL
    Py_ssize_t c_all_t, c_all_n
    const Py_ssize_t* lengths   # (N,) decreasing, or NULL
    const char* reset       # (T, N) bool or NULL
    Py_ssize_t reset_t, reset_n
    bint reverse


include "_kernels/cells.pxi"
include "_kernels/products.pxi"
include "_kernels/time_loop.pxi"
include "_kernels/packing.pxi"


cdef int acquire(object array, Py_buffer* buffer, bint writable=False, Py_ssize_t itemsize=sizeof(real)) except -1:
    """The buffer of an array whose shape and order the caller has made sure of."""
    if array is None:
        memset(buffer, 0, sizeof(Py_buffer))
        return 0
    PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    if buffer.itemsize != itemsize:
        PyBuffer_Release(buffer)
        raise TypeError(f"expected an array with elements of {itemsize} bytes, got: {array.dtype}")
    return 0


cdef class PackedWeights:
    """One layer's weights in one direction, packed; immutable, so any number of threads may run it at once."""

    cdef Packs packs
    cdef void* memory

    def __cinit__(self, str cell, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None):
        """Arrays: C-contiguous, of this build's element type, shapes as in `cells.Weights`."""
        cdef Py_buffer view[5]
        cdef Packs* p = &self.packs
        cdef Py_ssize_t sizes[4]
        cdef int i
        memset(view, 0, sizeof(view))
        p.cell = CELLS[cell]
        p.I, p.H_out = w_ih.shape[1], w_hh.shape[1]
        p.H = w_ih.shape[0] // GATES[p.cell]
        p.P = 0 if w_hr is None else p.H_out
        p.nv = 3 if p.cell == GRU else 4
        p.k_block = K_BLOCK if p.cell >= LSTM else K_BLOCK_RNN
        p.units = VL if p.cell >= LSTM else PANEL * VL
        p.panels = (p.H + p.units - 1) // p.units
        p.panels_hr = (p.P + PANEL * VL - 1) // (PANEL * VL)
        p.ldz = p.panels * PANEL * VL + 16      # not a power of two: rows of z must not share cache sets
        sizes[0] = p.panels * PANEL * VL
        sizes[1] = p.panels * p.I * p.nv * VL
        sizes[2] = p.panels * p.H_out * p.nv * VL
        sizes[3] = p.panels_hr * p.H * PANEL * VL
        self.memory = aligned_new((sizes[0] + sizes[1] + sizes[2] + sizes[3]) * sizeof(real))
        if self.memory == NULL:
            raise MemoryError("no memory for packed weights")
        p.bias = <real*>self.memory
        p.w_ih = p.bias + sizes[0]
        p.w_hh = p.w_ih + sizes[1]
        p.w_hr = p.w_hh + sizes[2]
        try:
            for i, array in enumerate((w_ih, w_hh, b_ih, b_hh, w_hr)):
                acquire(array, &view[i])
            with nogil:
                # GRU: z holds n r z hn, weights are stored as r z n; the input part goes to n r z, the other to r z hn.
                pack(<real*>view[0].buf, p.I, p.H, p.panels, p.nv, p.cell >= LSTM, 2 if p.cell == GRU else 0, p.w_ih)
                pack(<real*>view[1].buf, p.H_out, p.H, p.panels, p.nv, p.cell >= LSTM, 0, p.w_hh)
                pack(<real*>view[4].buf, p.H, p.P, p.panels_hr, PANEL, False, 0, p.w_hr)
                pack_bias(p, <real*>view[2].buf, <real*>view[3].buf)
        finally:
            for i in range(5):
                PyBuffer_Release(&view[i])

    def __dealloc__(self):
        aligned_delete(self.memory)

    @property
    def panels(self) -> int:
        """How many parts `run` can be cut into."""
        return self.packs.panels

    @property
    def input_weights(self) -> int:
        """Multiply-adds of one row and step for the input."""
        return self.packs.I * self.packs.H * GATES[self.packs.cell]

    @property
    def recurrent_weights(self) -> int:
        """Multiply-adds of one row and step for the recurrence."""
        return self.packs.H_out * self.packs.H * GATES[self.packs.cell] + self.packs.P * self.packs.H

    @property
    def itemsize(self) -> int:
        return sizeof(real)

    def run(self, x, y, h, c=None, lengths=None, reset=None, bint reverse=False, c_all=None, bint flush=True,
            int parts=1):
        """All steps, for a caller and parts - 1 further threads; arguments as in `backends.Backend.forward`."""
        return LayerRun(self, (x, y, h, c, lengths, reset, c_all), reverse, flush, parts)

    def forward(self, x, y, h, c=None, lengths=None, reset=None, bint reverse=False, c_all=None, bint flush=True):
        """All steps; arguments as in `backends.Backend.forward`."""
        LayerRun(self, (x, y, h, c, lengths, reset, c_all), reverse, flush, 1)(0)


cdef Py_ssize_t[7] ITEMSIZES = [
    sizeof(real), sizeof(real), sizeof(real), sizeof(real), sizeof(Py_ssize_t), 1, sizeof(real)
]


cdef class LayerRun:
    """One call of one layer: `run(i)` does part i of it. All parts must be called, each in a thread of its own."""

    cdef PackedWeights weights
    cdef Py_buffer view[7]
    cdef Run run
    cdef Scratch shared
    cdef meeting meeting
    cdef char* memory
    cdef size_t own_at, own_bytes
    cdef bint flush
    cdef readonly int parts

    def __cinit__(self, PackedWeights weights, tuple arrays, bint reverse, bint flush, int parts):
        cdef int i
        cdef Run* run = &self.run
        cdef Py_buffer* view = self.view
        cdef Packs* p = &weights.packs
        self.weights, self.flush, self.parts = weights, flush, parts
        for i in range(7):
            acquire(arrays[i], &view[i], i in (1, 2, 3, 6), ITEMSIZES[i])
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
        self.own_at = shared_scratch(p, run.T, run.N, &self.shared, NULL)
        self.own_bytes = own_scratch(run.N, &self.shared, NULL)
        self.memory = <char*>aligned_new(self.own_at + parts * self.own_bytes)
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
        aligned_delete(self.memory)
        for i in range(7):
            PyBuffer_Release(&self.view[i])


cdef class Stepper:
    """Stacked layers of one direction, one step at a time: no allocation, one call per step."""

    cdef tuple layers           # of PackedWeights
    cdef Py_ssize_t L, N
    cdef Py_buffer h, c         # (L, N, H_out), (L, N, H): the caller's arrays, held
    cdef Run* runs              # (L,)
    cdef Scratch* scratch       # (L,)
    cdef char* memory
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
        aligned_delete(self.memory)
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
