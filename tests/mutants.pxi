# What tests/mutate.py puts into a copy of the kernels. MUTANT says which mutant is in force: 0 none.

import os
cdef int MUTANT = int(os.environ.get("FASTRNN_MUTANT", "0"))

cdef inline vec term(int number, vec value) noexcept nogil:
    return -value if MUTANT == number else vzero() if MUTANT == number + 1 else value

cdef inline vec factor(int number, vec value) noexcept nogil:
    return vset(1) if MUTANT == number else value

cdef inline real number_term(int number, real value) noexcept nogil:
    return -value if MUTANT == number else 0 if MUTANT == number + 1 else value

# What the loop calls, subtracting.

cdef void flip(Py_ssize_t rows, Py_ssize_t columns, real* a, Py_ssize_t lda) noexcept nogil:
    cdef Py_ssize_t r, c
    for r in range(rows):
        for c in range(columns):
            a[r * lda + c] = -a[r * lda + c]

cdef void minus_copy_row(real* to, const real* source, Py_ssize_t count) noexcept nogil:
    copy_row(to, source, count)
    flip(1, count, to, 0)

cdef void minus_add_row(real* to, const real* a, Py_ssize_t count) noexcept nogil:
    flip(1, count, to, 0)
    add_row(to, a, count)
    flip(1, count, to, 0)

cdef void minus_add_rows(int nv, Py_ssize_t rows, const real* g, Py_ssize_t ldg, real* sums) noexcept nogil:
    flip(1, nv * VL, sums, 0)
    add_rows(nv, rows, g, ldg, sums)
    flip(1, nv * VL, sums, 0)

cdef void minus_add_product(Py_ssize_t k_block, int nv, Py_ssize_t rows, Py_ssize_t K, Py_ssize_t panels, const real* w,
                            const real** a, real* z, Py_ssize_t ldz) noexcept nogil:
    flip(rows, panels * PANEL * VL, z, ldz)
    add_product(k_block, nv, rows, K, panels, w, a, z, ldz)
    flip(rows, panels * PANEL * VL, z, ldz)

cdef void minus_add_outer(int nv, Py_ssize_t rows, const real** a, Py_ssize_t C, Py_ssize_t first, Py_ssize_t last,
                          Py_ssize_t panels, const real* g, Py_ssize_t ldg, real* sums) noexcept nogil:
    flip(panels, (last - first) * nv * VL, sums + first * nv * VL, C * nv * VL)
    add_outer(nv, rows, a, C, first, last, panels, g, ldg, sums)
    flip(panels, (last - first) * nv * VL, sums + first * nv * VL, C * nv * VL)
