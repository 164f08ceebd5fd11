# Weights from torch's layout into panels, once per layer.


cdef void pack(const real* w, Py_ssize_t K, Py_ssize_t H, Py_ssize_t panels, int nv, bint gated, int first,
               real* to) noexcept nogil:
    """(G*H, K) -> (panels, K, nv, VL). gated: vector v holds gate (first + v) mod nv, else units of its own."""
    cdef Py_ssize_t panel, unit, k, lane, units
    cdef int v
    cdef const real* row
    cdef real* at
    for panel in range(panels):
        for v in range(nv):
            unit = panel * VL if gated else (panel * nv + v) * VL
            units = max(0, min(H - unit, VL))
            row = w + (((first + v) % nv * H if gated else 0) + unit) * K
            for k in range(K):
                at = to + (k * nv + v) * VL
                if units == VL:
                    for lane in range(VL):
                        at[lane] = row[lane * K + k]
                else:
                    for lane in range(units):
                        at[lane] = row[lane * K + k]
                    for lane in range(units, VL):
                        at[lane] = 0
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
