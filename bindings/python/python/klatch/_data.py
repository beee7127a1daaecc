"""Python values as the data of messages, and back.

- ``bytes``, ``bytearray`` and ``memoryview`` are bytes.
- :class:`Json` is JSON text as it is.
- Anything else is JSON, as ``json.dumps`` writes it: ``None`` is ``null``, integers have as many digits as it takes, floats read back
  as the same float. NaN and infinities are no JSON, and text with a lone surrogate is no UTF-8: both are ``InvalidData``.
"""

from __future__ import annotations

import json
from typing import Any, Union

from .errors import InvalidData, TooDeep

__all__ = ["Json", "encode"]

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Json(str):
    """JSON text that is to be stored as it is, byte for byte."""

    __slots__ = ()


def encode(data: Any) -> Union[str, bytes]:
    """What the engine takes: bytes as they are, everything else as JSON text."""
    if type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, Json):
        return data
    try:
        return _encode(data)
    except ValueError as error:
        raise InvalidData(f"this is no JSON: {error}") from None
    except RecursionError:
        raise TooDeep("the data is nested too deeply") from None
