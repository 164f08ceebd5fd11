# Steps of optimizers over the numbers start to stop of a parameter: see _optimizers.h.


cdef class Flat:
    """Pointers to contiguous arrays of one size, the second for reading only; NULL for None."""

    cdef Py_buffer view[5]
    cdef real* at[5]
    cdef Py_ssize_t n

    def __cinit__(self, tuple arrays, Py_ssize_t start, Py_ssize_t stop):
        cdef int i
        for i in range(len(arrays)):
            acquire(arrays[i], &self.view[i], i != 1)
            self.at[i] = <real*>self.view[i].buf + start if arrays[i] is not None else NULL
        self.n = stop - start

    def __dealloc__(self):
        cdef int i
        for i in range(5):
            PyBuffer_Release(&self.view[i])     # does nothing for one that was not acquired


def sgd(tuple arrays, Py_ssize_t start, Py_ssize_t stop, bint flush, real lr, real sign, real decay, real momentum,
        real share, bint first, bint nesterov):
    """arrays: p, g and the buffer of the momentum, which may be None."""
    cdef Flat a = Flat(arrays, start, stop)
    cdef unsigned mode
    with nogil:
        mode = fp_flush_on() if flush else 0
        if a.at[2] == NULL:
            sgd_step(a.n, a.at[0], a.at[1], lr, sign, decay)
        else:
            momentum_step(a.n, a.at[0], a.at[1], a.at[2], lr, sign, decay, momentum, share, first, nesterov)
        if flush:
            fp_restore(mode)


def adam(tuple arrays, Py_ssize_t start, Py_ssize_t stop, bint flush, real lr, real sign, real decay, real kept,
         real rest1, real beta2, real rest2, real eps):
    """arrays: p, g, m, v and the largest v, which may be None."""
    cdef Flat a = Flat(arrays, start, stop)
    cdef unsigned mode
    with nogil:
        mode = fp_flush_on() if flush else 0
        adam_step(a.n, a.at[0], a.at[1], a.at[2], a.at[3], a.at[4], lr, sign, decay, kept, rest1, beta2, rest2, eps)
        if flush:
            fp_restore(mode)


def rmsprop(tuple arrays, Py_ssize_t start, Py_ssize_t stop, bint flush, real lr, real sign, real decay, real alpha,
            real rest, real momentum, real eps):
    """arrays: p, g, v, and b and m, which may be None."""
    cdef Flat a = Flat(arrays, start, stop)
    cdef unsigned mode
    with nogil:
        mode = fp_flush_on() if flush else 0
        rmsprop_step(a.n, a.at[0], a.at[1], a.at[2], a.at[3], a.at[4], lr, sign, decay, alpha, rest, momentum, eps)
        if flush:
            fp_restore(mode)
