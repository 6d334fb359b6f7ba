"""A snapshot: one safetensors file from which training goes on bit for bit. No pickle anywhere.

What is saved is a *tree*: dicts, lists and tuples of tensors, numbers, strings and None, such as
`{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}`. The file holds
each storage once, as bytes; the tree stands as JSON in the file's header, where a tensor is a view
`{storage, dtype, shape, stride, offset}`. So tied weights come back tied and channels_last comes
back channels_last. What JSON cannot say (non-finite numbers, whole numbers past 2**53, tuples,
dicts with other keys than strings) is spelled out as `{"$float": "NaN"}` and the like.

Why not `torch.save`: a worker loads what a server sends it, and a pickle is a program.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

Tree: TypeAlias = Any
"""None, bool, int, float, str, Tensor, and lists, tuples and dicts of them."""

FORMAT = 2  # 1: before a snapshot held the scaler of fp16, best weights and seconds spent
_ALIGNED = 64  # bytes; what torch's own allocations keep to, and what kernels may round by
HEADER_BYTES = 8 * 2**20
MOST_TENSORS = 65_536
"""What a file may hold: more than any model, less than what costs a machine its memory to look at."""
_EXACT = 2**53  # whole numbers up to here survive any reader of JSON
_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32,
        torch.uint64, torch.bool,
    )
}  # fmt: skip


class SnapshotCorrupt(Exception):
    """The file is no snapshot, is damaged, or does not fit what it shall be restored into."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file on disk. `sha256` is of the whole file, in hex; `size` in bytes."""

    path: Path
    sha256: str
    size: int


# --- writing --------------------------------------------------------------------------------------


def save(path: Path, tree: Tree) -> WrittenFile:
    """Write `tree` to `path`: under a temporary name first, flushed to disk, then renamed.

    The same tree gives the same bytes. Raises TypeError, naming the place, on a value that a
    snapshot cannot hold.
    """
    writer = _Writer()
    body = writer.encode(tree, "snapshot")
    storages = writer.storages()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        written = _write(temporary, body, storages)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return replace(written, path=path)


def _write(path: Path, body: Any, storages: Mapping[str, Tensor]) -> WrittenFile:
    """The same bytes as safetensors' own `save_file`, which takes three times as long and does not hash.

    They are hashed while another thread writes them; the digest in the header is of known length.
    """
    begin = len(_header(body, storages, digest="0" * 64))
    with path.open("wb") as file:
        with ThreadPoolExecutor(1) as beside:
            writing = beside.submit(_write_storages, file, begin, storages)
            header = _header(body, storages, _digest(storages))
            whole = hashlib.sha256(header)
            for name in sorted(storages):
                whole.update(storages[name].numpy().data)
            writing.result()
        size = file.tell()
        file.seek(0)
        file.write(header)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(path, whole.hexdigest(), size)


def _header(body: Any, storages: Mapping[str, Tensor], digest: str) -> bytes:
    said = json.dumps({"format": FORMAT, "digest": digest, "tree": body}, allow_nan=False)
    entries: dict[str, Any] = {"__metadata__": {"tunesmith": said}}
    at = 0
    for name in sorted(storages):
        size = storages[name].numel()
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_storages(file: BinaryIO, begin: int, storages: Mapping[str, Tensor]) -> None:
    file.seek(begin)
    for name in sorted(storages):
        file.write(storages[name].numpy().data)


def flushed(path: Path) -> WrittenFile:
    """What a file holds, once it is on disk for good."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        os.fsync(file.fileno())
        return WrittenFile(path, digest.hexdigest(), file.tell())


def _sync_directory(directory: Path) -> None:
    """Make a rename in it survive a power cut."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(storages: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(storages):
        digest.update(f"{name}:{storages[name].numel()}:".encode())
        digest.update(storages[name].numpy().data)
    return digest.hexdigest()


class _Writer:
    """Turns a tree into JSON and collects the stretch of each storage that its tensors use."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], str] = {}  # (device, address) of a storage → its name
        self._used: dict[str, tuple[int, int]] = {}  # name → first and last+1 byte in use
        self._views: list[tuple[dict[str, Any], str, int]] = []  # what to write, storage, first byte
        self._tensors: dict[str, Tensor] = {}  # one of each storage, to read its bytes; keeps it alive

    def encode(self, value: Tree, where: str) -> Any:
        if isinstance(value, Tensor):
            return {"$tensor": self._view(value, where)}
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, list):
            return [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, Mapping):
            if all(isinstance(k, str) and not k.startswith("$") for k in value):
                return {k: self.encode(v, f"{where}.{k}") for k, v in value.items()}
            pairs = [[self.encode(k, where), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return {"$dict": pairs}
        return _encode_scalar(value, where)

    def _view(self, tensor: Tensor, where: str) -> dict[str, Any]:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES or tensor.layout is not torch.strided:
            raise TypeError(f"{where}: a snapshot cannot hold a {tensor.layout} tensor of {tensor.dtype}")

        tensor = tensor.detach().resolve_conj().resolve_neg()
        view: dict[str, Any] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
        }
        first = int(tensor.storage_offset()) * tensor.element_size()
        last = first + _extent(view["shape"], view["stride"]) * tensor.element_size()
        storage = tensor.untyped_storage()
        key = (str(tensor.device), storage.data_ptr() if storage.nbytes() else -len(self._names) - 1)
        name = self._names.setdefault(key, f"s{len(self._names)}")
        low, high = self._used.get(name, (first, last))
        self._used[name] = (min(low, first), max(high, last))
        self._tensors[name] = tensor
        view["storage"] = name
        self._views.append((view, name, first))
        return view

    def storages(self) -> dict[str, Tensor]:
        """The bytes in use of each storage; to be called once, after `encode`."""
        found: dict[str, Tensor] = {}
        for name, (low, high) in self._used.items():
            start = low // _ALIGNED * _ALIGNED
            self._used[name] = (start, high)
            raw = torch.empty(0, dtype=torch.uint8, device=self._tensors[name].device)
            raw.set_(self._tensors[name].untyped_storage())
            found[name] = raw[start:high].cpu().contiguous()
        for view, name, first in self._views:
            view["offset"] = (first - self._used[name][0]) // _DTYPES[view["dtype"]].itemsize
        return found


def _extent(shape: list[int], stride: list[int]) -> int:
    """How many elements a strided view spans, from its first to its last."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


def _encode_scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _EXACT else {"$int": str(int(value))}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": _spell(value)}
    raise TypeError(
        f"{where} is a {type(value).__name__}; a snapshot holds tensors, numbers, strings, None, "
        "and lists, tuples and dicts of them"
    )


def _spell(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# --- reading --------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, as `safe_open` gives it. Raises SnapshotCorrupt if its header is too large to be
    looked at, or names too many tensors; else what `safe_open` raises."""
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
    if length > HEADER_BYTES:
        raise SnapshotCorrupt(
            f"{path.name}: not a readable safetensors file: its header says {length} bytes, "
            f"at most {HEADER_BYTES} are read"
        )
    with safe_open(path, framework="pt") as file:
        if (n := len(file.keys())) > MOST_TENSORS:
            raise SnapshotCorrupt(f"{path.name}: {n} tensors; at most {MOST_TENSORS}")
        yield file


def load(path: Path, *, mapped: str = "") -> Tree:
    """The tree in the file, tensors on the CPU.

    Args:
        mapped: the key of a part whose tensors stay in the file, read-only and aligned as they lie there: for
            what is copied elsewhere anyway, as `restore_model` does, and need not be in memory twice.
    Raises: SnapshotCorrupt, saying what is wrong.
    """
    try:
        with opened(path) as file:
            text = (file.metadata() or {}).get("tunesmith")
            storages = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as e:
        raise SnapshotCorrupt(f"{path.name}: there is no such file") from e
    except (SafetensorError, OSError, struct.error) as e:
        raise SnapshotCorrupt(f"{path.name}: not a readable safetensors file: {e}") from e
    if text is None:
        raise SnapshotCorrupt(f"{path.name}: a safetensors file, but not one of Tunesmith's snapshots")
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            raise SnapshotCorrupt(f"{path.name}: format {header['format']}, this version reads {FORMAT}")
        if any(t.dtype is not torch.uint8 or t.dim() != 1 for t in storages.values()):
            raise SnapshotCorrupt(f"{path.name}: its storages are not plain bytes")
        tree = header["tree"]
        left: set[str] = set()
        if mapped and mapped in tree:
            others = [part for name, part in tree.items() if name != mapped]
            left = _storages_of(tree[mapped]) - _storages_of(others)
        return _Reader(_checked(path, storages, header["digest"], left)).decode(tree)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise SnapshotCorrupt(f"{path.name}: its header is damaged: {type(e).__name__}: {e}") from e


def _storages_of(value: Any) -> set[str]:
    """Names of the storages that a part of the header's tree has tensors on."""
    if isinstance(value, list):
        return set().union(*map(_storages_of, value))
    if not isinstance(value, dict):
        return set()
    if "$tensor" in value:
        return {value["$tensor"]["storage"]}
    return set().union(*map(_storages_of, value.values()))


def _checked(
    path: Path, storages: Mapping[str, Tensor], digest: str, left: Collection[str]
) -> dict[str, Tensor]:
    """Copies in torch's own memory, for a mapped file is aligned otherwise, and kernels may round by it; but
    those that are `left` there."""
    with ThreadPoolExecutor(1) as beside:
        found = beside.submit(_digest, storages)
        copies = {name: one if name in left else one.clone() for name, one in storages.items()}
    if found.result() != digest:
        raise SnapshotCorrupt(f"{path.name}: its tensors are not those that were written (digest differs)")
    return copies


class _Reader:
    def __init__(self, storages: Mapping[str, Tensor]) -> None:
        self._storages = storages

    def decode(self, value: Any) -> Tree:
        if isinstance(value, list):
            return [self.decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((kind, inner),) = value.items()
            if kind.startswith("$"):
                return self._spelled(kind, inner)
        return {k: self.decode(v) for k, v in value.items()}

    def _spelled(self, kind: str, inner: Any) -> Tree:
        if kind == "$int":
            return int(inner)
        if kind == "$float":
            return float(inner)
        if kind == "$tuple":
            return tuple(self.decode(v) for v in inner)
        if kind == "$dict":
            return {self.decode(k): self.decode(v) for k, v in inner}
        if kind == "$tensor":
            return self._tensor(inner)
        raise ValueError(f"unknown mark {kind}")

    def _tensor(self, view: Mapping[str, Any]) -> Tensor:
        storage, dtype = self._storages[view["storage"]], _DTYPES[view["dtype"]]
        shape, stride, offset = view["shape"], view["stride"], view["offset"]
        if any(type(n) is not int or n < 0 for n in [*shape, *stride, offset]):
            raise ValueError("shape, stride and offset must be whole numbers from 0 up")
        needed = (offset + _extent(shape, stride)) * dtype.itemsize
        if needed > storage.numel():
            raise ValueError(f"a view of {needed} bytes on a storage of {storage.numel()}")
        typed = torch.empty(0, dtype=dtype)
        return typed.set_(storage.untyped_storage(), offset, shape, stride)


# --- restoring ------------------------------------------------------------------------------------


def seed_of(saved: Tree, *, default: int) -> int:
    """The seed of a trial that goes on from `saved`: the snapshot's, and with it the order of samples."""
    if saved is None:
        return default
    if not isinstance(saved, dict) or type(saved.get("seed")) is not int:
        raise SnapshotCorrupt("the snapshot holds no training: it has no seed")
    return int(saved["seed"])


def restore_model(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put saved parameters and buffers into `model`, to the bit and with the strides they had.

    Raises SnapshotCorrupt if names, shapes, dtypes or ties differ from the model's.
    """
    own = model.state_dict(keep_vars=True)
    if not isinstance(saved, Mapping) or not all(isinstance(t, Tensor) for t in saved.values()):
        raise SnapshotCorrupt("the snapshot's model is not a table of named tensors")
    missing, extra = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or extra:
        raise SnapshotCorrupt(
            f"the snapshot does not fit the model: it lacks {missing or 'nothing'} "
            f"and has {extra or 'nothing'} besides; were model hyperparameters changed?"
        )
    for name, tensor in own.items():
        was = saved[name]
        if was.shape != tensor.shape or was.dtype != tensor.dtype:
            raise SnapshotCorrupt(
                f"the snapshot does not fit the model: {name} is {was.dtype} {list(was.shape)} in it "
                f"and {tensor.dtype} {list(tensor.shape)} in the model"
            )
    if _ties(saved) != _ties(own):
        raise SnapshotCorrupt("the snapshot does not fit the model: they tie different weights together")
    otherwise = {name: saved[name] for name, tensor in own.items() if tensor.stride() != saved[name].stride()}
    copied = copy.deepcopy(otherwise)  # `saved` may lie in a file; ties among them stay
    with torch.no_grad():
        for name, tensor in own.items():
            if name not in copied:
                tensor.copy_(saved[name])
            else:
                tensor.data = copied[name].to(tensor.device)
    if _ties(model.state_dict(keep_vars=True)) != _ties(saved):
        raise SnapshotCorrupt("the snapshot does not fit the model: restoring it would untie tied weights")


def _ties(tensors: Mapping[str, Tensor]) -> set[frozenset[str]]:
    """The groups of names that share bytes. Neighbours in one storage, as cuDNN packs weights, do not."""
    spans = sorted(
        (t.untyped_storage().data_ptr(), t.data_ptr(), t.data_ptr() + _span(t), name)
        for name, t in tensors.items()
        if t.numel()
    )
    groups: list[set[str]] = []
    end = (0, 0)  # storage, and the last byte of it in the newest group
    for storage, low, high, name in spans:
        if groups and storage == end[0] and low < end[1]:
            groups[-1].add(name)
            end = (storage, max(end[1], high))
        else:
            groups.append({name})
            end = (storage, high)
    return {frozenset(names) for names in groups if len(names) > 1}


def _span(tensor: Tensor) -> int:
    """Bytes from its first element to its last."""
    return _extent(list(tensor.shape), list(tensor.stride())) * tensor.element_size()


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put the saved state of each parameter into `optimizer`, which keeps its own hyperparameters.

    `load_state_dict` would bring back the rates and decays of the trial that made the snapshot: a
    branch would silently train its trunk's weight decay.

    Raises SnapshotCorrupt if the snapshot is of another optimizer or other parameters.
    """
    kind = type(optimizer).__name__
    if saved.get("kind", kind) != kind:
        raise SnapshotCorrupt(f"the snapshot's optimizer is {saved['kind']}, this trial's is {kind}")
    own = optimizer.state_dict()["param_groups"]
    if [g["params"] for g in saved["param_groups"]] != [g["params"] for g in own]:
        raise SnapshotCorrupt(
            "the snapshot's optimizer has other parameters than this trial's: groups of "
            f"{[len(g['params']) for g in saved['param_groups']]} and {[len(g['params']) for g in own]}; was "
            "the model or decay_spares changed?"
        )
    numbers = [number for group in own for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise SnapshotCorrupt(
                    f"the snapshot's optimizer has {name} of shape {list(value.shape)} for parameter "
                    f"{number}, which has shape {list(parameter.shape)}"
                )
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})


def tensors(tree: Tree) -> Iterator[Tensor]:
    """Every tensor in a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors(value)
