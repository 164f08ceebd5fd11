# Backprop through time: the time loop the other way round, for every cell, direction and number of threads.
#
# For a chunk of steps, the last chunk first, the loop forms the gradients of the pre-activations, dgx and dgh, of every
# step and row: a step turns dh into dgx and dgh, and dgh into the dh of the step before. Then three products over all
# rows of the chunk give dx and add to the gradients of the weights. Those never exist for more than a chunk.
#
# Chunks are counted from the first step that was run, and each sum has one order: whoever cuts a sequence at whole
# chunks and goes back through the pieces one after the other gets the same bits, whatever the number of threads.


# Steps of a chunk are a power of two, at most CHUNK_STEPS, so that chunks of every batch size fit into CHUNK_STEPS.
cdef enum: CHUNK_STEPS = 128, BACKWARD_ROWS = 320


cdef struct BackwardPacks:
    Py_ssize_t K            # gate gradients of a row: panels * nv * VL
    Py_ssize_t ldg          # elements from one row of them to the next
    Py_ssize_t panels_x     # of columns of I, H_out, H
    Py_ssize_t panels_h
    Py_ssize_t panels_u
    real* w_ih              # (panels_x, K, PANEL, VL)
    real* w_hh              # (panels_h, K, PANEL, VL)
    real* w_hr              # (panels_u, P, PANEL, VL)


cdef struct Back:
    Run run                 # of the way forth: x, y, h (initial), c (initial), c_all and gates are IN
    const char* dy          # (T, N, H_out) IN or NULL
    Py_ssize_t dy_t, dy_n
    char* dx                # (T, N, I) OUT or NULL
    Py_ssize_t dx_t, dx_n
    char* dh                # (N, H_out) INOUT: gradient of the final state, then of the initial state
    Py_ssize_t dh_n
    char* dc                # (N, H) INOUT, LSTM
    Py_ssize_t dc_n


cdef struct BackScratch:
    Py_ssize_t steps        # per chunk
    Py_ssize_t ldh, ldc, ldx    # elements from row to row: whole panels
    real* dgx               # (steps * N, ldg)
    real* dgh               # (steps * N, ldg), in all cells but GRU dgx itself
    real* dh                # (N, ldh)
    real* dc                # (N, ldc)
    real* dhp               # (steps * N, ldh) with a projection: gradients of what it put out
    real* u                 # (steps * N, ldc) with a projection: what went into it
    real* du                # (N, ldc)
    real* dx                # (steps * N, ldx)
    real* zeros             # (max(ldh, ldc),) the state before an episode's first step: the caller makes them zero
    const real** rows       # (steps * N) for products
    const real** x_rows     # (steps * N): rows of x in a chunk
    const real** h_rows     # (steps * N): the states before the steps
    Py_ssize_t* first       # (steps + 1): row at which a step of the chunk begins


cdef size_t shared_back_scratch(const Packs* p, const BackwardPacks* w, Py_ssize_t T, Py_ssize_t N, bint wants_dx,
                                BackScratch* s, char* memory) noexcept nogil:
    """Point `s` into `memory`; the number of bytes that takes."""
    cdef size_t used = 0
    cdef Py_ssize_t rows
    s.steps = 1
    while 2 * s.steps <= min(CHUNK_STEPS, BACKWARD_ROWS // max(N, 1)) and s.steps < T:
        s.steps *= 2
    rows = s.steps * N
    s.ldh, s.ldc, s.ldx = w.panels_h * PANEL * VL, w.panels_u * PANEL * VL, w.panels_x * PANEL * VL
    s.dgx = <real*>take(memory, &used, rows * w.ldg * sizeof(real))
    s.dgh = <real*>take(memory, &used, rows * w.ldg * sizeof(real)) if p.cell == GRU else s.dgx
    s.dh = <real*>take(memory, &used, N * s.ldh * sizeof(real))
    s.dc = <real*>take(memory, &used, N * s.ldc * sizeof(real) if p.cell == LSTM else 0)
    s.dhp = <real*>take(memory, &used, rows * s.ldh * sizeof(real) if p.P else 0)
    s.u = <real*>take(memory, &used, rows * s.ldc * sizeof(real) if p.P else 0)
    s.du = <real*>take(memory, &used, N * s.ldc * sizeof(real) if p.P else 0)
    s.dx = <real*>take(memory, &used, rows * s.ldx * sizeof(real) if wants_dx else 0)
    s.zeros = <real*>take(memory, &used, max(s.ldh, s.ldc) * sizeof(real))
    return used


cdef size_t own_back_scratch(Py_ssize_t N, BackScratch* s, char* memory) noexcept nogil:
    """The same for what each part has to itself; after `shared_back_scratch`."""
    cdef size_t used = 0
    s.rows = <const real**>take(memory, &used, s.steps * N * sizeof(void*))
    s.x_rows = <const real**>take(memory, &used, s.steps * N * sizeof(void*))
    s.h_rows = <const real**>take(memory, &used, s.steps * N * sizeof(void*))
    s.first = <Py_ssize_t*>take(memory, &used, (s.steps + 1) * sizeof(Py_ssize_t))
    return used


# One of the threads does some rows of the batch in the time loop, or some units of every row: these are whole panels of
# columns of dh. In the products over a chunk each does some of what is computed.
cdef Part make_back_part(const Packs* p, const BackwardPacks* w, int index, int parts, bint by_rows,
                         meeting* meeting) noexcept nogil:
    cdef Part a = make_part(p, 0, 1, meeting)
    cdef Py_ssize_t wide = PANEL * VL, first = w.panels_u * index // parts, last = w.panels_u * (index + 1) // parts
    a.index, a.parts = index, parts
    a.row, a.row_step = 0, 1
    a.u_panel, a.u_panel_end = 0, w.panels_u
    a.hr_panel, a.hr_panel_end = 0, w.panels_h
    if by_rows:
        a.row, a.row_step = index, parts
        return a
    a.u_panel, a.u_panel_end = first, last
    a.panel, a.panel_end = min(first * (wide // p.units), p.panels), min(last * (wide // p.units), p.panels)
    a.unit, a.unit_end = min(first * wide, p.H), min(last * wide, p.H)
    a.hr_panel, a.hr_panel_end = w.panels_h * index // parts, w.panels_h * (index + 1) // parts
    a.out, a.out_end = min(a.hr_panel * wide, p.H_out), min(a.hr_panel_end * wide, p.H_out)
    return a


cdef inline void wait_by_units(Part* a) noexcept nogil:
    if a.row_step == 1:
        wait(a)


cdef inline void wait_in_products(Part* a) noexcept nogil:
    """Here threads may come late for having had more to do: it says nothing of whether others want the processor."""
    if a.parts > 1:
        a.meetings += 1
        meet(a.meeting, a.parts, a.meetings)


cdef inline const real* previous(const Back* b, const BackScratch* s, const char* all_steps, Py_ssize_t stride_t,
                                 Py_ssize_t stride_n, const char* initial, Py_ssize_t initial_n, Py_ssize_t t,
                                 Py_ssize_t n) noexcept nogil:
    """The state of row n before step t, in the order in which steps were run."""
    cdef const Run* run = &b.run
    if run.reverse:
        if t + 1 == (run.T if run.lengths == NULL else run.lengths[n]):
            return <const real*>(initial + n * initial_n)
        if run.reset != NULL and run.reset[(t + 1) * run.reset_t + n * run.reset_n]:
            return s.zeros
        return <const real*>(all_steps + (t + 1) * stride_t + n * stride_n)
    if run.reset != NULL and run.reset[t * run.reset_t + n * run.reset_n]:
        return s.zeros
    if t == 0:
        return <const real*>(initial + n * initial_n)
    return <const real*>(all_steps + (t - 1) * stride_t + n * stride_n)


cdef void backward(const Packs* p, const BackwardPacks* w, const Back* b, BackScratch* s, Part* a,
                   Packs* sums) noexcept nogil:
    """All T steps of one layer in one direction, or one thread's part of them."""
    cdef const Run* run = &b.run
    cdef Py_ssize_t chunk = (run.T + s.steps - 1) // s.steps, start, j, t, n, N = run.N, joined = 0
    cdef bint dropped
    if run.N == 0:
        return
    while chunk > 0:
        chunk -= 1
        start = chunk * s.steps
        N = set_rows(b, s, start, min(s.steps, run.T - start), N)
        for j in range(min(s.steps, run.T - start) - 1, -1, -1):
            t = run.T - 1 - start - j if run.reverse else start + j
            N = s.first[j + 1] - s.first[j]
            for n in range(N, joined):
                leave_back(p, b, s, a, n)
            for n in range(joined, N):
                join_back(p, b, s, a, n)
            joined = N
            if run.reset != NULL and run.reverse:
                stop_at_resets(p, b, s, a, t, N)
            dropped = step_back(p, w, b, s, a, t, s.first[j], N)
            if run.reset != NULL and not run.reverse:
                stop_at_resets(p, b, s, a, t, N)
            if dropped:
                wait(a)     # until all have done this step
                if a.index > 0:
                    return
                a[0] = make_back_part(p, w, 0, 1, False, NULL)
        wait_in_products(a)
        products_back(p, w, b, s, a, start, sums)
        wait_in_products(a)
    for n in range(joined):
        leave_back(p, b, s, a, n)


cdef Py_ssize_t set_rows(const Back* b, BackScratch* s, Py_ssize_t start, Py_ssize_t steps,
                         Py_ssize_t N) noexcept nogil:
    """Number the rows of a chunk's steps that are running, and note where x and the states before are; the last N."""
    cdef const Run* run = &b.run
    cdef Py_ssize_t j, t, n, r = 0
    for j in range(steps):
        t = run.T - 1 - start - j if run.reverse else start + j
        N = active_rows(run, t, N)
        s.first[j] = r
        for n in range(N):
            s.x_rows[r] = <const real*>(run.x + t * run.x_t + n * run.x_n)
            s.h_rows[r] = previous(b, s, run.y, run.y_t, run.y_n, run.h, run.h_n, t, n)
            r += 1
    for j in range(steps, s.steps + 1):
        s.first[j] = r
    return N


cdef bint step_back(const Packs* p, const BackwardPacks* w, const Back* b, BackScratch* s, Part* a, Py_ssize_t t,
                    Py_ssize_t r, Py_ssize_t N) noexcept nogil:
    """One step of N rows, the first of them numbered r: dh of the state after it -> dh of the state before it.

    Returns whether the first thread goes on alone after this step.
    """
    cdef Py_ssize_t n, m = 0, rows = 0, columns = (a.hr_panel_end - a.hr_panel) * PANEL * VL
    cdef Py_ssize_t u_columns = (a.u_panel_end - a.u_panel) * PANEL * VL
    cdef real* dh = s.dh + a.hr_panel * PANEL * VL
    cdef real* du = s.du + a.u_panel * PANEL * VL
    cdef bint dropped
    n = a.row
    while n < N:
        if b.dy != NULL:
            add_row(s.dh + n * s.ldh + a.out, <const real*>(b.dy + t * b.dy_t + n * b.dy_n) + a.out, a.out_end - a.out)
        if p.P:
            copy_row(s.dhp + (r + n) * s.ldh + a.hr_panel * PANEL * VL, dh + n * s.ldh, columns)
            memset(dh + n * s.ldh, 0, columns * sizeof(real))
            memset(du + n * s.ldc, 0, u_columns * sizeof(real))
            s.rows[rows] = s.dhp + (r + n) * s.ldh
        rows += 1
        n += a.row_step
    if p.P:
        wait_by_units(a)    # until dhp is whole
        add_product(K_BLOCK, PANEL, rows, p.P, a.u_panel_end - a.u_panel, w.w_hr + a.u_panel * p.P * PANEL * VL, s.rows,
                    du + a.row * s.ldc, a.row_step * s.ldc)
    n = a.row
    while n < N:
        gates_back(p, w, b, s, a, t, r + n, n)
        s.rows[m] = s.dgh + (r + n) * w.ldg
        m += 1
        n += a.row_step
    wait_by_units(a)        # until dgh is whole
    dropped = a.parts > 1 and a.row_step == 1 and drops_out(a)
    add_product(K_BLOCK, PANEL, rows, w.K, a.hr_panel_end - a.hr_panel, w.w_hh + a.hr_panel * w.K * PANEL * VL, s.rows,
                dh + a.row * s.ldh, a.row_step * s.ldh)
    return dropped


cdef void gates_back(const Packs* p, const BackwardPacks* w, const Back* b, BackScratch* s, const Part* a, Py_ssize_t t,
                     Py_ssize_t r, Py_ssize_t n) noexcept nogil:
    """The gate gradients of one row."""
    cdef const Run* run = &b.run
    cdef const real* gates = <const real*>at_step(at_step(run.gates, t, run.gates_t), n, run.gates_n)
    cdef const real* h = <const real*>(run.y + t * run.y_t + n * run.y_n)
    cdef const real* c = <const real*>at_step(at_step(run.c_all, t, run.c_all_t), n, run.c_all_n)
    cdef const real* c_prev = NULL
    cdef real* dh = s.du + n * s.ldc if p.P else s.dh + n * s.ldh
    cdef real* dgx
    cdef Py_ssize_t panel, unit, count, at
    if p.cell == LSTM:
        c_prev = previous(b, s, run.c_all, run.c_all_t, run.c_all_n, run.c, run.c_n, t, n)
    for panel in range(a.panel, a.panel_end):
        unit, at = panel * p.units, r * w.ldg + panel * p.nv * VL
        count, dgx = min(p.H - unit, p.units), s.dgx + at
        if p.cell == LSTM:
            lstm_cell_backward(gates + panel * PANEL * VL, c + unit, c_prev + unit, count, dh + unit,
                               s.dc + n * s.ldc + unit, dgx, s.u + r * s.ldc + unit if p.P else NULL)
        elif p.cell == GRU:
            gru_cell_backward(gates + panel * PANEL * VL, s.h_rows[r] + unit, count, dh + unit, dgx, s.dgh + at)
        else:
            rnn_cell_backward(h + unit, count, dh + unit, dgx, p.cell == RNN_RELU)
        if count < p.units:
            clear_lanes(p, count, dgx)
            if p.cell == GRU:
                clear_lanes(p, count, s.dgh + at)


cdef void products_back(const Packs* p, const BackwardPacks* w, const Back* b, BackScratch* s, const Part* a,
                        Py_ssize_t start, Packs* sums) noexcept nogil:
    """What all rows of a chunk give: dx, and their part of the gradients of the weights."""
    cdef Py_ssize_t R = s.first[s.steps], first = R * a.index // a.parts, last = R * (a.index + 1) // a.parts
    cdef Py_ssize_t r, j, n, t
    cdef const Run* run = &b.run
    if b.dx != NULL and first < last:
        for r in range(first, last):
            s.rows[r] = s.dgx + r * w.ldg
        memset(s.dx + first * s.ldx, 0, (last - first) * s.ldx * sizeof(real))
        add_product(K_BLOCK, PANEL, last - first, w.K, w.panels_x, w.w_ih, s.rows + first, s.dx + first * s.ldx, s.ldx)
        j = 0
        for r in range(first, last):
            while s.first[j + 1] <= r:
                j += 1
            n, t = r - s.first[j], run.T - 1 - start - j if run.reverse else start + j
            copy_row(<real*>(b.dx + t * b.dx_t + n * b.dx_n), s.dx + r * s.ldx, p.I)
    if sums == NULL:
        return
    add_outer(p.nv, R, s.x_rows, p.I, p.I * a.index // a.parts, p.I * (a.index + 1) // a.parts, p.panels, s.dgx, w.ldg,
              sums.w_ih)
    add_outer(p.nv, R, s.h_rows, p.H_out, p.H_out * a.index // a.parts, p.H_out * (a.index + 1) // a.parts, p.panels,
              s.dgh, w.ldg, sums.w_hh)
    if p.P:
        for r in range(R):
            s.rows[r] = s.u + r * s.ldc
        add_outer(PANEL, R, s.rows, p.H, p.H * a.index // a.parts, p.H * (a.index + 1) // a.parts, p.panels_hr, s.dhp,
                  s.ldh, sums.w_hr)
    for n in range(p.panels * a.index // a.parts, p.panels * (a.index + 1) // a.parts):
        add_rows(p.nv, R, s.dgx + n * p.nv * VL, w.ldg, sums.bias + n * PANEL * VL)
        if p.cell == GRU:   # dgx: n r z, dgh: r z n
            add_rows(1, R, s.dgh + (n * p.nv + 2) * VL, w.ldg, sums.bias + (n * PANEL + 3) * VL)


cdef inline void add_row(real* to, const real* a, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i + VL <= count:
        vstore(to + i, vload(to + i) + vload(a + i))
        i += VL
    while i < count:
        to[i] += a[i]
        i += 1


cdef inline void add_rows(int nv, Py_ssize_t rows, const real* g, Py_ssize_t ldg, real* sums) noexcept nogil:
    """sums (nv, VL) += the sum of g (rows, nv, VL)."""
    cdef vec acc
    cdef Py_ssize_t r
    cdef int v
    for v in range(nv):
        acc = vzero()
        for r in range(rows):
            acc = acc + vload(g + r * ldg + v * VL)
        vstore(sums + v * VL, vload(sums + v * VL) + acc)


cdef inline bint has_row(const Part* a, Py_ssize_t n) noexcept nogil:
    return n % a.row_step == a.row


cdef void join_back(const Packs* p, const Back* b, BackScratch* s, const Part* a, Py_ssize_t n) noexcept nogil:
    """A row's last step is the first on the way back."""
    cdef Py_ssize_t column = a.hr_panel * PANEL * VL
    if not has_row(a, n):
        return
    memset(s.dh + n * s.ldh + column, 0, (a.hr_panel_end - a.hr_panel) * PANEL * VL * sizeof(real))
    copy_row(s.dh + n * s.ldh + a.out, <const real*>(b.dh + n * b.dh_n) + a.out, a.out_end - a.out)
    if p.cell == LSTM:
        memset(s.dc + n * s.ldc + a.u_panel * PANEL * VL, 0, (a.u_panel_end - a.u_panel) * PANEL * VL * sizeof(real))
        copy_row(s.dc + n * s.ldc + a.unit, <const real*>(b.dc + n * b.dc_n) + a.unit, a.unit_end - a.unit)


cdef void leave_back(const Packs* p, const Back* b, BackScratch* s, const Part* a, Py_ssize_t n) noexcept nogil:
    if not has_row(a, n):
        return
    copy_row(<real*>(b.dh + n * b.dh_n) + a.out, s.dh + n * s.ldh + a.out, a.out_end - a.out)
    if p.cell == LSTM:
        copy_row(<real*>(b.dc + n * b.dc_n) + a.unit, s.dc + n * s.ldc + a.unit, a.unit_end - a.unit)


cdef void stop_at_resets(const Packs* p, const Back* b, BackScratch* s, const Part* a, Py_ssize_t t,
                         Py_ssize_t N) noexcept nogil:
    """No gradient crosses from an episode into the one before."""
    cdef const Run* run = &b.run
    cdef Py_ssize_t n = a.row
    while n < N:
        if run.reset[t * run.reset_t + n * run.reset_n]:
            memset(s.dh + n * s.ldh + a.out, 0, (a.out_end - a.out) * sizeof(real))
            if p.cell == LSTM:
                memset(s.dc + n * s.ldc + a.unit, 0, (a.unit_end - a.unit) * sizeof(real))
        n += a.row_step
