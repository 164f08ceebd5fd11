# Matrix products over panels of packed weights.


cdef void add_product(Py_ssize_t k_block, int nv, Py_ssize_t rows, Py_ssize_t K, Py_ssize_t panels, const real* w,
                      const real** a, real* z, Py_ssize_t ldz) noexcept nogil:
    """z (rows, panels, PANEL, VL) += a (rows, K) @ w (panels, K, nv, VL), in sums of `k_block` terms.

    Rows are spread evenly over tiles (32 = 6+6+5+5+5+5); a panel's weights for one block of k stay in the first-level
    cache for all of them. One row takes two panels at a time instead, for more independent sums.
    """
    cdef Py_ssize_t most = ROWS_3 if nv == 3 else ROWS_4, tiles = (rows + most - 1) // most
    cdef Py_ssize_t blocks = (K + k_block - 1) // k_block, step = K * nv * VL
    cdef Py_ssize_t panel = 0, b, k, kb, m, t
    cdef int r
    while panel < panels:
        if rows == 1 and panel + 1 < panels:
            for b in range(blocks):
                k = b * k_block
                kb = min(K - k, k_block)
                if nv == 3:
                    tile_pair_3(kb, w + k * nv * VL, step, a, k, z, ldz)
                else:
                    tile_pair_4(kb, w + k * nv * VL, step, a, k, z, ldz)
            panel += 2
            w += 2 * step
            z += 2 * PANEL * VL
            continue
        for b in range(blocks):
            k = b * k_block
            kb = min(K - k, k_block)
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


# Rows that one product of gradients sums up: what they have of one panel stays in the first-level cache.
cdef enum: OUTER_ROWS = 128


cdef void add_outer(int nv, Py_ssize_t rows, const real** a, Py_ssize_t C, Py_ssize_t first, Py_ssize_t last,
                    Py_ssize_t panels, const real* g, Py_ssize_t ldg, real* sums) noexcept nogil:
    """sums (panels, C, nv, VL) += a (rows, C) transposed @ g (rows, panels, nv, VL); columns first..last of a only."""
    cdef Py_ssize_t most = ROWS_3 if nv == 3 else ROWS_4, columns = last - first, tiles = (columns + most - 1) // most
    cdef Py_ssize_t panel, r, count, t, c
    cdef int m
    for panel in range(panels):
        r = 0
        while r < rows:
            count = min(rows - r, OUTER_ROWS)
            c = first
            for t in range(tiles):
                m = columns // tiles + (t < columns % tiles)
                if nv == 3:
                    outer_3(m, count, g + r * ldg, ldg, a + r, c, sums + c * nv * VL)
                else:
                    outer_4(m, count, g + r * ldg, ldg, a + r, c, sums + c * nv * VL)
                c += m
            r += count
        g += nv * VL
        sums += C * nv * VL
