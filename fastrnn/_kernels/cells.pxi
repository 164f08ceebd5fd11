# The cells: z of one panel -> new state. With `keep`, a constant at every call, `gates` gets what the way back wants to
# know.


cdef inline void lstm_cell(const real* z, real* c, real* h, bint keep, real* gates) noexcept nogil:
    """c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')      (torch.nn.LSTM)"""
    cdef vec i = vsigmoid(vload(z)), f = vsigmoid(vload(z + VL)), g = vtanh(vload(z + 2 * VL))
    cdef vec o = vsigmoid(vload(z + 3 * VL)), c_new = vfma(f, vload(c), i * g)
    vstore(c, c_new)
    vstore(h, o * vtanh(c_new))
    if keep:
        vstore(gates, i)
        vstore(gates + VL, f)
        vstore(gates + 2 * VL, g)
        vstore(gates + 3 * VL, o)


cdef inline void gru_cell(const real* z, const real* h_prev, real* h, bint keep, real* gates) noexcept nogil:
    """n = tanh(n_x + r n_h);  h' = (1 - z) n + z h      (torch.nn.GRU)"""
    cdef vec r = vsigmoid(vload(z + VL)), u = vsigmoid(vload(z + 2 * VL)), hn = vload(z + 3 * VL)
    cdef vec n = vtanh(vfma(r, hn, vload(z)))
    vstore(h, vfma(u, vload(h_prev) - n, n))
    if keep:
        vstore(gates, n)
        vstore(gates + VL, r)
        vstore(gates + 2 * VL, u)
        vstore(gates + 3 * VL, hn)


cdef inline void rnn_cell(const real* z, real* h, Py_ssize_t units, bint relu) noexcept nogil:
    """h' = tanh(z) or relu(z)      (torch.nn.RNN)"""
    cdef Py_ssize_t v
    for v in range(min(PANEL, (units + VL - 1) // VL)):
        vstore(h + v * VL, vrelu(vload(z + v * VL)) if relu else vtanh(vload(z + v * VL)))


cdef void cell(const Packs* p, Py_ssize_t panel, Py_ssize_t N, const real* z, const real* h_prev, real* c, real* h,
               Py_ssize_t ldh, Py_ssize_t ldc, bint keep, char* gates, Py_ssize_t gates_n) noexcept nogil:
    """The new state of one panel for all N rows."""
    cdef Py_ssize_t n, unit = panel * p.units, at = panel * PANEL * VL
    z += at
    for n in range(N):
        if p.cell == LSTM:
            if keep:
                lstm_cell(z + n * p.ldz, c + n * ldc + unit, h + n * ldh + unit, True,
                          <real*>(gates + n * gates_n) + at)
            else:
                lstm_cell(z + n * p.ldz, c + n * ldc + unit, h + n * ldh + unit, False, NULL)
        elif p.cell == GRU:
            if keep:
                gru_cell(z + n * p.ldz, h_prev + n * ldh + unit, h + n * ldh + unit, True,
                         <real*>(gates + n * gates_n) + at)
            else:
                gru_cell(z + n * p.ldz, h_prev + n * ldh + unit, h + n * ldh + unit, False, NULL)
        else:
            rnn_cell(z + n * p.ldz, h + n * ldh + unit, p.H - unit, p.cell == RNN_RELU)
