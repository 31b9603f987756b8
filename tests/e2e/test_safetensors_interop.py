#!/usr/bin/env python3
"""libkvsim and the reference implementation of safetensors read each other's files; libkvsim reads what NumPy saves.

usage: test_safetensors_interop.py LIBRARY

LIBRARY is libkvsim.so. Needs Python 3.11; without the modules safetensors and numpy every test is skipped, and counted.
The last line is `test_safetensors_interop: N passed, N failed, N skipped`.
"""

import ctypes as c
import json
import pathlib
import sys
import tempfile
import traceback

try:
    import numpy
    import safetensors
    import safetensors.numpy
except ImportError:
    numpy = None

LAYERS, HEADS, DIM, PAGE_TOKENS = 2, 2, 4, 4
LENGTHS = [9, 1, 4]
PROMPTS = ["plain", "", 'quotes ", \\ and\n\t, caf\u00e9 \U0001f600']
FLOAT, KEY, VALUE = 2, 1, 2
FORMAT_ERROR = -60


class Rope(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("style", c.c_int32), ("theta", c.c_double), ("rotary_dims", c.c_int32),
                ("scaling", c.c_int32), ("factor", c.c_double), ("original_max_position", c.c_double),
                ("low_freq_factor", c.c_double), ("high_freq_factor", c.c_double), ("beta_fast", c.c_double),
                ("beta_slow", c.c_double)]


READ = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int64, c.c_int32, c.c_int32, c.c_void_p)


class Dump(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("layers", c.c_int32), ("kv_heads", c.c_int32), ("head_dim", c.c_int32),
                ("page_tokens", c.c_int32), ("dtype_code", c.c_uint8), ("dtype_bits", c.c_uint8),
                ("reserved", c.c_uint16), ("rope", Rope), ("model", c.c_char_p), ("sequences", c.c_int64),
                ("lengths", c.POINTER(c.c_int64)), ("tokens", c.POINTER(c.POINTER(c.c_int32))),
                ("prompts", c.POINTER(c.c_char_p)), ("read", READ), ("read_user", c.c_void_p)]


class Info(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("schema", c.c_int32), ("layers", c.c_int32), ("kv_heads", c.c_int32),
                ("head_dim", c.c_int32), ("page_tokens", c.c_int32), ("sequences", c.c_int64), ("tokens", c.c_int64),
                ("dtype_code", c.c_uint8), ("dtype_bits", c.c_uint8), ("reserved", c.c_uint16),
                ("rope_applied", c.c_int32), ("rope", Rope), ("model", c.c_char_p), ("file_bytes", c.c_uint64)]


class Tensor(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("device_type", c.c_int32), ("device_id", c.c_int32), ("ndim", c.c_int32),
                ("dtype_code", c.c_uint8), ("dtype_bits", c.c_uint8), ("dtype_lanes", c.c_uint16),
                ("reserved", c.c_uint32), ("byte_offset", c.c_uint64), ("data", c.c_void_p),
                ("shape", c.POINTER(c.c_int64)), ("strides", c.POINTER(c.c_int64))]


class Library:
    """One context of libkvsim."""

    def __init__(self, path):
        self.calls = c.CDLL(path)
        self.calls.kvsim_ctx_error.restype = c.c_char_p
        self.calls.kvsim_page_count.restype = c.c_uint64
        self.ctx = c.c_void_p()
        assert self.calls.kvsim_ctx_create(None, c.byref(self.ctx)) == 0

    def check(self, status):
        assert status == 0, f"{status}: {self.calls.kvsim_ctx_error(self.ctx).decode()}"

    def open(self, path):
        snapshot = c.c_void_p()
        self.check(self.calls.kvsim_snapshot_open(self.ctx, str(path).encode(), c.byref(snapshot)))
        return snapshot

    def status_of_open(self, path):
        snapshot = c.c_void_p()
        return self.calls.kvsim_snapshot_open(self.ctx, str(path).encode(), c.byref(snapshot))

    def info(self, snapshot):
        info = Info(struct_size=c.sizeof(Info))
        self.check(self.calls.kvsim_snapshot_get_info(self.ctx, snapshot, c.byref(info)))
        return info

    def tensor(self, snapshot, name):
        tensor = Tensor(struct_size=c.sizeof(Tensor))
        self.check(self.calls.kvsim_snapshot_find(snapshot, name.encode(), c.byref(tensor)))
        shape = [tensor.shape[i] for i in range(tensor.ndim)]
        size = int(numpy.prod(shape, dtype=numpy.int64)) * tensor.dtype_bits // 8
        return shape, c.string_at(tensor.data, size)

    def page_count(self, snapshot):
        self.check(self.calls.kvsim_snapshot_add_pages(self.ctx, snapshot, None))
        count = self.calls.kvsim_page_count(self.ctx)
        self.calls.kvsim_ctx_clear(self.ctx)
        return count

    def close(self, snapshot):
        self.calls.kvsim_snapshot_close(snapshot)


def rows(sequence, layer, kind, dtype):
    """Rows of a sequence that say where they belong."""
    count = LENGTHS[sequence] * HEADS * DIM
    first = 1000 * sequence + 100 * layer + 10 * kind
    return (first + numpy.arange(count) / 8).astype(dtype).reshape(LENGTHS[sequence], HEADS, DIM)


def tokens(sequence):
    return numpy.arange(LENGTHS[sequence], dtype=numpy.int32) - sequence


def write_dump(library, path, dtype):
    def read(_user, sequence, layer, kind, out):
        data = rows(sequence, layer, kind, dtype).tobytes()
        c.memmove(out, data, len(data))
        return 0

    ids = [tokens(s) for s in range(len(LENGTHS))]
    pointers = [i.ctypes.data_as(c.POINTER(c.c_int32)) for i in ids]
    dump = Dump(struct_size=c.sizeof(Dump), layers=LAYERS, kv_heads=HEADS, head_dim=DIM, page_tokens=PAGE_TOKENS,
                dtype_code=FLOAT, dtype_bits=8 * numpy.dtype(dtype).itemsize,
                rope=Rope(struct_size=c.sizeof(Rope), style=1, theta=10000.0), model=b"tiny", sequences=len(LENGTHS),
                lengths=(c.c_int64 * len(LENGTHS))(*LENGTHS),
                tokens=(c.POINTER(c.c_int32) * len(LENGTHS))(*pointers),
                prompts=(c.c_char_p * len(LENGTHS))(*[p.encode() for p in PROMPTS]), read=READ(read))
    library.check(library.calls.kvsim_dump_write(library.ctx, str(path).encode(), c.byref(dump)))


def reference_reads_our_dump(library, folder, dtype):
    path = folder / "ours.safetensors"
    write_dump(library, path, dtype)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        names = set(file.keys())
        expected = {f"seq.{s}.tokens": tokens(s) for s in range(len(LENGTHS))}
        for sequence in range(len(LENGTHS)):
            for layer in range(LAYERS):
                for kind, name in ((KEY, "key"), (VALUE, "value")):
                    expected[f"seq.{sequence}.layer.{layer}.{name}"] = rows(sequence, layer, kind, dtype)
        assert names == set(expected)
        for name, array in expected.items():
            read = file.get_tensor(name)
            assert read.dtype == array.dtype and read.shape == array.shape and (read == array).all(), name
    assert json.loads(metadata.pop("prompts")) == PROMPTS
    assert metadata == {"format": "kvsim.dump.v1", "model": "tiny", "layers": "2", "kv_heads": "2", "head_dim": "4",
                        "rope_theta": "10000", "rope_style": "half", "rope_applied": "true", "page_tokens": "4",
                        "sequences": "3"}


def we_read_the_reference_writer(library, folder):
    path = folder / "theirs.safetensors"
    arrays = {"\u00e9 \"quoted\"": numpy.arange(6, dtype=numpy.float32).reshape(2, 3),
              "half": numpy.arange(5, dtype=numpy.float16), "byte": numpy.arange(3, dtype=numpy.uint8),
              "scalar": numpy.array(7, dtype=numpy.int64), "empty": numpy.zeros((0, 4), dtype=numpy.float64)}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np", "note": "caf\u00e9\n"})
    snapshot = library.open(path)
    for name, array in arrays.items():
        shape, data = library.tensor(snapshot, name)
        assert shape == list(array.shape) and data == array.tobytes(), name
    assert library.info(snapshot).schema == 0
    library.close(snapshot)


def we_read_a_dump_of_the_reference_writer(library, folder):
    path = folder / "theirs.safetensors"
    arrays = {f"seq.{s}.tokens": tokens(s) for s in range(len(LENGTHS))}
    for sequence in range(len(LENGTHS)):
        for layer in range(LAYERS):
            arrays[f"seq.{sequence}.layer.{layer}.key"] = rows(sequence, layer, KEY, numpy.float16)
            arrays[f"seq.{sequence}.layer.{layer}.value"] = rows(sequence, layer, VALUE, numpy.float16)
    safetensors.numpy.save_file(arrays, path, metadata={
        "format": "kvsim.dump.v1", "model": "tiny", "layers": str(LAYERS), "kv_heads": str(HEADS),
        "head_dim": str(DIM), "rope_theta": str(1e6), "rope_style": "interleaved", "rope_applied": "true",
        "page_tokens": str(PAGE_TOKENS), "prompts": json.dumps(PROMPTS)})
    snapshot = library.open(path)
    info = library.info(snapshot)
    assert (info.schema, info.sequences, info.tokens, info.dtype_bits) == (1, 3, 14, 16)
    assert (info.rope.style, info.rope.theta, info.model) == (2, 1e6, b"tiny")
    assert library.page_count(snapshot) == (3 + 1 + 1) * LAYERS * 2
    library.close(snapshot)


def both_refuse_the_same_lies(library, folder):
    path = folder / "lie.safetensors"
    safetensors.numpy.save_file({"a": numpy.arange(4, dtype=numpy.float32), "b": numpy.arange(2, dtype=numpy.uint8)},
                                path)
    good = path.read_bytes()
    lies = [good[:-1], good + b"\0", good[:7], b"", good.replace(b"F32", b"F23"), good.replace(b"[0,16]", b"[0,17]"),
            good.replace(b"[0,16]", b"[1,16]"), good.replace(b"[16,18]", b"[15,17]"),
            good.replace(b'"b"', b'"a"'), b"\xff" * 8 + good[8:], good[:8] + b" " + good[9:],
            good.replace(b'"shape":[4]', b'"shape":[5]'), good.replace(b'"shape":[4]', b'"shape":[-4]')]
    for number, lie in enumerate(lies):
        path.write_bytes(lie)
        try:
            safetensors.numpy.load_file(path)
            theirs = "accepted"
        except Exception:
            theirs = "refused"
        assert library.status_of_open(path) == FORMAT_ERROR, f"lie {number}: we accept it"
        # The reference takes the last of two equal names.
        assert theirs == "refused" or b'"b"' not in lie, f"lie {number}: the reference accepts it"


def we_read_what_numpy_saves(library, folder):
    for dtype in (numpy.float16, numpy.float32):
        for version in ((1, 0), (2, 0), (3, 0)):
            array = numpy.arange(5 * 4 * 2 * 3).astype(dtype).reshape(5, 4, 2, 3)
            path = folder / "pages.npy"
            with path.open("wb") as file:
                numpy.lib.format.write_array(file, array, version=version)
            snapshot = library.open(path)
            shape, data = library.tensor(snapshot, "pages")
            assert shape == [5, 4, 2, 3] and data == array.tobytes()
            assert library.page_count(snapshot) == 5
            library.close(snapshot)
    numpy.save(folder / "fortran.npy", numpy.asfortranarray(array))
    numpy.save(folder / "double.npy", array.astype(numpy.float64))
    numpy.save(folder / "objects.npy", numpy.array([None], dtype=object), allow_pickle=True)
    for name in ("fortran.npy", "double.npy", "objects.npy"):
        assert library.status_of_open(folder / name) < 0, name


TESTS = [("the reference reads our dump, f32", lambda l, f: reference_reads_our_dump(l, f, numpy.float32)),
         ("the reference reads our dump, f16", lambda l, f: reference_reads_our_dump(l, f, numpy.float16)),
         ("we read the reference writer", we_read_the_reference_writer),
         ("we read a dump of the reference writer", we_read_a_dump_of_the_reference_writer),
         ("both refuse the same lies", both_refuse_the_same_lies),
         ("we read what NumPy saves", we_read_what_numpy_saves)]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    passed = failed = skipped = 0
    for name, test in TESTS:
        if numpy is None:
            print(f"skipped: {name}: the modules safetensors and numpy are not installed")
            skipped += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(Library(sys.argv[1]), pathlib.Path(folder))
                passed += 1
            except Exception:
                print(f"failed: {name}")
                traceback.print_exc(file=sys.stdout)
                failed += 1
    print(f"test_safetensors_interop: {passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
