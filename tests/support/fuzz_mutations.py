"""Mutations of files: bytes, numbers in text, fields of binary headers, JSON values, file names.

In: bytes, or a folder, and a random generator. Out: changed bytes or names. All that the module knows about
formats is the usual places of numbers.
"""

import json
import os
import re
import shutil
import struct
import zlib

TEXTS = [
    "0",
    "-1",
    "1",
    "2147483648",
    "9223372036854775808",
    "1e308",
    "-1e400",
    "nan",
    "inf",
    "",
    "x",
    "1 2",
    "65536",
    "99999999999999999999999",
]
WHOLE = [0, 1, -1, 2, 255, 127, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
REALS = [0.0, -1.0, 1e308, 1e-308, float("nan"), float("inf"), -float("inf")]
VALUES = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "../..",
    [],
    {},
    [1],
    [[1]],
    {"a": 1},
    "a" * 3000,
]
NIFTI = {
    40: "h",
    42: "h",
    44: "h",
    46: "h",
    48: "h",
    70: "h",
    72: "h",
    76: "f",
    80: "f",
    84: "f",
    88: "f",
    108: "f",
    112: "f",
    116: "f",
    123: "B",
    252: "h",
    254: "h",
    256: "f",
    260: "f",
    264: "f",
    280: "f",
    284: "f",
    288: "f",
}
NIFTI |= {0: "i", 12: "h", 14: "h", 16: "q", 24: "q", 32: "q", 104: "d", 168: "q", 176: "d", 184: "d"}
NUMBERS = ["0", "00", "1", "2", "3", "007", "20260131", "9" * 30, "", "1_2", "\u0663"]
LETTERS = ["z", "Z", "c", "ch", "t", "_", "-", " ", ".", "(", "9", "\u00e9", "\u017f"]
HEAD = 700
"""Number of leading bytes that contain most of a small file's header."""


def damage(rng, data, path):
    """Return a damaged version of `data`, the content of the file `path`."""
    name = path.name.lower()
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        ways = [*_BYTES, *_BYTES]
        if name.endswith((".json", ".zattrs", ".zarray", ".zgroup")):
            ways += [_json] * 20 + [_text] * 4
        elif name.endswith((".mha", ".mhd", ".nrrd", ".nhdr", ".csv", ".npy")):
            ways += [_text] * 10 + [_line] * 6
        elif name.endswith(".nii"):
            ways += [_nifti] * 20
        elif name.endswith(".gz"):
            ways += [_inside] * 20
        else:
            ways += [_number] * 16 + ([_dicom] * 16 if data[128:132] == b"DICM" else [])
            ways += [_tiff] * 16 if data[:2] == b"II" else []
        data = rng.choice(ways)(rng, data) if data else data
    return data


def rename(rng, folder):
    """Rename a random file of a folder, copy it to another name, or remove it."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    name = path.stem
    at = rng.randrange(len(name))
    numbers = list(re.finditer(r"\d+", name))
    ways = [name[:at] + rng.choice(LETTERS) + name[at + 1 :], name[:at] + rng.choice(LETTERS) + name[at:]]
    ways += [name[: m.start()] + rng.choice(NUMBERS) + name[m.end() :] for m in numbers] * 4
    other = path.with_name(rng.choice(ways) + path.suffix)
    if rng.random() < 0.2:
        path.unlink()
    elif other != path and "secret" in other.name and len(other.name) < 200:
        (shutil.copyfile if rng.random() < 0.3 else os.replace)(path, other)


def _at(rng, data, size=1):
    """Return a random offset, most often near the start."""
    end = max(1, len(data) - size + 1)
    return rng.randrange(min(end, HEAD) if rng.random() < 0.7 else end)


def _flip(rng, data):
    at = _at(rng, data)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _overwrite(rng, data):
    size = rng.choice([1, 2, 4, 8, 32, 200])
    at = _at(rng, data, size)
    block = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
    return data[:at] + block + data[at + size :]


def _truncate(rng, data):
    return data[: rng.randrange(len(data))]


def _insert(rng, data):
    at = _at(rng, data)
    return data[:at] + rng.randbytes(rng.choice([1, 2, 4, 60])) + data[at:]


def _delete(rng, data):
    at = _at(rng, data)
    return data[:at] + data[at + rng.choice([1, 2, 4, 60]) :]


def _repeat(rng, data):
    at = _at(rng, data)
    return data[:at] + data[at : at + rng.choice([4, 16, 100])] * 2 + data[at:]


_BYTES = [_flip, _overwrite, _truncate, _insert, _delete, _repeat]


def _number(rng, data):
    """Replace a number of 2, 4 or 8 bytes at a random even offset."""
    code = rng.choice(["h", "i", "q", "f", "d"])
    return _put(rng, data, _at(rng, data, struct.calcsize(code)) & ~1, code)


def _put(rng, data, at, code):
    size = struct.calcsize(code)
    if code in "fd":
        value = rng.choice([v for v in REALS if code == "d" or not 1e300 < abs(v) < float("inf")])
        return data[:at] + struct.pack("<" + code, value) + data[at + size :]
    value = rng.choice(WHOLE) % 256**size
    return data[:at] + value.to_bytes(size, rng.choice(["little", "little", "big"])) + data[at + size :]


def _nifti(rng, data):
    at = rng.choice(list(NIFTI))
    return _put(rng, data, at, NIFTI[at])


def _tiff(rng, data):
    """Replace a field of a TIFF directory entry: tag, type, count or value."""
    entries = [
        m.start() for m in re.finditer(rb"[\x00-\xff][\x01\x80-\x87]\x01?[\x01-\x05\x0b\x0c\x10]\x00", data)
    ]
    if not entries:
        return _number(rng, data)
    at = rng.choice(entries)
    start, code = rng.choice([(0, "h"), (2, "h"), (4, "i"), (8, "i"), (8, "h"), (8, "q"), (12, "q")])
    return _put(rng, data, at + start, code)


def _dicom(rng, data):
    """Replace the length or the value of a DICOM element."""
    elements = [m.start() for m in re.finditer(rb"[\x08\x18\x20\x28\x02]\x00[\x00-\xff][\x00\x10]", data)]
    at = rng.choice(elements or [132])
    if rng.random() < 0.4:
        return _put(rng, data, at + rng.choice([4, 6, 8]), rng.choice(["h", "i"]))
    length = struct.unpack("<H", data[at + 6 : at + 8].ljust(2, b"\0"))[0] if rng.random() < 0.7 else 4
    value = (
        rng.choice(TEXTS).encode()[:length].ljust(min(length, 40)) if rng.random() < 0.5 else rng.randbytes(2)
    )
    return data[: at + 8] + value + data[at + 8 + len(value) :]


def _inside(rng, data):
    """Decompress gzip data, damage the content, and compress it again."""
    try:
        plain = zlib.decompress(data, 31)
    except zlib.error:
        return _flip(rng, data)
    pack = zlib.compressobj(wbits=31)
    return pack.compress(rng.choice([_nifti, _nifti, _nifti, *_BYTES])(rng, plain or b"\0")) + pack.flush()


def _text(rng, data):
    """Replace a number or a word near the start of a text."""
    words = list(re.finditer(rb"-?\d[\d.e+-]*|[A-Za-z_]+", data[:HEAD]))
    if not words:
        return _flip(rng, data)
    word = (
        rng.choice([w for w in words if w[0][:1] in b"-0123456789"] or words)
        if rng.random() < 0.8
        else rng.choice(words)
    )
    return data[: word.start()] + rng.choice(TEXTS).encode() + data[word.end() :]


def _line(rng, data):
    """Remove, repeat, empty, shorten or greatly lengthen one of the first lines."""
    lines = data.split(b"\n")
    n = rng.randrange(min(len(lines), 20))
    lines[n : n + 1] = rng.choice(
        [[], [lines[n]] * 2, [lines[n] + b" 1" * 600], [b""], [lines[n].split(b":")[0]]]
    )
    return b"\n".join(lines)


def _json(rng, data):
    """Replace, repeat or remove a random value of a JSON document."""
    try:
        root = json.loads(data)
    except ValueError:
        return _flip(rng, data)
    holders = [root] if isinstance(root, dict | list) else []
    for holder in holders:
        holders += [
            v for v in (holder.values() if isinstance(holder, dict) else holder) if isinstance(v, dict | list)
        ]
    holders = [h for h in holders if h]
    if not holders or rng.random() < 0.03:
        return json.dumps(rng.choice(VALUES)).encode()
    holder = rng.choice(holders)
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    if rng.random() < 0.15:
        del holder[key]
    elif rng.random() < 0.1 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(root).encode()
