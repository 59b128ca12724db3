"""intake.py: zip files, as bytes of any kind, and as zip files whose entries are chosen."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

from autograder import intake
from autograder.manifest import load

WEEK = load().week(4)
_CAP = WEEK.limits.total_kib << 10


def zipped(script: bytes) -> bytes:
    """A zip file: a line an entry, `mode,flags,method,name=contents`, the numbers in hexadecimal."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")
        for line in script.split(b"\n")[:40]:
            head, _, contents = line.partition(b"=")
            mode, flags, method, name = [*head.split(b",", 3), b"", b"", b""][:4]
            info = zipfile.ZipInfo(name.decode("latin-1") or "x")
            info.create_system, info.external_attr = 3, (_hex(mode) & 0xFFFF) << 16
            archive.writestr(info, contents, zipfile.ZIP_DEFLATED if _hex(method) % 2 else zipfile.ZIP_STORED)
            info.flag_bits |= _hex(flags) & 0xFFFF
            info.compress_type = _hex(method) & 0xFF
    return out.getvalue()


def _hex(text: bytes) -> int:
    try:
        return int(text[:8], 16)
    except ValueError:
        return 0


_SCRIPTS = [
    b"81a4,0,1,lora_linear.py=x = 1",
    b"81a4,0,0,week04/lora_linear.py=x = 1\n81a4,0,8,week04/sub/helper.py=y = 2\n81a4,0,1,week04/week04.ipynb={}",
    b"a1ff,0,0,lora_linear.py=/etc/passwd\n81a4,1,0,secret.py=x\n11a4,0,0,pipe.py=",
    b"81a4,0,0,../x.py=1\n81a4,0,0,/x.py=1\n81a4,0,0,c:/x.py=1\n81a4,0,0,a\\b.py=1\n81a4,0,0,a//b.py=1",
    b"81a4,0,0,a=1\n81a4,0,0,a/b=2\n81a4,0,0,a=3\n81a4,0,9,d.py=4\n81a4,0,0,in.zip=PK",
    b"81a4,0,1,exercises/week04/lora_linear.py=" + b"a" * 3000,
]
SEEDS = [b"\0" + zipped(script) for script in _SCRIPTS] + [b"\1" + script for script in _SCRIPTS]
SEEDS.append(b"\0" + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 2**31, 2**31, 0))


def one(data: bytes) -> None:
    """Read a submission and its notebook: whatever the bytes are, there is an answer, within the limits."""
    archive = data[1:] if data[:1] == b"\0" else zipped(data[1:])
    found = intake.read_archive("ada", archive, WEEK, "ada.zip")
    check(found)
    notebook = intake.notebook_in(archive, WEEK)
    assert isinstance(notebook, str) or len(notebook) <= intake.MAX_NOTEBOOK


def check(found: intake.Submission) -> None:
    """What holds of every submission."""
    assert len(found.files) <= WEEK.limits.files and sum(map(len, found.files.values())) <= _CAP
    for name in found.files:
        assert not name.startswith("/") and not {"", ".", ".."} & set(name.split("/")), name
    for line in (*found.notices, found.problem or ""):
        assert "\n" not in line and "\x1b" not in line and len(line) < 1000, line
    assert (WEEK.stub in found.files) >= (found.problem is None)
    found.digest()
