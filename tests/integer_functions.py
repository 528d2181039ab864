"""Functions in the subset of Python that `fastrnn.codegen.integers` translates; see `test_integers`."""

FACTOR = 3
REPLACED = 0


def arithmetic(a, b):
    return a + b * FACTOR - a // 2 + b % 5 + (a & b) + (a | 8) - -REPLACED


def choices(a, b):
    if a < b:
        c = a
    elif a == b:
        return 100
    else:
        c = b
    d, e = (a, b) if c >= 2 else (b, a)
    return d * 10 + e if (a != 3 and not b > 6) or a == 0 else min(a, b) - max(a, b)


def loops(a, b):
    sum = 0
    for i in range(a):
        for j in range(i, b, 2):
            sum += i * j
            i = 0
        for k in range(b, i, -1):
            sum -= k
    while sum > 100:
        sum //= 2
    return sum


def swap(a, b):
    a, b = b, a
    return nothing(a) + a - b


def nothing(a):
    a = a + 1


def both(a, b):
    return a > 1 and divides(a, b)


def divides(a, b):
    return b % (a + 1) == 0
