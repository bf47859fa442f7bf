"""Small layers for compiled twins: products of matrices and ELU, on tiles in cache.

Plain loops rather than a BLAS: one that starts threads of its own neither nests in ours
nor rounds alike on any number of them.

Compiled functions are not annotated: numba infers their types from the arrays that
their callers have checked.
"""
# ruff: noqa: ANN001, ANN201, ANN202

import numpy as np

from gnesf_core.ops.compiled import compiled, inlined

# A product and the sum it goes into may be rounded once; nothing is reordered.
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
_compiled, _inlined = compiled(**OPTIONS), inlined(**OPTIONS)


@_compiled
def add_product(total, left, right):
    """Add left @ right to `total`; the left one may be a transposed view.

    Four rows of each side in turn: what is loaded once is used four times.
    """
    rows, terms = left.shape
    width = np.uint64(right.shape[1])
    c, b = total.reshape(-1), right.reshape(-1)
    for i in range(0, rows - 3, 4):
        c0 = np.uint64(i) * width
        c1, c2, c3 = c0 + width, c0 + width * np.uint64(2), c0 + width * np.uint64(3)
        for t in range(0, terms - 3, 4):
            b0 = np.uint64(t) * width
            b1, b2 = b0 + width, b0 + width * np.uint64(2)
            b3 = b0 + width * np.uint64(3)
            p0, p1, p2, p3 = _four(left, i, t)
            q0, q1, q2, q3 = _four(left, i + 1, t)
            r0, r1, r2, r3 = _four(left, i + 2, t)
            s0, s1, s2, s3 = _four(left, i + 3, t)
            for j in range(width):
                w, x, y, z = b[b0 + j], b[b1 + j], b[b2 + j], b[b3 + j]
                c[c0 + j] += p0 * w + p1 * x + p2 * y + p3 * z
                c[c1 + j] += q0 * w + q1 * x + q2 * y + q3 * z
                c[c2 + j] += r0 * w + r1 * x + r2 * y + r3 * z
                c[c3 + j] += s0 * w + s1 * x + s2 * y + s3 * z
        for t in range(terms - terms % 4, terms):
            for row in range(i, i + 4):
                _add_row(total, row, left[row, t], right, t)
    for row in range(rows - rows % 4, rows):
        for t in range(terms):
            _add_row(total, row, left[row, t], right, t)


@_inlined
def _four(matrix, i, t):
    return matrix[i, t], matrix[i, t + 1], matrix[i, t + 2], matrix[i, t + 3]


@_inlined
def _add_row(total, i, factor, values, t):
    for j in range(np.uint64(values.shape[1])):
        total[i, j] += factor * values[t, j]


@_compiled
def to_elu(values):
    """Replace float32 values by their ELU; NaN stays NaN.

    exp(x) - 1 is a polynomial at x / 32, doubled five times by
    exp(2a) - 1 = (exp(a) - 1) * (exp(a) + 1): no tables and no bits, so that compilers
    make vector instructions of it. Below -18 it is -1 to the last bit.
    """
    number = np.float32
    zero, one, two, lowest = number(0), number(1), number(2), number(-18)
    part, half, third = number(1 / 32), number(1 / 2), number(1 / 6)
    fourth, fifth = number(1 / 24), number(1 / 120)
    flat = values.reshape(-1)
    for i in range(np.uint64(len(flat))):
        x = flat[i]
        low = zero if x > zero else x
        low = lowest if low < lowest else low
        a = low * part
        y = a * (one + a * (half + a * (third + a * (fourth + a * fifth))))
        y *= y + two
        y *= y + two
        y *= y + two
        y *= y + two
        y *= y + two
        flat[i] = x if x > zero else y


@_compiled
def through_elu(gradient, values):
    """Multiply a gradient by the slopes of ELU, of which the values are given."""
    number = np.float32
    g, y = gradient.reshape(-1), values.reshape(-1)
    for i in range(np.uint64(len(g))):
        g[i] *= number(1) if y[i] > number(0) else y[i] + number(1)
