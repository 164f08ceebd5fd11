# Products with one matrix, for layers without a recurrence: the same panels, tiles and order of adding up.


cdef class Held:
    """Buffers of up to three arrays, and memory, for as long as this lives."""

    cdef Py_buffer view[3]
    cdef char* memory
    cdef size_t bytes

    def __cinit__(self, *arrays):
        cdef int i
        for i, array in enumerate(arrays):
            acquire(array, &self.view[i])

    cdef int allocate(self, size_t bytes) except -1:
        self.memory, self.bytes = <char*>aligned_new(bytes), bytes
        if self.memory == NULL:
            raise MemoryError(f"no memory for a product of matrices: {bytes} bytes")
        return 0

    cdef inline real* row(self, int i, Py_ssize_t m) noexcept nogil:
        return <real*>(<char*>self.view[i].buf + m * self.view[i].strides[0])

    def __dealloc__(self):
        cdef int i
        aligned_delete(self.memory, self.bytes)
        for i in range(3):
            PyBuffer_Release(&self.view[i])


cdef class PackedMatrix:
    """A matrix that rows are multiplied by, packed; immutable, so any number of threads may use it at once."""

    cdef readonly Py_ssize_t K, columns
    cdef Py_ssize_t panels
    cdef real* bias             # (panels, PANEL, VL)
    cdef real* w                # (panels, K, PANEL, VL)
    cdef Held packed

    def __cinit__(self, w, bias=None, bint transposed=False):
        """w (columns, K), or (K, columns) where `transposed`, and bias (columns,), C-contiguous."""
        cdef Held given = Held(w, bias)
        cdef Py_ssize_t panel, wide = PANEL * VL
        self.columns, self.K = w.shape[1 if transposed else 0], w.shape[0 if transposed else 1]
        self.panels = (self.columns + wide - 1) // wide
        self.packed = Held()
        self.packed.allocate(self.panels * wide * (self.K + 1) * sizeof(real))
        self.bias = <real*>self.packed.memory
        self.w = self.bias + self.panels * wide
        with nogil:
            if transposed:
                pack_columns(<real*>given.view[0].buf, self.K, self.columns, self.panels, self.w)
            else:
                pack(<real*>given.view[0].buf, self.K, self.columns, self.panels, PANEL, False, 0, self.w)
            for panel in range(self.panels):
                pack_row(NULL if given.view[1].buf == NULL else <real*>given.view[1].buf + panel * wide,
                         self.columns - panel * wide, self.bias + panel * wide)

    def multiply(self, x, y, bint flush):
        """y (M, columns) OUT = x (M, K) @ w + bias; the elements of a row lie side by side."""
        cdef Held held = Held(x, y)
        cdef Py_ssize_t wide = self.panels * PANEL * VL, ldz = wide + 16    # not a power of two, as in `Packs`
        cdef Py_ssize_t M = x.shape[0], chunk = CHUNK_BYTES // (ldz * <Py_ssize_t>sizeof(real)), first = 0, rows, m
        cdef const real** pointers
        cdef real* z
        cdef unsigned mode
        chunk = min(max(chunk, <Py_ssize_t>CHUNK_ROWS_MIN), <Py_ssize_t>CHUNK_ROWS, M)
        held.allocate(chunk * (ldz * sizeof(real) + sizeof(void*)))
        z = <real*>held.memory
        pointers = <const real**>(z + chunk * ldz)
        with nogil:
            mode = fp_flush_on() if flush else 0
            while first < M:
                rows = min(chunk, M - first)
                for m in range(rows):
                    pointers[m] = held.row(0, first + m)
                    copy_row(z + m * ldz, self.bias, wide)
                add_product(K_BLOCK, PANEL, rows, self.K, self.panels, self.w, pointers, z, ldz)
                for m in range(rows):
                    copy_row(held.row(1, first + m), z + m * ldz, self.columns)
                first += rows
            if flush:
                fp_restore(mode)


def sum_outer(g, a, out, int index, int parts, bint flush):
    """out (G, K) OUT = g (M, G) transposed @ a (M, K), part `index` of its rows; rows of g and a in their order."""
    cdef Held held = Held(g, a, out)
    cdef Py_ssize_t M = g.shape[0], G = g.shape[1], K = a.shape[1], all = (G + PANEL * VL - 1) // (PANEL * VL)
    cdef Py_ssize_t panels = all * (index + 1) // parts - all * index // parts, first = all * index // parts * PANEL * VL
    cdef Py_ssize_t wide = panels * PANEL * VL, ldg = wide + 16, row = 0, rows, m, panel
    cdef const real** pointers
    cdef real* sums
    cdef real* chunk
    cdef unsigned mode
    held.allocate((wide * K + OUTER_ROWS * ldg) * sizeof(real) + OUTER_ROWS * sizeof(void*))
    sums = <real*>held.memory
    chunk = sums + wide * K
    pointers = <const real**>(chunk + OUTER_ROWS * ldg)
    with nogil:
        mode = fp_flush_on() if flush else 0
        memset(sums, 0, wide * K * sizeof(real))
        while row < M:
            rows = min(M - row, <Py_ssize_t>OUTER_ROWS)
            for m in range(rows):
                pointers[m] = held.row(1, row + m)
                for panel in range(panels):
                    pack_row(held.row(0, row + m) + first + panel * PANEL * VL, G - first - panel * PANEL * VL,
                             chunk + m * ldg + panel * PANEL * VL)
            add_outer(PANEL, rows, pointers, K, 0, K, panels, chunk, ldg, sums)
            row += rows
        unpack(sums, K, min(G - first, wide), panels, PANEL, False, 0, held.row(2, first))
        if flush:
            fp_restore(mode)
