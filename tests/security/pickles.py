"""Files that run code when they are unpickled, as torch, numpy, joblib and plain pickle write them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

CALLS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("os", "system", ("touch owned",)),
    ("posix", "system", ("touch owned",)),
    ("subprocess", "Popen", (["touch", "owned"],)),
    ("builtins", "eval", ("__import__('os').system('touch owned')",)),
    ("builtins", "exec", ("import os; os.system('touch owned')",)),
    ("builtins", "__import__", ("evil_payload",)),
    ("importlib", "import_module", ("antigravity",)),
    ("webbrowser", "open", ("http://127.0.0.1/owned",)),
    ("runpy", "run_path", ("/tmp/owned.py",)),
    ("socket", "create_connection", (("127.0.0.1", 1),)),
    ("torch", "load", ("/tmp/owned.pt",)),
    ("numpy.f2py.diagnose", "run_command", ("touch owned",)),
)
"""What an unpickler is told to call, and with what."""


class _Call:
    """Pickled, it is a call: of this function with these arguments."""

    def __init__(self, module: str, name: str, arguments: tuple[Any, ...]) -> None:
        self._called, self._arguments = _Named(module, name), arguments

    def __reduce__(self) -> Any:
        return self._called, self._arguments


class _Named:
    """A global by its name, which need not be there where the pickle is written."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *_: object) -> None:
        raise AssertionError("only whoever reads the file calls it")


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]  # Python's own, whose steps can be replaced
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def call(module: str, name: str, arguments: tuple[Any, ...], protocol: int) -> bytes:
    """A pickle that calls `module.name(*arguments)` when it is loaded."""
    file = io.BytesIO()
    _Pickler(file, protocol).dump(_Call(module, name, arguments))
    assert "REDUCE" in {op.name for op, _, _ in pickletools.genops(file.getvalue())}
    return file.getvalue()


def torch_zip(body: bytes, folder: str = "archive") -> bytes:
    """As torch.save writes since 1.6: a zip whose `data.pkl` is the pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", body)
        archive.writestr(f"{folder}/version", "3\n")
        archive.writestr(f"{folder}/data/0", b"\0" * 16)
        archive.writestr(f"{folder}/../../owned", b"out")
    return file.getvalue()


def torch_legacy(body: bytes) -> bytes:
    """As torch.save wrote before: three pickles, one after the other."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    return magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + body


def torch_tar(body: bytes) -> bytes:
    """The oldest form: a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def npy(body: bytes) -> bytes:
    """A numpy array of objects."""
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body


def npz(body: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("X", "y"):
            archive.writestr(f"{name}.npy", npy(body))
    return file.getvalue()


def safetensors(body: bytes) -> bytes:
    """A good header, and a pickle where the bytes of a tensor are: only a fallback would run it."""
    header = {
        "t": {"dtype": "U8", "shape": [len(body)], "data_offsets": [0, len(body)]},
        "__metadata__": {"tunesmith": json.dumps({"format": 2, "pickle": body.hex()})},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


WRAPPED = {
    "torch_zip": torch_zip,
    "torch_legacy": torch_legacy,
    "torch_tar": torch_tar,
    "npy": npy,
    "npz": npz,
    "gzip": gzip.compress,
    "safetensors": safetensors,
}


def files() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    for i, (module, name, arguments) in enumerate(CALLS):
        for protocol in (0, 2, 5):
            yield f"{module}.{name}-{protocol}.pkl", call(module, name, arguments, protocol)
        for form, wrap in WRAPPED.items():
            if (i + len(form)) % 2 or i < 3:
                yield f"{module}.{name}.{form}", wrap(call(module, name, arguments, 2))
