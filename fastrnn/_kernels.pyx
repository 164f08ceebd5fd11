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

Every element of z is added up in one order: bias, x in blocks of K_BLOCK with k ascending, h likewise. A result is
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
    const Py_ssize_t K_BLOCK, PANEL, ROWS_4, ROWS_3
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


cdef enum Cell: RNN_TANH, RNN_RELU, LSTM, GRU

CELLS = {"rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU, "lstm": LSTM, "gru": GRU}
LANES = VL

# Rows of z formed by one product: enough to use each weight often, few enough to stay in cache.
cdef enum: CHUNK_ROWS = 192, CHUNK_ROWS_MIN = 24, CHUNK_BYTES = 256 * 1024


cdef struct Packs:
    int cell
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
    real* h                 # (N, H_out) INOUT: initial state, then final state
    real* c                 # (N, H) INOUT, LSTM
    char* c_all             # (T, N, H) OUT or NULL
    Py_ssize_t c_t, c_n
    const Py_ssize_t* lengths   # (N,) decreasing, or NULL
    const char* reset       # (T, N) bool, contiguous, or NULL
    bint reverse


# ---- cells: z of one panel -> new state -----------------------------------------------------------------------------

cdef inline void lstm_cell(const real* z, real* c, real* h) noexcept nogil:
    """c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')      (torch.nn.LSTM)"""
    cdef vec i = vsigmoid(vload(z)), f = vsigmoid(vload(z + VL)), g = vtanh(vload(z + 2 * VL))
    cdef vec o = vsigmoid(vload(z + 3 * VL)), c_new = vfma(f, vload(c), i * g)
    vstore(c, c_new)
    vstore(h, o * vtanh(c_new))


cdef inline void gru_cell(const real* z, const real* h_prev, real* h) noexcept nogil:
    """n = tanh(n_x + r n_h);  h' = (1 - z) n + z h      (torch.nn.GRU)"""
    cdef vec r = vsigmoid(vload(z + VL)), u = vsigmoid(vload(z + 2 * VL))
    cdef vec n = vtanh(vfma(r, vload(z + 3 * VL), vload(z)))
    vstore(h, vfma(u, vload(h_prev) - n, n))


cdef inline void rnn_cell(const real* z, real* h, bint relu) noexcept nogil:
    """h' = tanh(z) or relu(z)      (torch.nn.RNN)"""
    cdef int v
    for v in range(PANEL):
        vstore(h + v * VL, vrelu(vload(z + v * VL)) if relu else vtanh(vload(z + v * VL)))


cdef void cell(const Packs* p, Py_ssize_t panel, Py_ssize_t N, const real* z, const real* h_prev, real* c, real* h,
               Py_ssize_t ldh, Py_ssize_t ldc) noexcept nogil:
    """The new state of one panel for all N rows."""
    cdef Py_ssize_t n, unit = panel * p.units
    z += panel * PANEL * VL
    for n in range(N):
        if p.cell == LSTM:
            lstm_cell(z + n * p.ldz, c + n * ldc + unit, h + n * ldh + unit)
        elif p.cell == GRU:
            gru_cell(z + n * p.ldz, h_prev + n * ldh + unit, h + n * ldh + unit)
        else:
            rnn_cell(z + n * p.ldz, h + n * ldh + unit, p.cell == RNN_RELU)


# ---- products -------------------------------------------------------------------------------------------------------

cdef void add_product(int nv, Py_ssize_t rows, Py_ssize_t K, Py_ssize_t panels, const real* w, const real** a, real* z,
                      Py_ssize_t ldz) noexcept nogil:
    """z (rows, panels, PANEL, VL) += a (rows, K) @ w (panels, K, nv, VL).

    Rows are spread evenly over tiles (32 = 6+6+5+5+5+5); a panel's weights for one block of k stay in the first-level
    cache for all of them. One row takes two panels at a time instead, for more independent sums.
    """
    cdef Py_ssize_t most = ROWS_3 if nv == 3 else ROWS_4, tiles = (rows + most - 1) // most
    cdef Py_ssize_t blocks = (K + K_BLOCK - 1) // K_BLOCK, step = K * nv * VL
    cdef Py_ssize_t panel = 0, b, k, kb, m, t
    cdef int r
    while panel < panels:
        if rows == 1 and panel + 1 < panels:
            for b in range(blocks):
                k = b * K_BLOCK
                kb = min(K - k, K_BLOCK)
                if nv == 3:
                    tile_pair_3(kb, w + k * nv * VL, step, a, k, z, ldz)
                else:
                    tile_pair_4(kb, w + k * nv * VL, step, a, k, z, ldz)
            panel += 2
            w += 2 * step
            z += 2 * PANEL * VL
            continue
        for b in range(blocks):
            k = b * K_BLOCK
            kb = min(K - k, K_BLOCK)
            m = 0
            for t in range(tiles):
                r = rows // tiles + (t < rows % tiles)
                if nv == 3:
                    tile_3(r, kb, w + k * nv * VL, 0, a + m, k, z + m * ldz, ldz)
                else:
                    tile_4(r, kb, w + k * nv * VL, 0, a + m, k, z + m * ldz, ldz)
                m += r
        panel += 1
        w += step
        z += PANEL * VL


# ---- rows -----------------------------------------------------------------------------------------------------------

cdef inline void copy_row(real* to, const real* source, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + VL <= count:
        vstore(to + i, vload(source + i))
        i += VL
    while i < count:
        to[i] = source[i]
        i += 1


cdef inline Py_ssize_t active_rows(const Run* run, Py_ssize_t t, Py_ssize_t near) noexcept nogil:
    """How many rows have a step t; near: the number at a neighbouring step."""
    if run.lengths == NULL:
        return run.N
    while near > 0 and run.lengths[near - 1] <= t:
        near -= 1
    while near < run.N and run.lengths[near] > t:
        near += 1
    return near


# ---- the time loop --------------------------------------------------------------------------------------------------

cdef struct Scratch:
    Py_ssize_t steps        # per chunk
    Py_ssize_t ldh, ldc     # elements from row to row of the states below: whole panels
    real* z                 # (steps * N, ldz)
    real* h[2]              # (N, ldh): the state before and after a step, in turn
    real* c                 # (N, ldc)
    real* u                 # (N, ldc): o * tanh(c) before the projection
    const real** rows       # (max(steps, 2) * N): rows of x in a chunk
    const real** h_rows[2]  # (N,) rows of h
    const real** u_rows     # (N,) rows of u
    Py_ssize_t* first       # (steps + 1): row of z at which a step of the chunk begins


cdef size_t scratch_layout(const Packs* p, Py_ssize_t T, Py_ssize_t N, Scratch* s, char* memory) noexcept nogil:
    """Point `s` into `memory`; the number of bytes that takes."""
    cdef size_t used = 0
    cdef Py_ssize_t rows = CHUNK_BYTES // (p.ldz * <Py_ssize_t>sizeof(real))
    rows = min(max(rows, <Py_ssize_t>CHUNK_ROWS_MIN), <Py_ssize_t>CHUNK_ROWS)
    s.steps = min(max(rows // max(N, 1), 1), T)
    s.ldc = p.panels * p.units
    s.ldh = max(s.ldc, p.panels_hr * PANEL * VL) if p.P else s.ldc
    s.z = <real*>take(memory, &used, s.steps * N * p.ldz * sizeof(real))
    s.h[0] = <real*>take(memory, &used, N * s.ldh * sizeof(real))
    s.h[1] = <real*>take(memory, &used, N * s.ldh * sizeof(real))
    s.c = <real*>take(memory, &used, N * s.ldc * sizeof(real))
    s.u = <real*>take(memory, &used, N * s.ldc * sizeof(real) if p.P else 0)
    s.rows = <const real**>take(memory, &used, s.steps * N * sizeof(void*))
    s.h_rows[0] = <const real**>take(memory, &used, N * sizeof(void*))
    s.h_rows[1] = <const real**>take(memory, &used, N * sizeof(void*))
    s.u_rows = <const real**>take(memory, &used, N * sizeof(void*))
    s.first = <Py_ssize_t*>take(memory, &used, (s.steps + 1) * sizeof(Py_ssize_t))
    return used


cdef inline char* take(char* memory, size_t* used, size_t bytes) noexcept nogil:
    cdef char* at = memory + used[0] if memory != NULL else NULL
    used[0] += (bytes + 63) & ~<size_t>63
    return at


cdef void forward(const Packs* p, const Run* run, Scratch* s) noexcept nogil:
    """All T steps of one layer in one direction."""
    cdef Py_ssize_t T = run.T, start, steps, j, t, n, N, joined = 0, before
    cdef int now = 0
    cdef real* z
    cdef real* swap
    for n in range(run.N):
        s.h_rows[0][n] = s.h[0] + n * s.ldh
        s.h_rows[1][n] = s.h[1] + n * s.ldh
        s.u_rows[n] = s.u + n * s.ldc
    N = active_rows(run, T - 1 if run.reverse else 0, run.N)
    start = 0
    while start < T:
        steps = min(s.steps, T - start)
        N = input_part(p, run, s, start, steps, N)
        for j in range(steps):
            t = T - 1 - start - j if run.reverse else start + j
            N = s.first[j + 1] - s.first[j]
            # A row joins with its initial state and leaves with its final one: at the start or the end, or, where
            # its sequence is shorter, in between.
            for n in range(N, joined):
                leave(p, run, s, now, n)
            for n in range(joined, N):
                join(p, run, s, now, n)
            joined = N
            if run.reset != NULL and not run.reverse:
                reset_rows(p, run, s, now, t, N)
            z = s.z + s.first[j] * p.ldz
            step(p, s, N, z, now)
            now = 1 - now
            put_out(p, run, s, now, t, N)
            if run.reset != NULL and run.reverse:
                reset_rows(p, run, s, now, t, N)
        start += steps
    for n in range(joined):
        leave(p, run, s, now, n)


cdef Py_ssize_t input_part(const Packs* p, const Run* run, Scratch* s, Py_ssize_t start, Py_ssize_t steps,
                           Py_ssize_t N) noexcept nogil:
    """z = bias + x @ w_ih for a chunk of steps, the rows of each step that are still running; the last step's N."""
    cdef Py_ssize_t j, t, n, r = 0
    for j in range(steps):
        t = run.T - 1 - start - j if run.reverse else start + j
        N = active_rows(run, t, N)
        s.first[j] = r
        for n in range(N):
            s.rows[r] = <const real*>(run.x + t * run.x_t + n * run.x_n)
            copy_row(s.z + r * p.ldz, p.bias, p.panels * PANEL * VL)
            r += 1
    s.first[steps] = r
    add_product(p.nv, r, p.I, p.panels, p.w_ih, s.rows, s.z, p.ldz)
    return N


cdef void step(const Packs* p, Scratch* s, Py_ssize_t N, real* z, int now) noexcept nogil:
    """One step of N rows: h[now], c -> h[1 - now], c.

    Panels are taken upwards and downwards in turn, so that the weights that a step read last, still in a nearer cache,
    are the first that the next one reads (LSTM's h product, H=64: 0.57 -> 0.47 us, H=256: 10.5 -> 9.6).
    """
    cdef Py_ssize_t together = 2 if N == 1 else 1, groups = (p.panels + together - 1) // together
    cdef Py_ssize_t group, first, panel, panels, n, shift = VL if p.cell == GRU else 0
    cdef real* h = s.u if p.P else s.h[1 - now]
    cdef Py_ssize_t ldh = s.ldc if p.P else s.ldh
    for group in range(groups):
        first = (groups - 1 - group if now else group) * together
        panels = min(p.panels - first, together)
        add_product(p.nv, N, p.H_out, panels, p.w_hh + first * p.H_out * p.nv * VL, s.h_rows[now],
                    z + first * PANEL * VL + shift, p.ldz)
        for panel in range(first, first + panels):
            cell(p, panel, N, z, s.h[now], s.c, h, ldh, s.ldc)
    if p.P:
        for n in range(N):
            memset(s.h[1 - now] + n * s.ldh, 0, p.panels_hr * PANEL * VL * sizeof(real))
        add_product(PANEL, N, p.H, p.panels_hr, p.w_hr, s.u_rows, s.h[1 - now], s.ldh)


cdef inline void join(const Packs* p, const Run* run, Scratch* s, int now, Py_ssize_t n) noexcept nogil:
    copy_row(s.h[now] + n * s.ldh, run.h + n * p.H_out, p.H_out)
    if p.cell == LSTM:
        copy_row(s.c + n * s.ldc, run.c + n * p.H, p.H)


cdef inline void leave(const Packs* p, const Run* run, Scratch* s, int now, Py_ssize_t n) noexcept nogil:
    copy_row(run.h + n * p.H_out, s.h[now] + n * s.ldh, p.H_out)
    if p.cell == LSTM:
        copy_row(run.c + n * p.H, s.c + n * s.ldc, p.H)


cdef void reset_rows(const Packs* p, const Run* run, Scratch* s, int now, Py_ssize_t t, Py_ssize_t N) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(N):
        if run.reset[t * run.N + n]:
            memset(s.h[now] + n * s.ldh, 0, s.ldh * sizeof(real))
            memset(s.c + n * s.ldc, 0, s.ldc * sizeof(real))


cdef void put_out(const Packs* p, const Run* run, Scratch* s, int now, Py_ssize_t t, Py_ssize_t N) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(N):
        copy_row(<real*>(run.y + t * run.y_t + n * run.y_n), s.h[now] + n * s.ldh, p.H_out)
        if run.c_all != NULL:
            copy_row(<real*>(run.c_all + t * run.c_t + n * run.c_n), s.c + n * s.ldc, p.H)


# ---- packing --------------------------------------------------------------------------------------------------------

cdef void pack(const real* w, Py_ssize_t K, Py_ssize_t H, Py_ssize_t panels, int nv, bint gated, int first,
               real* to) noexcept nogil:
    """(G*H, K) -> (panels, K, nv, VL). gated: vector v holds gate (first + v) mod nv, else units of its own."""
    cdef Py_ssize_t panel, v, lane, unit, k, k_end, k0
    cdef const real* row
    for panel in range(panels):
        for v in range(nv):
            for k0 in range(0, K, 16):      # so that a cache line of w is used whole
                k_end = min(k0 + 16, K)
                for lane in range(VL):
                    unit = panel * VL + lane if gated else (panel * nv + v) * VL + lane
                    if unit < H:
                        row = w + ((first + v) % nv * H * gated + unit) * K
                        for k in range(k0, k_end):
                            to[((panel * K + k) * nv + v) * VL + lane] = row[k]
                    else:
                        for k in range(k0, k_end):
                            to[((panel * K + k) * nv + v) * VL + lane] = 0


cdef void pack_bias(Packs* p, const real* b_ih, const real* b_hh) noexcept nogil:
    """What z starts from. Only GRU's n gate needs its two biases apart."""
    cdef Py_ssize_t panel, v, lane, unit, row
    cdef real* to = p.bias
    cdef bint gru = p.cell == GRU
    for panel in range(p.panels):
        for v in range(PANEL):
            for lane in range(VL):
                unit = panel * VL + lane if p.cell >= LSTM else (panel * PANEL + v) * VL + lane
                to[0] = 0
                if unit < p.H and b_ih != NULL:
                    if gru:     # z holds n r z hn, b holds r z n
                        row = ((v - 1) if 0 < v < 3 else 2) * p.H + unit
                    else:
                        row = v * p.H + unit if p.cell == LSTM else unit
                    to[0] = (b_ih[row] if not gru or v < 3 else 0) + (b_hh[row] if not gru or v > 0 else 0)
                to += 1


cdef int acquire(object array, Py_buffer* buffer, bint writable=False) except -1:
    """The buffer of an array whose type, shape and order the caller has made sure of."""
    if array is None:
        memset(buffer, 0, sizeof(Py_buffer))
        return 0
    return PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))


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
        p.H = w_ih.shape[0] // {"lstm": 4, "gru": 3}.get(cell, 1)
        p.P = 0 if w_hr is None else p.H_out
        p.nv = 3 if p.cell == GRU else 4
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

    def forward(self, x, y, h, c=None, lengths=None, reset=None, bint reverse=False, c_all=None, bint flush=True):
        """Run all steps; arguments as in `backends.Backend.forward`."""
        cdef Py_buffer view[7]
        cdef Run run
        cdef Scratch scratch
        cdef void* memory = NULL
        cdef unsigned mode
        cdef int i
        memset(view, 0, sizeof(view))
        try:
            acquire(x, &view[0])
            acquire(y, &view[1], True)
            acquire(h, &view[2], True)
            acquire(c, &view[3], True)
            acquire(lengths, &view[4])
            acquire(reset, &view[5])
            acquire(c_all, &view[6], True)
            run.T, run.N = view[0].shape[0], view[0].shape[1]
            run.x, run.x_t, run.x_n = <char*>view[0].buf, view[0].strides[0], view[0].strides[1]
            run.y, run.y_t, run.y_n = <char*>view[1].buf, view[1].strides[0], view[1].strides[1]
            run.h, run.c = <real*>view[2].buf, <real*>view[3].buf
            run.lengths, run.reset = <Py_ssize_t*>view[4].buf, <char*>view[5].buf
            run.c_all = <char*>view[6].buf
            if c_all is not None:
                run.c_t, run.c_n = view[6].strides[0], view[6].strides[1]
            run.reverse = reverse
            memory = aligned_new(scratch_layout(&self.packs, run.T, run.N, &scratch, NULL))
            if memory == NULL:
                raise MemoryError(f"no scratch memory for a batch of {run.N}")
            scratch_layout(&self.packs, run.T, run.N, &scratch, <char*>memory)
            with nogil:
                mode = fp_flush_on() if flush else 0
                forward(&self.packs, &run, &scratch)
                if flush:
                    fp_restore(mode)
        finally:
            aligned_delete(memory)
            for i in range(7):
                PyBuffer_Release(&view[i])


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
