"""How functions are compiled by numba, for whoever has a twin to make of them."""

import inspect
from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function on its first call, or load it from where numba can cache."""

    def compile_function(function: Callable) -> Callable:
        plain = inspect.unwrap(function)  # tests wrap functions to check their types
        try:
            return numba.njit(cache=True, **options)(plain)
        except RuntimeError:  # no writable folder to cache in
            return numba.njit(**options)(plain)

    return compile_function


def inlined(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function into its callers."""

    def compile_function(function: Callable) -> Callable:
        return numba.njit(forceinline=True, **options)(inspect.unwrap(function))

    return compile_function
