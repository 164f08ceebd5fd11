# The weights of one layer in one direction: packed for the way forth, packed for the way back, and their gradients.


cdef int set_sizes(Packs* p, str cell, w_ih, w_hh, w_hr) except -1:
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
    return 0


cdef size_t packs_size(const Packs* p) noexcept nogil:
    """Elements of all packed weights."""
    return p.panels * (PANEL + (p.I + p.H_out) * p.nv) * VL + p.panels_hr * p.H * PANEL * VL


cdef void* new_packs(Packs* p, size_t* bytes) except NULL:
    """Memory for packed weights, that `p` points into."""
    cdef void* memory
    bytes[0] = packs_size(p) * sizeof(real)
    memory = aligned_new(bytes[0])
    if memory == NULL:
        raise MemoryError("no memory for packed weights")
    p.bias = <real*>memory
    p.w_ih = p.bias + p.panels * PANEL * VL
    p.w_hh = p.w_ih + p.panels * p.I * p.nv * VL
    p.w_hr = p.w_hh + p.panels * p.H_out * p.nv * VL
    return memory


cdef int acquire_weights(Py_buffer* view, w_ih, w_hh, b_ih, b_hh, w_hr, bint writable=False) except -1:
    cdef int i
    for i, array in enumerate((w_ih, w_hh, b_ih, b_hh, w_hr)):
        acquire(array, &view[i], writable)
    return 0


cdef void release_weights(Py_buffer* view) noexcept:
    cdef int i
    for i in range(5):
        PyBuffer_Release(&view[i])


cdef class PackedWeights:
    """One layer's weights in one direction, packed; immutable, so any number of threads may run it at once."""

    cdef Packs packs
    cdef void* memory
    cdef size_t bytes
    cdef Py_buffer view[5]

    def __cinit__(self, str cell, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None):
        """Arrays: C-contiguous, of this build's element type, shapes as in `cells.Weights`."""
        cdef Packs* p = &self.packs
        set_sizes(p, cell, w_ih, w_hh, w_hr)
        self.memory = new_packs(p, &self.bytes)
        acquire_weights(self.view, w_ih, w_hh, b_ih, b_hh, w_hr)
        with nogil:
            # GRU: z holds n r z hn, weights are stored as r z n; the input part goes to n r z, the other to r z hn.
            pack(<real*>self.view[0].buf, p.I, p.H, p.panels, p.nv, p.cell >= LSTM, 2 if p.cell == GRU else 0, p.w_ih)
            pack(<real*>self.view[1].buf, p.H_out, p.H, p.panels, p.nv, p.cell >= LSTM, 0, p.w_hh)
            pack(<real*>self.view[4].buf, p.H, p.P, p.panels_hr, PANEL, False, 0, p.w_hr)
            pack_bias(p, <real*>self.view[2].buf, <real*>self.view[3].buf)
        release_weights(self.view)

    def __dealloc__(self):
        aligned_delete(self.memory, self.bytes)
        release_weights(self.view)

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

    def run(self, x, y, h, c=None, lengths=None, reset=None, c_all=None, gates=None, bint reverse=False,
            bint flush=True, int parts=1):
        """All steps, for a caller and parts - 1 further threads; arguments as in `backends.Backend.forward`."""
        return LayerRun(self, (x, y, h, c, lengths, reset, c_all, gates), reverse, flush, parts)

    def forward(self, x, y, h, c=None, lengths=None, reset=None, c_all=None, gates=None, bint reverse=False,
                bint flush=True):
        """All steps; arguments as in `backends.Backend.forward`."""
        LayerRun(self, (x, y, h, c, lengths, reset, c_all, gates), reverse, flush, 1)(0)


cdef class BackwardWeights:
    """The same weights as the way back reads them, packed; immutable."""

    cdef Packs sizes            # without weights
    cdef BackwardPacks packs
    cdef void* memory
    cdef size_t bytes
    cdef Py_buffer view[5]

    def __cinit__(self, str cell, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None):
        """As `PackedWeights`; the biases are not needed."""
        cdef Packs* p = &self.sizes
        cdef BackwardPacks* b = &self.packs
        cdef Py_ssize_t wide = PANEL * VL, of_x, of_h
        set_sizes(p, cell, w_ih, w_hh, w_hr)
        b.K = p.panels * p.nv * VL
        b.ldg = b.K + 16        # as with ldz
        b.panels_x, b.panels_h = (p.I + wide - 1) // wide, (p.H_out + wide - 1) // wide
        b.panels_u = (p.H + wide - 1) // wide
        of_x, of_h = b.panels_x * b.K * wide, b.panels_h * b.K * wide
        self.bytes = (of_x + of_h + b.panels_u * p.P * wide) * sizeof(real)
        self.memory = aligned_new(self.bytes)
        if self.memory == NULL:
            raise MemoryError("no memory for packed weights")
        b.w_ih = <real*>self.memory
        b.w_hh = b.w_ih + of_x
        b.w_hr = b.w_hh + of_h
        acquire_weights(self.view, w_ih, w_hh, None, None, w_hr)
        with nogil:
            pack_rows(p, <real*>self.view[0].buf, p.I, 2 if p.cell == GRU else 0, b.panels_x, b.w_ih)
            pack_rows(p, <real*>self.view[1].buf, p.H_out, 0, b.panels_h, b.w_hh)
            if p.P:
                pack_columns(<real*>self.view[4].buf, p.P, p.H, b.panels_u, b.w_hr)
        release_weights(self.view)

    def __dealloc__(self):
        aligned_delete(self.memory, self.bytes)
        release_weights(self.view)

    @property
    def panels(self) -> int:
        """How many parts `run` can be cut into."""
        return self.packs.panels_u

    @property
    def gates_width(self) -> int:
        """Elements of `gates` for one row and step."""
        return self.sizes.panels * PANEL * VL if self.sizes.cell >= LSTM else 0

    @property
    def input_weights(self) -> int:
        """Multiply-adds of one row and step for the input."""
        return self.sizes.I * self.sizes.H * GATES[self.sizes.cell]

    @property
    def recurrent_weights(self) -> int:
        """Multiply-adds of one row and step for the recurrence."""
        return self.sizes.H_out * self.sizes.H * GATES[self.sizes.cell] + self.sizes.P * self.sizes.H

    @property
    def itemsize(self) -> int:
        return sizeof(real)

    def backward(self, arrays, WeightSums sums, bint reverse, bint flush, int parts, bint by_rows):
        """All steps for a caller and parts - 1 further threads, which share rows or units; see `BackwardRun`."""
        return BackwardRun(self, arrays, sums, reverse, flush, parts, by_rows)


cdef class WeightSums:
    """Gradients of the weights, laid out as the weights are in `PackedWeights`; zero at first."""

    cdef Packs packs
    cdef void* memory
    cdef size_t bytes
    cdef Py_buffer view[5]

    def __cinit__(self, BackwardWeights weights):
        self.packs = weights.sizes
        self.memory = new_packs(&self.packs, &self.bytes)
        memset(self.memory, 0, self.bytes)

    def unpack(self, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None):
        """Write them to arrays as `PackedWeights` takes them."""
        cdef Packs* p = &self.packs
        acquire_weights(self.view, w_ih, w_hh, b_ih, b_hh, w_hr, True)
        with nogil:
            unpack(p.w_ih, p.I, p.H, p.panels, p.nv, p.cell >= LSTM, 2 if p.cell == GRU else 0, <real*>self.view[0].buf)
            unpack(p.w_hh, p.H_out, p.H, p.panels, p.nv, p.cell >= LSTM, 0, <real*>self.view[1].buf)
            unpack(p.w_hr, p.H, p.P, p.panels_hr, PANEL, False, 0, <real*>self.view[4].buf)
            if self.view[2].buf != NULL:
                unpack_bias(p, <real*>self.view[2].buf, <real*>self.view[3].buf)
        release_weights(self.view)

    def __dealloc__(self):
        aligned_delete(self.memory, self.bytes)
        release_weights(self.view)
