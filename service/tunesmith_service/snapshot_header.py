"""Whether bytes that shall be a snapshot are a safetensors file of a sane size, told from its header alone.

A header is JSON that whoever loads the file parses, so it is checked before any worker is given it. Nothing
here needs torch. The format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tunesmith_service.errors import Unprocessable
from tunesmith_service.parsing import parse_json

_LENGTH = struct.Struct("<Q")


def check(size: int, read: Callable[[int, int], bytes], *, most_bytes: int, most_tensors: int) -> None:
    """Blocks: call it in a thread.

    Args:
        size: of the file in bytes.
        read: its bytes from one place up to another.
        most_bytes: of the header.
    Raises: Unprocessable, saying what is wrong with the file.
    """
    start = read(0, min(size, _LENGTH.size))
    length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
    if length < 2 or length > size - _LENGTH.size:
        raise Unprocessable("a snapshot is a safetensors file, and these bytes do not begin like one")
    if length > most_bytes:
        raise Unprocessable(f"the snapshot's header is {length} bytes; at most {most_bytes} are read")
    header = parse_json(read(_LENGTH.size, _LENGTH.size + length).rstrip(b" "), free_text=True)
    if not isinstance(header, dict):
        raise Unprocessable("the snapshot's header is no JSON object")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(tensors) > most_tensors:
        raise Unprocessable(f"the snapshot holds {len(tensors)} tensors; at most {most_tensors} are taken")
    data = size - _LENGTH.size - length
    for name, entry in tensors.items():
        if not _lies_within(entry, data):
            raise Unprocessable(f"tensor {name[:100]!r} of the snapshot does not lie within the file")


def _lies_within(entry: Any, data: int) -> bool:
    """Whether a tensor's bytes are among the `data` bytes behind the header."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        return False
    begin, end = offsets
    return bool(0 <= begin <= end <= data)
