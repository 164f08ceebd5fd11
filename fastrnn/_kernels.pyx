# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Time loops of RNN, LSTM and GRU on vector lanes, forward and backward: one layer, one direction, all steps.

One source, compiled once per element type (`real` is float or double) and instruction set (`VL` lanes in a `vec`).

The hidden units are cut into panels. A panel is PANEL = 4 vectors of pre-activations `z` per row:

    LSTM      i f g o                  of VL units
    GRU       n r z hn                 of VL units; n holds the input part, hn the recurrent part of the n gate
    RNN       VL units each            of 4 * VL units

Weights are packed once, panel by panel, as [panel][k][vector][lane], so that the inner loop of `tile` reads them in
one stream. Units that H lacks to a full panel have weights of zero; nothing reads what is computed for them.

For a chunk of steps, `add_product` forms the input part of z as one matrix product. Then, step by step and panel by
panel, it adds the recurrent part, and the cell turns the panel's z into the new state while it is still in cache.

Every element of z is added up in one order: bias, x in blocks of `k_block` with k ascending, h likewise. A result is
therefore the same to the last bit whatever the batch, the chunks of time, and whether it was streamed.

The way back, `_kernels/backward_loop.pxi`, has products of the same kind: gate gradients, in panels as well, times the
weights by columns; and sums of the weights' gradients that lie as the packed weights do.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memset


cdef extern from "_simd.h" nogil:
    ctypedef double real    # float or double: the build decides
    ctypedef double vec
    const Py_ssize_t VL
    vec vload(const real*)
    void vstore(real*, vec)
    void vstore_part(real*, vec, Py_ssize_t)
    vec vset(real)
    void vtranspose(const real*, Py_ssize_t lda, real* to, Py_ssize_t ldt)
    vec vload_part(const real*, Py_ssize_t)
    vec vzero()
    vec vfma(vec, vec, vec)
    vec vsigmoid(vec)
    vec vtanh(vec)
    vec vrelu(vec)
    vec vrelu_backward(vec, vec)
    unsigned fp_flush_on()
    void fp_restore(unsigned)

cdef extern from "_tile.h" nogil:
    const Py_ssize_t PANEL, ROWS_4, ROWS_3
    void tile_4(int rows, Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                Py_ssize_t ldz)
    void tile_3(int rows, Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                Py_ssize_t ldz)
    void tile_pair_4(Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                     Py_ssize_t ldz)
    void tile_pair_3(Py_ssize_t K, const real* w, Py_ssize_t w_next, const real** a, Py_ssize_t k, real* z,
                     Py_ssize_t ldz)
    void outer_4(int columns, Py_ssize_t K, const real* g, Py_ssize_t ldg, const real** a, Py_ssize_t c, real* sums)
    void outer_3(int columns, Py_ssize_t K, const real* g, Py_ssize_t ldg, const real** a, Py_ssize_t c, real* sums)

cdef extern from "_alloc.h" nogil:
    void* aligned_new(size_t)
    void aligned_delete(void*, size_t)


cdef extern from "_meet.h" nogil:
    ctypedef struct meeting:
        pass
    bint meet(meeting*, long parts, long count)
    long meet_drop_at(meeting*)
    void meet_drop(meeting*, long count)
    long meet_yields()

cdef extern from "_optimizers.h" nogil:
    void sgd_step(Py_ssize_t n, real* p, const real* g, real lr, real sign, real decay)
    void momentum_step(Py_ssize_t n, real* p, const real* g, real* b, real lr, real sign, real decay, real momentum,
                       real share, bint first, bint nesterov)
    void adam_step(Py_ssize_t n, real* p, const real* g, real* m, real* v, real* largest, real lr, real sign,
                   real decay, real kept, real rest1, real beta2, real rest2, real eps)
    void rmsprop_step(Py_ssize_t n, real* p, const real* g, real* v, real* b, real* m, real lr, real sign, real decay,
                      real alpha, real rest, real momentum, real eps)


cdef enum Cell: RNN_TANH, RNN_RELU, LSTM, GRU

CELLS = {"rnn_tanh": RNN_TANH, "rnn_relu": RNN_RELU, "lstm": LSTM, "gru": GRU}
cdef int[4] GATES = [1, 1, 4, 3]

# Short sums round less; an RNN has no gate that damps the error of its state. RNN, I=H=64, three layers, mean error over
# torch's: 1.74 with 128, 1.48 with 64, 1.11 with 32, which costs 3 % of the time.
cdef enum: K_BLOCK = 128, K_BLOCK_RNN = 32

# Rows of z formed by one product: enough to use each weight often, few enough to stay in cache.
cdef enum: CHUNK_ROWS = 192, CHUNK_ROWS_MIN = 24, CHUNK_BYTES = 256 * 1024


cdef struct Packs:
    int cell
    Py_ssize_t k_block      # products are added up in sums of this many, and these one after the other
    int nv                  # vectors of weights per panel and k: 3 for GRU, else 4
    Py_ssize_t I, H, P      # P: size of the projection, 0 without one
    Py_ssize_t H_out        # P or H: what is put out and fed back
    Py_ssize_t panels       # of z
    Py_ssize_t units        # per panel
    Py_ssize_t ldz          # elements from one row of z to the next
    Py_ssize_t panels_hr
    real* bias              # (panels, PANEL, VL)
    real* w_ih              # (panels, I, nv, VL)
    real* w_hh              # (panels, H_out, nv, VL)
    real* w_hr              # (panels_hr, H, PANEL, VL)


cdef struct Run:
    Py_ssize_t T, N
    const char* x           # (T, N, I) IN, any strides over T and N
    Py_ssize_t x_t, x_n     # strides in bytes
    char* y                 # (T, N, H_out) OUT, rows past their length are left alone
    Py_ssize_t y_t, y_n
    char* h                 # (N, H_out) INOUT: initial state, then final state
    Py_ssize_t h_n
    char* c                 # (N, H) INOUT, LSTM
    Py_ssize_t c_n
    char* c_all             # (T, N, H) OUT or NULL
    Py_ssize_t c_all_t, c_all_n
    char* gates             # (T, N, panels, PANEL, VL) OUT or NULL: i f g o, or n r z hn
    Py_ssize_t gates_t, gates_n
    const Py_ssize_t* lengths   # (N,) decreasing, or NULL
    const char* reset       # (T, N) bool or NULL
    Py_ssize_t reset_t, reset_n
    bint reverse


cdef int acquire(object array, Py_buffer* buffer, bint writable=False, Py_ssize_t itemsize=sizeof(real)) except -1:
    """The buffer of an array whose shape and order the caller has made sure of."""
    if array is None:
        memset(buffer, 0, sizeof(Py_buffer))
        return 0
    PyObject_GetBuffer(array, buffer, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    if buffer.itemsize != itemsize:
        PyBuffer_Release(buffer)
        raise TypeError(f"expected an array with elements of {itemsize} bytes, got: {array.dtype}")
    return 0


include "_kernels/cells.pxi"
include "_kernels/cells_backward.pxi"
include "_kernels/products.pxi"
include "_kernels/packing.pxi"
include "_kernels/time_loop.pxi"
include "_kernels/backward_loop.pxi"
include "_kernels/weights.pxi"
include "_kernels/calls.pxi"
include "_kernels/backward_call.pxi"
include "_kernels/matrix.pxi"
include "_kernels/optimizers.pxi"
