# NumPy arrays as the engine takes them: which it can read in place, copies of the others, and new ones.

cdef enum:
    LINE = 64  # bytes of a cache line
    SMALL = 1024  # bytes up to which an array is not aligned


cdef bint behaved(cnp.ndarray array):
    """Whether the array is aligned, strides included, and in native byte order."""
    return cnp.PyArray_ISALIGNED(array) and cnp.PyArray_ISNOTSWAPPED(array)


cdef bint is_array(object value, int typenum, int ndim, ptrdiff_t a, ptrdiff_t b, ptrdiff_t c):
    """Whether `value` is an aligned array of this type and shape, whose first `ndim` sizes are `a`, `b`, `c`."""
    if type(value) is not cnp.ndarray or not behaved(value) or cnp.PyArray_TYPE(<cnp.ndarray> value) != typenum:
        return False
    if cnp.PyArray_NDIM(<cnp.ndarray> value) != ndim or cnp.PyArray_DIM(<cnp.ndarray> value, 0) != a:
        return False
    if ndim > 1 and cnp.PyArray_DIM(<cnp.ndarray> value, 1) != b:
        return False
    return ndim < 3 or cnp.PyArray_DIM(<cnp.ndarray> value, 2) == c


cdef cnp.ndarray contiguous_rows(cnp.ndarray array):
    """`array` (.., .., D) itself if its rows are contiguous (unit stride in the last axis), else a C-ordered copy."""
    cdef int last = cnp.PyArray_NDIM(array) - 1
    cdef bint unit = cnp.PyArray_STRIDE(array, last) == cnp.PyArray_ITEMSIZE(array) or cnp.PyArray_DIM(array, last) == 1
    return array if unit and behaved(array) else np.array(array, order="C")


cdef cnp.ndarray strided(cnp.ndarray array):
    return array if behaved(array) else np.array(array, order="C")


cdef cnp.ndarray contiguous(cnp.ndarray array):
    return array if cnp.PyArray_IS_C_CONTIGUOUS(array) and behaved(array) else np.array(array, order="C")


cdef cnp.ndarray empty(int typenum, ptrdiff_t a, ptrdiff_t b):
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = a, b
    return cnp.PyArray_EMPTY(2, shape, typenum, 0)


cdef cnp.ndarray aligned(int typenum, int item, int ndim, cnp.npy_intp* shape):
    """An uninitialised array aligned to a cache line, unless it is so small that a second object would cost more."""
    cdef cnp.npy_intp size = LINE // item
    cdef cnp.npy_intp count = 1
    for i in range(ndim):
        count *= shape[i]
    if count * item <= SMALL:
        return cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
    size += count
    cdef cnp.ndarray memory = cnp.PyArray_EMPTY(1, &size, typenum, 0)
    cdef char* start = <char*> cnp.PyArray_DATA(memory)
    start += (LINE - <uintptr_t> start % LINE) % LINE
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(ndim, shape, typenum, start)
    cnp.set_array_base(array, memory)
    return array


cdef class Buffer:
    """Memory that returns to the engine, for the next forward pass, with the last array in it."""

    cdef void* at
    cdef size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.at = take_buffer(size)
        if self.at == NULL:
            raise MemoryError(f"{size} bytes for what BPTT needs")

    def __dealloc__(self):
        if self.at != NULL:
            give_buffer(self.at, self.size)


cdef cnp.ndarray kept_array(int typenum, int item, cnp.npy_intp count):
    """An array for what a forward pass keeps, aligned to a cache line."""
    if count * item < <cnp.npy_intp> huge_page:
        return aligned(typenum, item, 1, &count)
    cdef Buffer buffer = Buffer(count * item)
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(1, &count, typenum, buffer.at)
    cnp.set_array_base(array, buffer)
    return array
