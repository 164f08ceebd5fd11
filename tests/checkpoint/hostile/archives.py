"""Group 4: zip archives (and tar's) that are not what they seem."""

from __future__ import annotations

import struct
import tarfile
import zipfile

from crafted import FOUR_FLOATS, archive, bomb, npy, pickled, storage, tar, tensor, torch_zip, with_tensor

from .old import PARTS, special, tar_of

READ = None
GOOD = with_tensor()


def patched(content, old, new, count=1):
    assert content.count(old) >= count
    return content.replace(old, new, count)


def local_only(change):
    """Change the first entry's local header, not the directory's."""
    header = bytearray(GOOD)
    change(header)
    return bytes(header)


def duplicated():
    pickles = [("archive/data.pkl", pickled(tensor())), ("archive/data.pkk", pickled(b"N"))]
    content = archive([*pickles, ("archive/data/0", FOUR_FLOATS)])
    return content.replace(b"data.pkk", b"data.pkl")


def overlapping():
    """The second entry's data is the first one's: both headers are there, the directory points into the data."""
    inner = archive([("archive/data/0", FOUR_FLOATS)])
    inner = inner[: inner.index(b"PK\1\2")]
    outer = archive([("archive/data.pkl", pickled(tensor()) + inner), ("archive/data/0", FOUR_FLOATS)])
    start, directory = outer.index(inner), outer.rindex(b"PK\1\2")
    return outer[: directory + 42] + struct.pack("<I", start) + outer[directory + 46 :]


def flagged(flag):
    """A flag in both headers of the first entry."""
    content = bytearray(GOOD)
    content[6] |= flag & 0xFF
    content[7] |= flag >> 8
    directory = content.index(b"PK\1\2")
    content[directory + 8] |= flag & 0xFF
    content[directory + 9] |= flag >> 8
    return bytes(content)


def quine(levels):
    """Archives in archives, as deep as asked for."""
    content = GOOD
    for level in range(levels):
        content = archive([(f"{level}.pth", content)], zipfile.ZIP_DEFLATED)
    return content


def moved_directory():
    """The directory's place, as the end record has it, is another."""
    end = GOOD.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", GOOD, end + 16)[0]
    return GOOD[: end + 16] + struct.pack("<I", start - 1) + GOOD[end + 20 :]


def two_directories():
    """One at the place that the end record gives, one where its size would have it."""
    end = GOOD.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", GOOD, end + 16)[0]
    return GOOD[:end] + GOOD[start:end] + GOOD[end:]


def marked_as_folder():
    """The last attribute of the storage's directory entry: torch takes it for empty, and does not look again."""
    entry = GOOD.index(b"PK\1\2", GOOD.index(b"PK\1\2") + 1)
    return GOOD[: entry + 38] + b"\x10" + GOOD[entry + 39 :]


def first_crc(crc):
    """The checksum of the first entry in both headers."""
    content = bytearray(GOOD)
    directory = content.index(b"PK\1\2")
    content[14:18] = content[directory + 16 : directory + 20] = struct.pack("<I", crc)
    return bytes(content)


_TAR = {
    "two pickles": tar([("pickle", pickled(b"N")), *PARTS.items()]),
    "no pickle": tar((name, content) for name, content in PARTS.items() if name != "pickle"),
    "pickle in a folder": tar((f"x/{name}", content) for name, content in PARTS.items()),
    "symbolic link": tar_of(pickle=special("pickle", tarfile.SYMTYPE)),
    "hard link": tar_of(tensors=special("tensors", tarfile.LNKTYPE, "storages")),
    "device": tar_of(tensors=special("tensors", tarfile.CHRTYPE)),
    "pipe": tar_of(storages=special("storages", tarfile.FIFOTYPE)),
    "folder": tar_of(storages=special("storages", tarfile.DIRTYPE)),
    "sparse": tar_of(storages=special("storages", tarfile.GNUTYPE_SPARSE)),
    "long name": tar_of(pickle=special("pickle", tarfile.GNUTYPE_LONGNAME)),
    "size beyond the file": patched(tar_of(), b"%011o" % len(PARTS["storages"]), b"7" * 11),
    "size in base 256": patched(tar_of(), b"%011o\0" % len(PARTS["storages"]), b"\x80" + b"\xff" * 11),
    "negative size": patched(tar_of(), b"%011o\0" % len(PARTS["storages"]), b"\xff" * 12),
    "size that is text": patched(tar_of(), b"%011o" % len(PARTS["storages"]), b"0000000zzzz"),
    "damaged header": patched(tar_of(), b"sys_info", b"sys_info"[::-1]),
    "nothing behind the magic": tar_of()[:512],
}

ARCHIVES = {
    "directory at another place": (moved_directory(), "."),
    "two directories": (two_directories(), "."),
    "data that is a folder": (marked_as_folder(), "folder"),
    "wrong checksum of the pickle": (first_crc(1), "checksum"),
    "name with a zero": (torch_zip(pickled(b"N"), more=[("archive/a_b", b"")]).replace(b"a_b", b"a\0b"), READ),
    "name that is not UTF-8": (torch_zip(pickled(b"N"), more=[("archive/xx", b"")]).replace(b"/xx", b"/\xff\xff"), "."),
    "more entries than there are": (patched(GOOD, b"PK\5\6\0\0\0\0\x03\0\x03", b"PK\5\6\0\0\0\0\x04\0\x04"), "."),
    "fewer entries than there are": (patched(GOOD, b"PK\5\6\0\0\0\0\x03\0\x03", b"PK\5\6\0\0\0\0\x02\0\x02"), "."),
    "several volumes": (patched(GOOD, b"PK\5\6\0\0\0\0", b"PK\5\6\1\0\1\0"), "."),
    "archives in archives": (quine(40), READ),
    "pickle that is a folder": (archive([("archive/data.pkl/", b""), ("archive/version", b"3\n")]), "."),
    "100,001 entries": (lambda: archive([(f"archive/data/{i}", b"") for i in range(100_001)]), "entries"),
    "npz: one name twice": (archive([("a.npy", npy()), ("b.npy", npy())]).replace(b"b.npy", b"a.npy"), "twice"),
    "npz: something else": (archive([("a.npy", npy()), ("readme.txt", b"x")]), "readme"),
    "npz: name outside": (archive([("../../a.npy", npy())]), READ),
    **{f"tar: {name}": (content, ".") for name, content in _TAR.items()},
    "one name twice": (duplicated(), "twice"),
    "two prefixes": (torch_zip(pickled(tensor()), more=[("other/data/0", FOUR_FLOATS)]), "beside it"),
    "two pickles": (torch_zip(pickled(tensor()), more=[("other/data.pkl", pickled(b"N"))]), "2 pickles"),
    "no pickle at the top": (archive([("a/b/data.pkl", pickled(b"N"))]), "not where torch writes it"),
    "other name in the directory": (local_only(lambda h: h.__setitem__(slice(30, 31), b"A")), "differ"),
    "other size in the directory": (local_only(lambda h: h.__setitem__(22, h[22] + 1)), "differ"),
    "other checksum in the directory": (local_only(lambda h: h.__setitem__(14, h[14] ^ 1)), "differ"),
    "other method in the directory": (local_only(lambda h: h.__setitem__(8, 8)), "differ"),
    "something before": (b"PK\3\4" + bytes(60) + GOOD, "."),
    "something behind": (GOOD + b"\0", "."),
    "two archives": (GOOD + GOOD, "."),
    "a comment that is not there": (GOOD[:-2] + b"\x03\x00", "comment"),
    "a comment": (GOOD[:-2] + b"\x03\x00abc", "."),
    "overlap": (overlapping(), "overlap"),
    "encrypted": (flagged(1), "encrypted"),
    "strongly encrypted": (flagged(1 << 6), "encrypted"),
    "hidden headers": (flagged(1 << 13), "encrypted"),
    "damaged data": (patched(GOOD, FOUR_FLOATS, FOUR_FLOATS[:-1] + b"\x41"), "checksum"),
    "damaged pickle": (patched(GOOD, b"_rebuild_tensor_v2", b"_rebuild_tensor_v1"), "checksum"),
    "bzip2": (torch_zip(pickled(tensor()), compression=zipfile.ZIP_BZIP2), "method 12"),
    "more than declared": (bomb(100_000, 50_000), "does not unpack"),
    "less than declared": (bomb(100_000, 100_001), "does not unpack"),
    "far less than declared": (bomb(100_000, 3 << 30), "cannot unpack"),
    "junk byte order": (torch_zip(pickled(tensor()), more=[("archive/byteorder", b"middle")]), "byte order"),
    "long byte order": (torch_zip(pickled(tensor()), more=[("archive/byteorder", b"little" * 1000)]), "byte order"),
    "storage outside": (
        torch_zip(pickled(tensor(storage("../../x"))), {"0": b""}, more=[("archive/data/../../x", FOUR_FLOATS)]),
        "key",
    ),
}
