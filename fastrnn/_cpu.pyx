"""Which x86-64 level the processor and the operating system offer."""

cdef extern from *:
    """
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) /* clang-cl defines only the second */
    /* Not __builtin_cpu_supports: compilers know different parts of a level by name, and where clang is used with
       Microsoft's libraries it does not link. */
    static void cpuid(unsigned leaf, unsigned *a, unsigned *b, unsigned *c) {
        unsigned d;
        *a = leaf, *c = 0;
        __asm__ volatile("cpuid" : "+a"(*a), "=b"(*b), "+c"(*c), "=d"(d));
    }
    static int has(unsigned leaf, int ecx, unsigned bits) {
        unsigned a, b, c;
        cpuid(leaf & 0x80000000u, &a, &b, &c); /* the last leaf there is: what comes for one beyond is arbitrary */
        if (a < leaf) return 0;
        cpuid(leaf, &a, &b, &c);
        return ((ecx ? c : b) & bits) == bits;
    }
    static int saves(unsigned bits) {
        unsigned a, d;
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
        return (a & bits) == bits;
    }
    #if defined(__APPLE__)
    #define SAVES_512 0x06 /* macOS saves the AVX-512 registers from their first use on, and says so only then */
    #else
    #define SAVES_512 0xe6
    #endif
    #define BIT(n) (1u << n)
    /* All that -march=x86-64-v2, -v3, -v4 let a compiler use. */
    static int fastrnn_x86_64_level(void) {
        /* sse3 ssse3 cx16 sse4.1 sse4.2 popcnt, lahf */
        if (!has(1, 1, BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23)) ||
            !has(0x80000001u, 1, BIT(0))) return 1;
        /* fma movbe osxsave avx f16c, bmi1 avx2 bmi2, lzcnt, and the system saves the registers */
        if (!has(1, 1, BIT(12) | BIT(22) | BIT(27) | BIT(28) | BIT(29)) || !has(7, 0, BIT(3) | BIT(5) | BIT(8)) ||
            !has(0x80000001u, 1, BIT(5)) || !saves(0x06)) return 2;
        /* avx512f avx512dq avx512cd avx512bw avx512vl */
        if (!has(7, 0, BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31)) || !saves(SAVES_512)) return 3;
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
