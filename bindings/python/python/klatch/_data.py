"""Python values as the data of messages, and back.

- ``bytes``, ``bytearray`` and ``memoryview`` are bytes.
- :class:`Json` is JSON text as it is.
- Anything else is JSON, as ``json.dumps`` writes it: ``None`` is ``null``, integers have as many digits as it takes, floats read back
  as the same float. NaN and infinities are no JSON, and text with a lone surrogate is no UTF-8: both are ``InvalidData``.
"""

from __future__ import annotations

import json.encoder
from typing import Any, Callable, Optional, Tuple, Union

from .errors import InvalidData, TooDeep

__all__ = ["Json", "encode"]

# What goes in circles is too deep: to look for circles costs a third of the time.
_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)


def _encoder() -> Optional[Callable[[Any, int], Tuple[str, ...]]]:
    """What `_plain.encode` makes anew at each call, which is most of what a small message costs; none where Python has none in C."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return None
    made: Callable[[Any, int], Tuple[str, ...]] = make(
        None, _plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
    )
    return made


_chunks = _encoder()


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
        return _plain.encode(data) if _chunks is None else "".join(_chunks(data, 0))
    except ValueError as error:
        raise InvalidData(f"this is no JSON: {error}") from None
    except RecursionError:
        raise TooDeep("the data is nested too deeply") from None
