# What Python calls on the way back.


cdef enum: BACK_ARRAYS = 12
cdef Py_ssize_t[BACK_ARRAYS] BACK_ITEMSIZES = [
    sizeof(real), sizeof(real), sizeof(real), sizeof(real), sizeof(real), sizeof(real), sizeof(Py_ssize_t), 1,
    sizeof(real), sizeof(real), sizeof(real), sizeof(real)
]


cdef class BackwardRun:
    """One call of one layer's way back: `run(i)` does part i of it. All parts must be called, each in its own thread.

    arrays: x, y, h_0, c_0, c_all, gates, lengths, reset, dy, dx, dh, dc; as in `backends.Backend.backward`.
    """

    cdef BackwardWeights weights
    cdef WeightSums sums
    cdef Py_buffer view[BACK_ARRAYS]
    cdef Back back
    cdef BackScratch shared
    cdef meeting meeting
    cdef char* memory
    cdef size_t bytes
    cdef size_t own_at, own_bytes
    cdef bint flush, by_rows
    cdef readonly int parts

    def __cinit__(self, BackwardWeights weights, tuple arrays, WeightSums sums, bint reverse, bint flush, int parts,
                  bint by_rows):
        cdef int i
        cdef Back* b = &self.back
        cdef Run* run = &b.run
        cdef Py_buffer* view = self.view
        self.weights, self.sums, self.flush, self.parts, self.by_rows = weights, sums, flush, parts, by_rows
        for i in range(BACK_ARRAYS):
            acquire(arrays[i], &view[i], i >= 9, BACK_ITEMSIZES[i])
        run.T, run.N, run.reverse = view[0].shape[0], view[0].shape[1], reverse
        run.x, run.x_t, run.x_n = <char*>view[0].buf, view[0].strides[0], view[0].strides[1]
        run.y, run.y_t, run.y_n = <char*>view[1].buf, view[1].strides[0], view[1].strides[1]
        run.h, run.h_n = <char*>view[2].buf, view[2].strides[0]
        if view[3].buf != NULL:
            run.c, run.c_n = <char*>view[3].buf, view[3].strides[0]
        if view[4].buf != NULL:
            run.c_all, run.c_all_t, run.c_all_n = <char*>view[4].buf, view[4].strides[0], view[4].strides[1]
        if view[5].buf != NULL:
            run.gates, run.gates_t, run.gates_n = <char*>view[5].buf, view[5].strides[0], view[5].strides[1]
        run.lengths = <Py_ssize_t*>view[6].buf
        if view[7].buf != NULL:
            run.reset, run.reset_t, run.reset_n = <char*>view[7].buf, view[7].strides[0], view[7].strides[1]
        if view[8].buf != NULL:
            b.dy, b.dy_t, b.dy_n = <char*>view[8].buf, view[8].strides[0], view[8].strides[1]
        if view[9].buf != NULL:
            b.dx, b.dx_t, b.dx_n = <char*>view[9].buf, view[9].strides[0], view[9].strides[1]
        b.dh, b.dh_n = <char*>view[10].buf, view[10].strides[0]
        if view[11].buf != NULL:
            b.dc, b.dc_n = <char*>view[11].buf, view[11].strides[0]
        self.own_at = self.place(NULL)
        self.own_bytes = own_back_scratch(run.N, &self.shared, NULL)
        self.bytes = self.own_at + parts * self.own_bytes
        self.memory = <char*>aligned_new(self.bytes)
        if self.memory == NULL:
            raise MemoryError(f"no scratch memory for a batch of {run.N}")
        self.place(self.memory)
        memset(self.shared.zeros, 0, max(self.shared.ldh, self.shared.ldc) * sizeof(real))

    cdef size_t place(self, char* memory) noexcept:
        cdef Run* run = &self.back.run
        return shared_back_scratch(&self.weights.sizes, &self.weights.packs, run.T, run.N, self.back.dx != NULL,
                                   &self.shared, memory)

    def __call__(self, int index):
        cdef BackScratch scratch = self.shared
        cdef Packs* p = &self.weights.sizes
        cdef BackwardPacks* w = &self.weights.packs
        cdef Packs* sums = NULL if self.sums is None else &self.sums.packs
        cdef Part part
        cdef unsigned mode
        own_back_scratch(self.back.run.N, &scratch, self.memory + self.own_at + index * self.own_bytes)
        with nogil:
            part = make_back_part(p, w, index, self.parts, self.by_rows, &self.meeting)
            mode = fp_flush_on() if self.flush else 0
            backward(p, w, &self.back, &scratch, &part, sums)
            if self.flush:
                fp_restore(mode)

    @property
    def dropped(self) -> bool:
        """Whether the first part went on alone, because it waited too long for the others."""
        return meet_drop_at(&self.meeting) > 0

    def __dealloc__(self):
        cdef int i
        aligned_delete(self.memory, self.bytes)
        for i in range(BACK_ARRAYS):
            PyBuffer_Release(&self.view[i])
