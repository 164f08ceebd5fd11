"""Memory that kernels like, and where arrays lie in it."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "_alloc.h":
    void* aligned_new(size_t bytes) nogil
    void aligned_delete(void* p, size_t bytes) nogil


cdef class Memory:
    """A block of memory for an array, taken from those that were given back before."""

    cdef void* memory
    cdef readonly Py_ssize_t bytes

    def __cinit__(self, Py_ssize_t bytes):
        self.bytes = bytes
        self.memory = aligned_new(bytes)
        if self.memory == NULL:
            raise MemoryError(f"no memory for {bytes} bytes")

    @property
    def address(self) -> int:
        return <Py_ssize_t>self.memory

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, self.bytes, False, flags)

    def __dealloc__(self):
        aligned_delete(self.memory, self.bytes)


def locate(Py_ssize_t[::1] to, tuple arrays):
    """Write down of each array where it lies and its first two strides in bytes: three numbers, zeros for None."""
    cdef Py_buffer view
    cdef Py_ssize_t i = 0
    if 3 * len(arrays) > to.shape[0]:
        raise ValueError(f"to should have room for {3 * len(arrays)} numbers, got: {to.shape[0]}")
    for array in arrays:
        to[i] = to[i + 1] = to[i + 2] = 0
        if array is not None:
            PyObject_GetBuffer(array, &view, PyBUF_STRIDES | PyBUF_FORMAT)
            to[i] = <Py_ssize_t>view.buf
            if view.ndim > 0:
                to[i + 1] = view.strides[0]
            if view.ndim > 1:
                to[i + 2] = view.strides[1]
            PyBuffer_Release(&view)
        i += 3
