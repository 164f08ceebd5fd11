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


cdef extern from "_meet.h" nogil:
    ctypedef struct meeting:
        pass
    bint meet(meeting*, long parts, long count)
    long meet_drop_at(meeting*)
    void meet_drop(meeting*, long count)
    long meet_yields()


cdef enum Cell: RNN_TANH, RNN_RELU, LSTM, GRU

CELLS = {"rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU, "lstm": LSTM, "gru": GRU}
LANES = VL

cdef int[4] GATES = [1, 1, 4, 3]

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
    const real** rows       # (steps * N): rows of x in a chunk
    const real** h_rows[2]  # (N,) rows of h
    const real** u_rows     # (N,) rows of u
    Py_ssize_t* first       # (steps + 1): row of z at which a step of the chunk begins


# What one of the threads that share a sequence does: some of the panels, and the units in them.
cdef struct Part:
    int index, parts
    Py_ssize_t panel, panel_end         # of z
    Py_ssize_t unit, unit_end           # columns of c
    Py_ssize_t hr_panel, hr_panel_end   # of the projection
    Py_ssize_t out, out_end             # columns of h
    meeting* meeting
    long meetings, long_waits


cdef inline char* take(char* memory, size_t* used, size_t bytes) noexcept nogil:
    cdef char* at = memory + used[0] if memory != NULL else NULL
    used[0] += (bytes + 63) & ~<size_t>63
    return at


cdef size_t shared_scratch(const Packs* p, Py_ssize_t T, Py_ssize_t N, Scratch* s, char* memory) noexcept nogil:
    """Point `s` into `memory`; the number of bytes that takes."""
    cdef size_t used = 0
    cdef Py_ssize_t rows = CHUNK_BYTES // (p.ldz * <Py_ssize_t>sizeof(real))
    rows = min(max(rows, <Py_ssize_t>CHUNK_ROWS_MIN), <Py_ssize_t>CHUNK_ROWS)
    s.steps = min(max(rows // max(N, 1), 1), T)
    s.ldc = p.panels * p.units
    s.ldh = max(s.ldc, p.panels_hr * PANEL * VL)
    s.z = <real*>take(memory, &used, s.steps * N * p.ldz * sizeof(real))
    s.h[0] = <real*>take(memory, &used, N * s.ldh * sizeof(real))
    s.h[1] = <real*>take(memory, &used, N * s.ldh * sizeof(real))
    s.c = <real*>take(memory, &used, N * s.ldc * sizeof(real) if p.cell == LSTM else 0)
    s.u = <real*>take(memory, &used, N * s.ldc * sizeof(real) if p.P else 0)
    return used


cdef size_t own_scratch(Py_ssize_t N, Scratch* s, char* memory) noexcept nogil:
    """The same for what each part has to itself; after `shared_scratch`."""
    cdef size_t used = 0
    s.rows = <const real**>take(memory, &used, s.steps * N * sizeof(void*))
    s.h_rows[0] = <const real**>take(memory, &used, N * sizeof(void*))
    s.h_rows[1] = <const real**>take(memory, &used, N * sizeof(void*))
    s.u_rows = <const real**>take(memory, &used, N * sizeof(void*))
    s.first = <Py_ssize_t*>take(memory, &used, (s.steps + 1) * sizeof(Py_ssize_t))
    return used


cdef Part make_part(const Packs* p, int index, int parts, meeting* meeting) noexcept nogil:
    cdef Part a
    a.index, a.parts, a.meeting, a.meetings, a.long_waits = index, parts, meeting, 0, 0
    a.panel, a.panel_end = p.panels * index // parts, p.panels * (index + 1) // parts
    a.unit, a.unit_end = a.panel * p.units, min(a.panel_end * p.units, p.H)
    a.hr_panel, a.hr_panel_end = p.panels_hr * index // parts, p.panels_hr * (index + 1) // parts
    a.out, a.out_end = a.unit, a.unit_end
    if p.P:
        a.out, a.out_end = a.hr_panel * PANEL * VL, min(a.hr_panel_end * PANEL * VL, p.P)
    return a


cdef inline void wait(Part* a) noexcept nogil:
    if a.parts > 1:
        a.meetings += 1
        a.long_waits += meet(a.meeting, a.parts, a.meetings)


cdef void forward(const Packs* p, const Run* run, Scratch* s, Part* a) noexcept nogil:
    """All T steps of one layer in one direction, or one thread's part of them."""
    cdef Py_ssize_t T = run.T, start = 0, steps, j, t, n, N, joined = 0
    cdef int now = 0
    cdef bint moved, dropped
    for n in range(run.N):
        s.h_rows[0][n] = s.h[0] + n * s.ldh
        s.h_rows[1][n] = s.h[1] + n * s.ldh
        s.u_rows[n] = s.u + n * s.ldc
    N = active_rows(run, T - 1 if run.reverse else 0, run.N)
    while start < T:
        steps = min(s.steps, T - start)
        N = input_part(p, run, s, a, start, steps, N)
        for j in range(steps):
            t = T - 1 - start - j if run.reverse else start + j
            N = s.first[j + 1] - s.first[j]
            # A row joins with its initial state and leaves with its final one: at the start or the end, or, where
            # its sequence is shorter, in between.
            moved = N > joined
            for n in range(N, joined):
                leave(p, run, s, a, now, n)
            for n in range(joined, N):
                join(p, run, s, a, now, n)
            joined = N
            if run.reset != NULL and not run.reverse:
                moved = reset_rows(p, run, s, a, now, t, N) or moved
            if moved:
                wait(a)     # the product below reads every unit's state
            step(p, s, a, N, s.z + s.first[j] * p.ldz, now)
            now = 1 - now
            wait(a)
            dropped = a.parts > 1 and drops_out(a)
            put_out(p, run, s, a, now, t, N)
            if run.reset != NULL and run.reverse and reset_rows(p, run, s, a, now, t, N):
                wait(a)
            if dropped:
                wait(a)     # until all have put out this step
                if a.index > 0:
                    return
                a[0] = make_part(p, 0, 1, NULL)
        start += steps
    for n in range(joined):
        leave(p, run, s, a, now, n)


cdef inline bint drops_out(Part* a) noexcept nogil:
    """Whether the first thread goes on alone after this meeting: it does once waiting was long too often.

    It announces that one meeting ahead, so that all threads draw the same conclusion at the same meeting.
    """
    cdef long at = meet_drop_at(a.meeting)
    if at and at <= a.meetings:
        return True
    if a.index == 0 and not at and a.long_waits > 8 and a.long_waits * 8 > a.meetings:
        meet_drop(a.meeting, a.meetings + 1)
    return False


cdef Py_ssize_t input_part(const Packs* p, const Run* run, Scratch* s, const Part* a, Py_ssize_t start,
                           Py_ssize_t steps, Py_ssize_t N) noexcept nogil:
    """z = bias + x @ w_ih for a chunk of steps, the rows of each step that are still running; the last step's N."""
    cdef Py_ssize_t j, t, n, r = 0, column = a.panel * PANEL * VL, columns = (a.panel_end - a.panel) * PANEL * VL
    for j in range(steps):
        t = run.T - 1 - start - j if run.reverse else start + j
        N = active_rows(run, t, N)
        s.first[j] = r
        for n in range(N):
            s.rows[r] = <const real*>(run.x + t * run.x_t + n * run.x_n)
            copy_row(s.z + r * p.ldz + column, p.bias + column, columns)
            r += 1
    s.first[steps] = r
    add_product(p.nv, r, p.I, a.panel_end - a.panel, p.w_ih + a.panel * p.I * p.nv * VL, s.rows, s.z + column, p.ldz)
    return N


cdef void step(const Packs* p, Scratch* s, Part* a, Py_ssize_t N, real* z, int now) noexcept nogil:
    """One step of N rows: h[now], c -> h[1 - now], c.

    Panels are taken upwards and downwards in turn, so that the weights that a step read last, still in a nearer cache,
    are the first that the next one reads (LSTM's h product, H=64: 0.57 -> 0.47 us, H=256: 10.5 -> 9.6).
    """
    cdef Py_ssize_t together = 2 if N == 1 else 1, groups = (a.panel_end - a.panel + together - 1) // together
    cdef Py_ssize_t group, first, panel, panels, n, shift = VL if p.cell == GRU else 0
    cdef real* h = s.u if p.P else s.h[1 - now]
    cdef Py_ssize_t ldh = s.ldc if p.P else s.ldh
    for group in range(groups):
        first = a.panel + (groups - 1 - group if now else group) * together
        panels = min(a.panel_end - first, together)
        add_product(p.nv, N, p.H_out, panels, p.w_hh + first * p.H_out * p.nv * VL, s.h_rows[now],
                    z + first * PANEL * VL + shift, p.ldz)
        for panel in range(first, first + panels):
            cell(p, panel, N, z, s.h[now], s.c, h, ldh, s.ldc)
    if p.P:
        wait(a)
        first, panels = a.hr_panel, a.hr_panel_end - a.hr_panel
        h = s.h[1 - now] + first * PANEL * VL
        for n in range(N):
            memset(h + n * s.ldh, 0, panels * PANEL * VL * sizeof(real))
        add_product(PANEL, N, p.H, panels, p.w_hr + first * p.H * PANEL * VL, s.u_rows, h, s.ldh)


cdef inline void join(const Packs* p, const Run* run, Scratch* s, const Part* a, int now, Py_ssize_t n) noexcept nogil:
    copy_row(s.h[now] + n * s.ldh + a.out, <real*>(run.h + n * run.h_n) + a.out, a.out_end - a.out)
    if p.cell == LSTM:
        copy_row(s.c + n * s.ldc + a.unit, <real*>(run.c + n * run.c_n) + a.unit, a.unit_end - a.unit)


cdef inline void leave(const Packs* p, const Run* run, Scratch* s, const Part* a, int now, Py_ssize_t n) noexcept nogil:
    copy_row(<real*>(run.h + n * run.h_n) + a.out, s.h[now] + n * s.ldh + a.out, a.out_end - a.out)
    if p.cell == LSTM:
        copy_row(<real*>(run.c + n * run.c_n) + a.unit, s.c + n * s.ldc + a.unit, a.unit_end - a.unit)


cdef bint reset_rows(const Packs* p, const Run* run, Scratch* s, const Part* a, int now, Py_ssize_t t,
                     Py_ssize_t N) noexcept nogil:
    """Zero the state of the rows in which an episode begins; whether there are any."""
    cdef Py_ssize_t n
    cdef bint any_row = False
    for n in range(N):
        if run.reset[t * run.reset_t + n * run.reset_n]:
            any_row = True
            memset(s.h[now] + n * s.ldh + a.out, 0, (a.out_end - a.out) * sizeof(real))
            if p.cell == LSTM:
                memset(s.c + n * s.ldc + a.unit, 0, (a.unit_end - a.unit) * sizeof(real))
    return any_row


cdef void put_out(const Packs* p, const Run* run, Scratch* s, const Part* a, int now, Py_ssize_t t,
                  Py_ssize_t N) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(N):
        copy_row(<real*>(run.y + t * run.y_t + n * run.y_n) + a.out, s.h[now] + n * s.ldh + a.out, a.out_end - a.out)
        if run.c_all != NULL:
            copy_row(<real*>(run.c_all + t * run.c_all_t + n * run.c_all_n) + a.unit, s.c + n * s.ldc + a.unit,
                     a.unit_end - a.unit)


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
        p.H = w_ih.shape[0] // GATES[p.cell]
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
            acquire(arrays[i], &view[i], i in (1, 2, 3, 6))
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
    cdef bint flush

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
        acquire(x, &x_view)
        try:
            acquire(y, &y_view, True)
        except BaseException:
            PyBuffer_Release(&x_view)
            raise
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
