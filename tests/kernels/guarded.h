// What the files of this folder share: functions for ctypes, and what becomes of those that go beyond an array.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef _WIN32
#include <csetjmp>
#include <csignal>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

// Runs f; 0 if it touches memory that it may not: the tests put arrays where such memory begins.
template <class F> ptrdiff_t guarded(F f) {
#ifdef _WIN32
    f();
    return 1;
#else
    static sigjmp_buf escape;
    struct sigaction caught{}, segmentation{}, bus{};
    caught.sa_handler = [](int) { siglongjmp(escape, 1); };
    sigaction(SIGSEGV, &caught, &segmentation);
    sigaction(SIGBUS, &caught, &bus);
    const ptrdiff_t fine = sigsetjmp(escape, 1) == 0;
    if (fine) f();
    sigaction(SIGSEGV, &segmentation, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    return fine;
#endif
}
