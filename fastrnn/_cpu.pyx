"""Which x86-64 level the processor and the operating system offer."""

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(_MSC_VER) && defined(__clang__)
    /* The builtin below is in a library of clang's that is not linked with Microsoft's. */
    static int has(unsigned leaf, int ecx, unsigned bits) {
        unsigned a = leaf, b, c = 0, d;
        __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        return ((ecx ? c : b) & bits) == bits;
    }
    static int saves(unsigned bits) {
        unsigned a, d;
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        return (a & bits) == bits;
    }
    #define BIT(n) (1u << n)
    static int fastrnn_x86_64_level(void) {
        /* sse3 ssse3 cx16 sse4.1 sse4.2 popcnt */
        if (!has(1, 1, BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23))) return 1;
        /* fma movbe osxsave avx f16c, bmi1 avx2 bmi2, lzcnt, and the system saves the registers */
        if (!has(1, 1, BIT(12) | BIT(22) | BIT(27) | BIT(28) | BIT(29)) || !has(7, 0, BIT(3) | BIT(5) | BIT(8)) ||
            !has(0x80000001, 1, BIT(5)) || !saves(0x06)) return 2;
        /* avx512f avx512dq avx512cd avx512bw avx512vl */
        if (!has(7, 0, BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31)) || !saves(0xe6)) return 3;
        return 4;
    }
    #elif (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
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
