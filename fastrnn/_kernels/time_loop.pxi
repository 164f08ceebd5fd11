# The time loop: one for every cell, direction and number of threads.


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


cdef inline char* at_step(const char* all_steps, Py_ssize_t t, Py_ssize_t stride) noexcept nogil:
    return <char*>all_steps + t * stride if all_steps != NULL else NULL


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
    Py_ssize_t row, row_step            # rows of the batch, backward only
    Py_ssize_t u_panel, u_panel_end     # of columns of units, backward only
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
    memset(&a, 0, sizeof(a))
    a.index, a.parts, a.meeting = index, parts, meeting
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
    if run.N == 0:
        return
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
            step(p, s, a, N, s.z + s.first[j] * p.ldz, now, run.gates != NULL, at_step(run.gates, t, run.gates_t),
                 run.gates_n)
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
    if a.index == 0 and not at and a.long_waits > 2:
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
    add_product(p.k_block, p.nv, r, p.I, a.panel_end - a.panel, p.w_ih + a.panel * p.I * p.nv * VL, s.rows,
                s.z + column, p.ldz)
    return N


cdef void step(const Packs* p, Scratch* s, Part* a, Py_ssize_t N, real* z, int now, bint keep, char* gates,
               Py_ssize_t gates_n) noexcept nogil:
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
        add_product(p.k_block, p.nv, N, p.H_out, panels, p.w_hh + first * p.H_out * p.nv * VL, s.h_rows[now],
                    z + first * PANEL * VL + shift, p.ldz)
        for panel in range(first, first + panels):
            cell(p, panel, N, z, s.h[now], s.c, h, ldh, s.ldc, keep, gates, gates_n)
    if p.P:
        wait(a)
        first, panels = a.hr_panel, a.hr_panel_end - a.hr_panel
        h = s.h[1 - now] + first * PANEL * VL
        for n in range(N):
            memset(h + n * s.ldh, 0, panels * PANEL * VL * sizeof(real))
        add_product(p.k_block, PANEL, N, p.H, panels, p.w_hr + first * p.H * PANEL * VL, s.u_rows, h, s.ldh)


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
