# The cells on the way back: what the gates of one panel were, and dh -> the gradients of the pre-activations.
#
# dgx and dgh are the gradients of the input part and of the recurrent part; they differ in GRU's n gate only. Rows are
# those of the caller's arrays, so the last panel's are loaded in part: `count` units. `dh` is used up: what is left in
# it is what reaches h_prev past the recurrent weights.


cdef inline vec vload_some(const real* a, Py_ssize_t count) noexcept nogil:
    return vload(a) if count >= VL else vload_part(a, count)


cdef inline void lstm_cell_backward(const real* gates, const real* c_new, const real* c_prev, Py_ssize_t count,
                                    real* dh, real* dc, real* dgx, real* u) noexcept nogil:
    """u = o tanh(c'), where it is asked for."""
    cdef vec i = vload(gates), f = vload(gates + VL), g = vload(gates + 2 * VL), o = vload(gates + 3 * VL)
    cdef vec one = vset(1), tanh_c = vtanh(vload_some(c_new, count)), d = vload(dh)
    cdef vec d_c = vfma(d * o, one - tanh_c * tanh_c, vload(dc))
    vstore(dgx, d_c * g * (i * (one - i)))
    vstore(dgx + VL, d_c * vload_some(c_prev, count) * (f * (one - f)))
    vstore(dgx + 2 * VL, d_c * i * (one - g * g))
    vstore(dgx + 3 * VL, d * tanh_c * (o * (one - o)))
    vstore(dc, d_c * f)
    vstore(dh, vzero())
    if u != NULL:
        vstore(u, o * tanh_c)


cdef inline void gru_cell_backward(const real* gates, const real* h_prev, Py_ssize_t count, real* dh, real* dgx,
                                   real* dgh) noexcept nogil:
    """dgx: n r z, dgh: r z n."""
    cdef vec n = vload(gates), r = vload(gates + VL), z = vload(gates + 2 * VL), hn = vload(gates + 3 * VL)
    cdef vec one = vset(1), d = vload(dh)
    cdef vec d_n = d * (one - z) * (one - n * n)
    cdef vec d_z = d * (vload_some(h_prev, count) - n) * (z * (one - z))
    cdef vec d_r = d_n * hn * (r * (one - r))
    vstore(dgx, d_n)
    vstore(dgx + VL, d_r)
    vstore(dgx + 2 * VL, d_z)
    vstore(dgh, d_r)
    vstore(dgh + VL, d_z)
    vstore(dgh + 2 * VL, d_n * r)
    vstore(dh, d * z)


cdef inline void rnn_cell_backward(const real* h, Py_ssize_t count, real* dh, real* dgx, bint relu) noexcept nogil:
    cdef Py_ssize_t v
    cdef vec y, d
    for v in range((min(count, PANEL * VL) + VL - 1) // VL):
        y, d = vload_some(h + v * VL, count - v * VL), vload(dh + v * VL)
        vstore(dgx + v * VL, vrelu_backward(y, d) if relu else d * (vset(1) - y * y))
        vstore(dh + v * VL, vzero())


cdef inline void clear_lanes(const Packs* p, Py_ssize_t count, real* dg) noexcept nogil:
    """Zeros for the units that a panel lacks: products read them, and 0 times NaN would not be 0."""
    cdef int v
    if p.cell >= LSTM:
        for v in range(p.nv):
            memset(dg + v * VL + count, 0, (VL - count) * sizeof(real))
    else:
        memset(dg + count, 0, (PANEL * VL - count) * sizeof(real))
