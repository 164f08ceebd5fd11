# The cells: z of one panel -> new state.


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


cdef inline void rnn_cell(const real* z, real* h, Py_ssize_t units, bint relu) noexcept nogil:
    """h' = tanh(z) or relu(z)      (torch.nn.RNN)"""
    cdef Py_ssize_t v
    for v in range(min(PANEL, (units + VL - 1) // VL)):
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
            rnn_cell(z + n * p.ldz, h + n * ldh + unit, p.H - unit, p.cell == RNN_RELU)
