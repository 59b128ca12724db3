"""Zip files of students: read in memory, within limits, whatever they hold."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder import intake
from autograder.manifest import Week, load
from autograder.student.handin import pack

WEEK = load().week(4)
STUB = WEEK.stub


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def read(data: bytes) -> intake.Submission:
    return intake.read_archive("s", data, WEEK, "s.zip")


def entry(name: str, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    info.flag_bits |= flags
    return info


def encrypted(name: str, data: bytes) -> bytes:
    """A zip file that says of its entry that it is encrypted."""
    made = bytearray(zipped((name, data)))
    made[6] |= 1
    made[made.index(b"PK\x01\x02") + 8] |= 1
    return bytes(made)


@pytest.mark.parametrize(
    "around", ["", "week04/", "hand-in/", "exercises/week04/", "lora-main/exercises/week04/", "lora-main/week04/"]
)
def test_a_folder_around_everything_is_left_off(around: str) -> None:
    found = read(zipped((f"{around}{STUB}", b"x = 1"), (f"{around}sub/helper.py", b"y = 2"), ("__MACOSX/._x", b"junk")))
    assert found == intake.Submission("s", {STUB: b"x = 1", "sub/helper.py": b"y = 2"})


def test_only_the_week_of_a_clone_is_taken() -> None:
    more = [(f"clone/exercises/week0{n}/other.py", b"z") for n in (3, 5)] + [("clone/README.md", b"the course")]
    assert read(zipped((f"clone/exercises/week04/{STUB}", b"x = 1"), *more)).files == {STUB: b"x = 1"}


def test_notebooks_and_hidden_files_are_no_code() -> None:
    data = zipped((STUB, b"x = 1"), ("week04.ipynb", b"{}"), (".git/config", b""), ("__pycache__/a.pyc", b""), ("a/.b/c.py", b""))
    assert read(data) == intake.Submission("s", {STUB: b"x = 1"})
    assert intake.notebook_in(data, WEEK) == b"{}"
    assert intake.notebook_in(zipped((STUB, b"")), WEEK) == "week04.ipynb was not handed in"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.py", "its name leads elsewhere"),
        ("a/../../evil.py", "its name leads elsewhere"),
        ("a//b.py", "its name leads elsewhere"),
        ("/etc/evil.py", "its name is an absolute path"),
        ("C:/evil.py", "its name is an absolute path"),
        ("..\\evil.py", "its name has a backslash"),
        ("a\nb.py", "its name is too long or cannot be shown"),
        ("a" * 300 + ".py", "its name is too long or cannot be shown"),
        ("a/b/c/d/e/f/g.py", "it is in a folder too deep inside others"),
        ("inner.zip", "it is a zip file inside the zip file"),
        (entry("link.py", stat.S_IFLNK | 0o777), "it is a symlink (hand in the file itself)"),
        (entry("fifo.py", stat.S_IFIFO | 0o600), "it is neither a file nor a folder"),
        (f"{STUB}/x.py", None),
    ],
)
def test_odd_entries_are_left_out_with_a_notice(name: str | zipfile.ZipInfo, why: str | None) -> None:
    found = read(zipped((STUB, b"x = 1"), (name, b"evil")))
    if why is None:  # a folder with the stub's name: neither can be told to be the one that was meant
        assert found.problem == f"{STUB}: left out, there is a folder of that name; so there is nothing to run"
        return
    assert found.files == {STUB: b"x = 1"} and found.problem is None
    (notice,) = found.notices
    assert notice.endswith(f": left out, {why}") and "\n" not in notice


def test_the_first_of_two_files_of_a_name_is_taken() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zipped((STUB, b"x = 1"), (STUB, b"x = 2"))
    found = read(data)
    assert found.files == {STUB: b"x = 1"} and found.notices == (
        f"{STUB}: left out, there is another file of that name before it",
    )


def test_encrypted_and_unusual_ones_are_named() -> None:
    found = read(encrypted(STUB, b"x = 1"))
    assert found.problem == f"{STUB}: left out, it is encrypted (pack it without a password); so there is nothing to run"
    found = read(zipped((STUB, b"x = 1"), how=zipfile.ZIP_LZMA))
    assert "it is packed in an unusual way" in str(found.problem)


def test_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = WEEK.limits
    asked: list[int] = []
    original = zipfile.ZipExtFile.read

    def counted(file: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        asked.append(-1 if n is None else n)
        return original(file, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    found = read(zipped((STUB, b"x = 1"), ("bomb.py", bytes(50 << 20))))
    assert found.files == {STUB: b"x = 1"} and "bomb.py: left out, it has 50.0 MiB" in found.notices[0]
    assert asked == [(limits.file_kib << 10) + 1], "what says that it is too large is not even opened"
    # One that lies about its size is read no further than it says.
    made = bytearray(zipped(("bomb.py", bytes(50 << 20)), (STUB, b"x = 1")))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = made.index(signature) + at
        made[place : place + 4] = (100).to_bytes(4, "little")
    found = read(bytes(made))
    assert found.files == {STUB: b"x = 1"} and found.notices == ("bomb.py: left out, it is damaged",)
    many = read(zipped(*((f"f{n:04}.py", bytes(limits.file_kib << 10)) for n in range(30)), (STUB, b"x = 1")))
    assert sum(map(len, many.files.values())) <= limits.total_kib << 10
    crowd = read(zipped(*((f"f{n:04}.py", b"") for n in range(1000)), (STUB, b"x = 1")))
    assert len(crowd.files) == limits.files and f"only the first {limits.files} files were taken" in crowd.notices
    contents = read(zipped(*((f"f{n}", b"") for n in range(intake._ENTRIES + 1))))
    assert "it holds too many files" in str(contents.problem)


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\5\6" + bytes(18), zipped((STUB, b"x = 1"))[:-10], b"\x7fELF" * 100])
def test_a_damaged_file_is_the_students_problem(data: bytes) -> None:
    found = read(data)
    assert found.files == {} and found.problem is not None and "\n" not in found.problem
    assert isinstance(intake.notebook_in(data, WEEK), str)


_NAMES = st.one_of(
    st.sampled_from([STUB, f"week04/{STUB}", "a/b.py", "week04.ipynb", "../x.py", "/x", "x.zip", ".hidden/x", STUB + "/"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40),
)


@settings(deadline=None, max_examples=300)
@given(
    members=st.lists(st.tuples(_NAMES, st.binary(max_size=200)), max_size=8),
    edits=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 40),
)
def test_any_bytes_give_a_submission(members: list[tuple[str, bytes]], edits: list[tuple[int, int]], cut: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = bytearray(zipped(*((name, content) for name, content in members)))
    for place, value in edits:
        data[place % len(data)] = value
    _sound(bytes(data))
    _sound(bytes(data[: len(data) - cut]))


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300))
def test_bytes_that_were_never_a_zip_file(data: bytes) -> None:
    _sound(data)
    _sound(b"PK\3\4" + data + b"PK\5\6" + bytes(18))


def _sound(data: bytes) -> None:
    found = read(data)
    assert found == read(data) and len(found.digest()) == 64
    names = set(found.files)
    for name in names:
        parts = name.split("/")
        assert name.isprintable() and not {"", ".", ".."} & set(parts) and "\\" not in name
        assert not any("/".join(parts[:count]) in names for count in range(1, len(parts)))
    for line in [*found.notices, found.problem or ""]:
        assert "\n" not in line
    assert isinstance(intake.notebook_in(data, WEEK), bytes | str)


@settings(deadline=None, max_examples=50)
@given(files=st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?\.py", fullmatch=True), st.binary(max_size=50), max_size=6))
def test_what_submit_packs_is_read_back(files: dict[str, bytes]) -> None:
    files = {STUB: b"x = 1\n"} | files
    assert read(pack(files)) == intake.Submission("s", files, intake.unreadable(STUB, files[STUB]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


def put(root: Path, name: str, data: bytes) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    return root / name


def test_who_handed_in(root: Path) -> None:
    one = pack({STUB: b"x = 1"})
    for name in ("ada.zip", "week04-bob.zip", "both.zip", "week04-twice.zip", "twice.ZIP", "王小明.zip", ".hidden.zip"):
        put(root, name, one)
    put(root, f"both/{STUB}", b"y = 2")
    put(root, "week04-ada.receipt.json", b"{}")
    put(root, "notes.txt", b"")
    (root / "link.zip").symlink_to(root / "ada.zip")
    (root / "folder.zip").mkdir()
    found = dict(intake.students(root, WEEK))
    assert list(found) == sorted(["ada", "bob", "both", "twice", "王小明", "folder.zip"])
    assert intake.read("both", found["both"], WEEK).files == {STUB: b"y = 2"}
    assert intake.read("bob", found["bob"], WEEK).files == {STUB: b"x = 1"}
    assert intake.strays(root, WEEK) == [
        "both.zip: not graded, the folder both counts",
        "link.zip: not graded, a symlink",
        "notes.txt: not graded, not a folder",
        "week04-twice.zip: not graded, twice.ZIP counts",
    ]


Case = Callable[[Path], object]


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda f: put(f, "week04.zip", pack({STUB: b"1"})), {STUB: b"1"}),
        (lambda f: put(f, "anything.zip", pack({STUB: b"1"})), {STUB: b"1"}),
        (lambda f: [put(f, f"week0{n}.zip", pack({STUB: b"%d" % n})) for n in (3, 4, 5)], {STUB: b"4"}),
        (lambda f: [put(f, "week04.zip", pack({STUB: b"1"})), put(f, "week04.ipynb", b"{}")], {STUB: b"1"}),
        (lambda f: put(f, "week04/week04-ada.zip", pack({STUB: b"1"})), {STUB: b"1"}),
        (lambda f: [put(f, "week04.zip", b"PK"), put(f, STUB, b"2")], {STUB: b"2", "week04.zip": b"PK"}),
    ],
)
def test_a_zip_file_alone_in_a_folder(root: Path, make: Case, wanted: dict[str, bytes]) -> None:
    make(root / "ada")
    found = intake.read("ada", root / "ada", WEEK)
    assert found.files == wanted and found.problem is None


def test_links_to_zip_files_are_not_followed(root: Path, week: Week) -> None:
    real = put(root, "real.zip", pack({STUB: b"1"}))
    (root / "ada").mkdir()
    (root / "ada" / "week04.zip").symlink_to(real)
    assert intake.read("ada", root / "ada", week).files == {}
    (root / "link.zip").symlink_to(real)
    assert "cannot be used: it cannot be read" in str(intake.read("link", root / "link.zip", week).problem)
