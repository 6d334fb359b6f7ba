"""What is small on the wire and large inside: headers, nesting, numbers of things, compression."""

from __future__ import annotations

import gzip
import hashlib
import json
import resource
import struct
import zlib
from pathlib import Path

import pytest
from tunesmith_workers import snapshots, weights
from tunesmith_workers.snapshots import MOST_TENSORS, SnapshotCorrupt

from .conftest import Asked, Watched, bearer, bombard

MIB = 2**20


def file_of(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def many_tensors(n: int) -> bytes:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return file_of(json.dumps({str(i): entry for i in range(n)}, separators=(",", ":")).encode())


def tree_of(tree: str) -> bytes:
    """A file of ours whose tree is this JSON."""
    digest = hashlib.sha256().hexdigest()
    told = f'{{"format": {snapshots.FORMAT}, "digest": "{digest}", "tree": {tree}}}'
    return file_of(json.dumps({"__metadata__": {"tunesmith": told}}).encode())


NOWHERE = '{"$tensor": {"storage": "s", "dtype": "uint8", "shape": [9], "stride": [1], "offset": 0}}'

BOMBS = {
    "empty": b"",
    "a length alone": struct.pack("<Q", 2),
    "a length of 2^64 - 1": file_of(b"{}", 2**64 - 1),
    "a length of 2^63": file_of(b"{}", 2**63),
    "a length past the file": file_of(b"{}", 100 * MIB),
    "a header of 9 MiB": file_of(b"{" + b" " * (9 * MIB) + b"}"),
    "65,537 tensors": many_tensors(MOST_TENSORS + 1),
    "a deep header": file_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a header that is a list": file_of(b"[]"),
    "a name twice": file_of(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}'),
    "a shape that overflows": file_of(
        json.dumps({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}).encode()
    ),
    "a negative shape": file_of(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}'),
    "offsets past the end": file_of(b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}'),
    "offsets backwards": file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', body=b"x"),
    "overlapping tensors": file_of(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        body=b"x",
    ),
    "a deep tree": tree_of("[" * 50_000 + "]" * 50_000),
    "an integer of a million digits": tree_of('{"$int": "' + "9" * 1_000_000 + '"}'),
    "a view of a storage that is not there": tree_of(NOWHERE),
    "an unknown mark": tree_of('{"$call": ["os", "system", "x"]}'),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_worker_refuses_the_file_without_taking_its_memory(tmp_path: Path, name: str):
    path = tmp_path / "snapshot.safetensors"
    path.write_bytes(BOMBS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SnapshotCorrupt):
        snapshots.load(path)
    with pytest.raises(weights.WeightsError):
        weights.read_weights("w", path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 256 * 1024, f"{grown // 1024} MiB more"


def test_as_many_tensors_as_are_allowed_are_read(tmp_path: Path):
    path = tmp_path / "many.safetensors"
    path.write_bytes(many_tensors(MOST_TENSORS))
    assert len(weights.read_weights("w", path).tensors) == MOST_TENSORS


def test_the_service_keeps_such_files_as_bytes_or_refuses_them(watched: Watched):
    trial, lease = watched.lease()
    for step, body in enumerate(BOMBS.values(), 1):
        sha256 = hashlib.sha256(body).hexdigest()
        put = watched.people.put(f"/leases/{trial}/blobs/{sha256}", content=body, headers=lease)
        assert put.status_code == 204, put.text
        named = {"step": step, "sha256": sha256}
        said = watched.people.post(f"/leases/{trial}/snapshots", json=named, headers=lease)
        assert said.status_code in (200, 422), said.text
    assert watched.people.get("/studies/leased-0").status_code == 200
    assert watched.hits() == []


def body_of(watched: Watched, body: bytes, **headers: str) -> Asked:
    sent = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    more = tuple((k.encode(), v.encode()) for k, v in sent.items())
    return Asked("POST", b"/api/v1/studies", (*bearer(watched.token("operator")), *more), body)


def test_nested_json_is_refused(watched: Watched):
    deep = [b"[" * n + b"]" * n for n in (17, 1000, 100_000)] + [
        b'{"a":' * n + b"1" + b"}" * n for n in (17, 1000, 100_000)
    ]
    deep += [b"[" * 500_000, b'{"a":' * 200_000]
    said = bombard(watched.port, [body_of(watched, body) for body in deep])
    assert {s.status for s in said} == {422}


def test_numbers_that_no_machine_holds_are_refused(watched: Watched):
    for number in (b"9" * 100_000, b"1e999", b"-1e999", b"NaN", b"Infinity", b"1" + b"0" * 5000 + b".5"):
        (said,) = bombard(watched.port, [body_of(watched, b'{"name":"x","seed":' + number + b"}")])
        assert said.status == 422, number[:20]


@pytest.mark.parametrize("how", ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, gzip", "identity, gzip"])
def test_a_compressed_body_is_refused_unread(watched: Watched, how: str):
    bomb = (
        gzip.compress(b"[" + b"0," * 4_000_000 + b"0]") if "gzip" in how else zlib.compress(b" " * 8_000_000)
    )
    assert len(bomb) < 64 * 1024
    (said,) = bombard(watched.port, [body_of(watched, bomb, Content_Encoding=how)])
    assert said.status in (400, 415), said.status
    assert b"is not read" in said.body


def test_a_million_headers_are_not_listened_to(watched: Watched):
    many = tuple((b"X-%d" % i, b"1") for i in range(10**6))
    said = bombard(watched.port, [Asked("GET", b"/healthz", many)], at_once=1)
    assert said[0].status in (0, 400, 431)  # the connection is closed while it still sends
    long = bombard(watched.port, [Asked("GET", b"/healthz", ((b"X", b"1" * 20_000),))])
    assert long[0].status == 400
    assert watched.people.get("/studies").status_code == 200


def test_a_body_that_is_longer_than_it_says_or_never_ends_is_cut(watched: Watched):
    said = bombard(watched.port, [body_of(watched, b" " * (2 * MIB))])
    assert said[0].status == 413
