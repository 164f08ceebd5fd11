"""Which x86-64 level the processor and the operating system offer."""

cdef extern from *:
    """
    #if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__) && !defined(_MSC_VER)
    static int fastrnn_x86_64_level(void) {
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))) return 1;
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))) return 2;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl"))) return 3;
        return 4;
    }
    #else
    static int fastrnn_x86_64_level(void) { return 0; }
    #endif
    """
    int fastrnn_x86_64_level() nogil


def x86_64_level() -> int:
    """1 to 4 on x86-64, 0 elsewhere."""
    return fastrnn_x86_64_level()
