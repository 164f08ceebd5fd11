# Weights from torch's layout into panels, once per layer, and their gradients back.


cdef void transpose(const real* a, Py_ssize_t lda, Py_ssize_t rows, Py_ssize_t columns, real* to,
                    Py_ssize_t ldt) noexcept nogil:
    """At most VL rows and columns of `a`, transposed."""
    cdef Py_ssize_t i, j
    if rows == VL and columns == VL:
        vtranspose(a, lda, to, ldt)
        return
    for j in range(columns):
        for i in range(rows):
            to[j * ldt + i] = a[i * lda + j]


cdef void pack(const real* w, Py_ssize_t K, Py_ssize_t H, Py_ssize_t panels, int nv, bint gated, int first,
               real* to) noexcept nogil:
    """(G*H, K) -> (panels, K, nv, VL). gated: vector v holds gate (first + v) mod nv, else units of its own."""
    cdef Py_ssize_t panel, unit, k, units
    cdef int v
    cdef const real* row
    for panel in range(panels):
        for v in range(nv):
            unit = panel * VL if gated else (panel * nv + v) * VL
            units = max(0, min(H - unit, VL))
            row = w + (((first + v) % nv * H if gated else 0) + unit) * K
            if units < VL:
                for k in range(K):
                    vstore(to + (k * nv + v) * VL, vzero())
            k = 0
            while k < K:
                transpose(row + k, K, units, min(VL, K - k), to + (k * nv + v) * VL, nv * VL)
                k += VL
        to += K * nv * VL


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


cdef void unpack(const real* packed, Py_ssize_t K, Py_ssize_t H, Py_ssize_t panels, int nv, bint gated, int first,
                 real* w) noexcept nogil:
    """(panels, K, nv, VL) -> (G*H, K): what `pack` does, the other way round."""
    cdef Py_ssize_t panel, unit, k, units
    cdef int v
    cdef real* row
    for panel in range(panels):
        for v in range(nv):
            unit = panel * VL if gated else (panel * nv + v) * VL
            units = max(0, min(H - unit, VL))
            row = w + (((first + v) % nv * H if gated else 0) + unit) * K
            k = 0
            while k < K:
                transpose(packed + (k * nv + v) * VL, nv * VL, min(VL, K - k), units, row + k, K)
                k += VL
        packed += K * nv * VL


cdef void unpack_bias(const Packs* p, real* b_ih, real* b_hh) noexcept nogil:
    """(panels, PANEL, VL) -> (G*H,) twice."""
    cdef Py_ssize_t panel, v, lane, unit, row
    cdef const real* at = p.bias
    for panel in range(p.panels):
        for v in range(PANEL):
            for lane in range(VL):
                unit = panel * VL + lane if p.cell >= LSTM else (panel * PANEL + v) * VL + lane
                if unit < p.H:
                    if p.cell == GRU:   # n r z hn -> r z n
                        row = ((v - 1) if 0 < v < 3 else 2) * p.H + unit
                        if v < 3:
                            b_ih[row] = at[0]
                        if v > 0:
                            b_hh[row] = at[0]
                    else:
                        row = v * p.H + unit if p.cell == LSTM else unit
                        b_ih[row] = b_hh[row] = at[0]
                at += 1


cdef inline void pack_row(const real* row, Py_ssize_t columns, real* to) noexcept nogil:
    """At most PANEL vectors of a row, and zeros."""
    cdef Py_ssize_t i, n = min(columns, PANEL * VL)
    if row == NULL:
        n = 0
    for i in range(n):
        to[i] = row[i]
    for i in range(n, PANEL * VL):
        to[i] = 0


cdef void pack_rows(const Packs* p, const real* w, Py_ssize_t C, int first, Py_ssize_t panels, real* to) noexcept nogil:
    """(G*H, C) -> (panels, K, PANEL, VL), k in the order of a row of gate gradients: (panels of units, nv, VL)."""
    cdef Py_ssize_t panel, units, unit, lane
    cdef int v
    for panel in range(panels):
        for units in range(p.panels):
            for v in range(p.nv):
                unit = units * VL if p.cell >= LSTM else (units * p.nv + v) * VL
                for lane in range(VL):
                    if unit + lane < p.H:
                        pack_row(w + (((first + v) % p.nv * p.H if p.cell >= LSTM else 0) + unit + lane) * C
                                 + panel * PANEL * VL, C - panel * PANEL * VL, to)
                    else:
                        pack_row(NULL, 0, to)
                    to += PANEL * VL


cdef void pack_columns(const real* w, Py_ssize_t K, Py_ssize_t C, Py_ssize_t panels, real* to) noexcept nogil:
    """(K, C) -> (panels, K, PANEL, VL)."""
    cdef Py_ssize_t panel, k
    for panel in range(panels):
        for k in range(K):
            pack_row(w + k * C + panel * PANEL * VL, C - panel * PANEL * VL, to)
            to += PANEL * VL
