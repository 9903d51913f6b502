"""The `gguf` package, and the quantizer of llama.cpp where `xllamacpp` is installed."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vita.spine.errors import MissingExtra


def gguf() -> Any:
    """Return the `gguf` package."""
    try:
        import gguf as library
    except ImportError:
        raise MissingExtra("GGUF files", "gguf") from None
    return library


@cache
def llama_cpp() -> ctypes.CDLL | None:
    """Return the library of llama.cpp that `xllamacpp` contains; None where it is not installed."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        return None
    files = sorted(Path(spec.origin).parent.glob("xllamacpp*.so"))
    try:
        library = ctypes.CDLL(str(files[0])) if files else None
        if library is not None:
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
    except (OSError, AttributeError):
        return None
    return library


def quantize(values: np.ndarray, kind: Any) -> np.ndarray:
    """Return a float32 matrix in a type of GGML, as bytes with one row per row of the matrix."""
    library = gguf()
    if kind.name in K_QUANTS:
        return _quantize_with_llama_cpp(values, kind)
    return library.quants.quantize(values, kind)


K_QUANTS = ("Q4_K", "Q5_K", "Q6_K")
"""Types that only the quantizer of llama.cpp writes."""


def _quantize_with_llama_cpp(values: np.ndarray, kind: Any) -> np.ndarray:
    binding = llama_cpp()
    assert binding is not None, "the export checks this before it begins"
    block, size = gguf().GGML_QUANT_SIZES[kind]
    rows, columns = values.reshape(-1, values.shape[-1]).shape
    source = np.ascontiguousarray(values, dtype=np.float32)
    target = np.empty((rows, columns // block * size), dtype=np.uint8)
    binding.ggml_quantize_chunk(
        ctypes.c_int(int(kind)), source.ctypes.data_as(ctypes.c_void_p), target.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(columns), None,
    )  # fmt: skip
    return target.reshape(*values.shape[:-1], -1)
