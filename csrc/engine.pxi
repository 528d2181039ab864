# Declarations of the engine for the binding; documented in the headers.
cdef extern from "Python.h":
    # Declared here so that the exception it leaves stays where it is.
    int PyErr_CheckSignals() noexcept

cdef extern from "runtime.h" namespace "fastrnn" nogil:
    cdef enum class Input(int):
        none
        step
        chunk
        ahead
    cdef cppclass Path:
        int parts, bf16_parts
        cbool by_units, packed, merged
        Input input
        ptrdiff_t chunk
    cdef cppclass Ran(Path):
        ptrdiff_t steps
    cdef cppclass Stop:
        cbool requested()
    cdef cppclass Interruptible:
        const Stop* begin(cbool (*check)() noexcept)
    cdef cppclass Call:
        ptrdiff_t T, N, D, H
        const void* x
        ptrdiff_t x_time, x_row
        const void* state[2]
        const void* Wx
        ptrdiff_t Wx_row, Wx_col
        const void* Wh
        ptrdiff_t Wh_row, Wh_col
        const void* bx
        const void* bh
        const uint8_t* flags
        const void* reset[2]
        int reverse, threads, bf16_parts, per_sequence
        Path path
        const Stop* stop
    cdef cppclass ForwardCall(Call):
        int keep
        void* y
        ptrdiff_t y_time, y_row
        void* last[2]
        void* saved
    cdef cppclass BackwardCall(Call):
        const void* y
        ptrdiff_t y_time, y_row
        const void* saved
        const void* dy
        ptrdiff_t dy_time, dy_row
        const void* dlast[2]
        void* dx
        void* dstate[2]
        void* dreset[2]
        void* dWx
        void* dWh
        void* dslots
        double clip
        int clip_norm
    cdef cppclass Kernel:
        const char* cell
        int bytes, bf16_parts
        size_t (*saved_size)(const Call&) noexcept nogil
    cdef cppclass Variant:
        const char* name
        const Kernel* kernels
        int count
    cdef cppclass Kernels:
        const Kernel* plain
        vector[const Kernel*] split
        Path forward_path(const Call&)
        Path backward_path(const Call&)
        const char* forward_refusal(const Call&)
        const char* backward_refusal(const Call&)
        cbool forward(const ForwardCall&, Ran&) except + nogil
        cbool backward(const BackwardCall&, Ran&) except + nogil
    cdef cppclass LastCall:
        vector[Ran] layers
        int at_once
    const Variant* find_variant(const char* wanted)
    const char* variant_names()
    vector[Kernels] all_kernels(const Variant* variant) except +
    int find_kernels(const vector[Kernels]& kernels, const char* cell, int bytes)
    void* take_buffer(size_t bytes)
    void give_buffer(void* at, size_t bytes)
    LastCall& last_call_ "fastrnn::last_call"()
    size_t huge_page

cdef extern from "stack.h" namespace "fastrnn" nogil:
    cdef cppclass Drop:
        # "from" is a word of Python.
        const void* source "from"
        void* to
        ptrdiff_t count
        uint64_t key, threshold
        double scale
    cdef cppclass Join:
        void* dx
        const void* other
        ptrdiff_t count
        Drop drop
    cdef cppclass Finished:
        const void* source "from"
        ptrdiff_t rows, columns
        void* to
        ptrdiff_t row, col
    cbool forward_stack(const Kernels& kernels, vector[ForwardCall]& calls, int directions, int threads,
                        const vector[char]& apart, const vector[Drop]& drops) except +
    cbool backward_stack(const Kernels& kernels, vector[BackwardCall]& calls, int directions,
                         const vector[char]& apart, const vector[Join]& joins) except +
    void finish(const vector[Finished]& gradients, int bytes, cbool add)
