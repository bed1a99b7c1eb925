"""Archives from elsewhere through ``zip_collect``, into a gradebook in PostgreSQL.

The server is a real one, started here, if this machine has PostgreSQL's programs; otherwise the
summary says that it was not checked.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from tests.grader.toy import GOOD
from tests.nbgrader.conftest import Nbgrader, make_course
from tests.nbgrader.test_batch import COUNT, DOUBLE, HALF

# Debian, Red Hat, Homebrew, MacPorts, built by hand: newer versions come first in each.
PLACES = (
    "usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin", "opt/local/lib/postgresql*/bin", "usr/local/pgsql/bin",
)  # fmt: skip
NOT_CHECKED = (
    "NOT CHECKED: a gradebook in PostgreSQL. This machine has no initdb and postgres; install "
    "PostgreSQL's server (Debian: apt-get install postgresql) to check it"
)


def programs() -> tuple[str, str] | None:
    """initdb and postgres of one installation; distributions keep them out of PATH."""
    folders = [found for place in PLACES for found in sorted(Path("/").glob(place), reverse=True)]
    if on_path := shutil.which("initdb"):
        folders.insert(0, Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return str(folder / "initdb"), str(folder / "postgres")
    return None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database on a server of this test's own, reached by a socket file."""
    found = programs()
    if sys.platform == "win32" or found is None:
        pytest.skip(NOT_CHECKED)
    initdb, server = found
    # A short path of its own: a socket's name has 107 bytes, and the server's user must reach it.
    folder = Path(f"/tmp/inferlab-postgres-{os.getpid()}")
    folder.mkdir(mode=0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    user: dict[str, int | str] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid}
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    made = [initdb, "-D", str(data), "-U", "teacher", "-A", "trust", "--no-sync"]
    subprocess.run([*made, "-E", "UTF8"], check=True, **quiet, **user)  # type: ignore[call-overload]
    options = ["-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen([server, "-D", str(data), "-k", str(folder), *options],
                               **quiet, **user)  # type: ignore[call-overload]  # fmt: skip
    try:
        create_database(folder)
        yield f"postgresql://teacher@/gradebook?host={folder}"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def create_database(folder: Path) -> None:
    """Wait until the server answers, then make the database."""
    import time

    import psycopg2

    last = time.monotonic() + 60
    while True:
        try:
            connection = psycopg2.connect(host=str(folder), user="teacher", dbname="postgres")
            break
        except psycopg2.OperationalError:
            if time.monotonic() > last:
                raise
            time.sleep(0.2)
    connection.autocommit = True
    connection.cursor().execute("create database gradebook")
    connection.close()


def packed(path: Path, files: dict[str, str | bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def handed_in(folder: Path, notebook: bytes) -> dict[str, tuple[float, float]]:
    """Archives as platforms make them; by student, what each must get."""
    good = {DOUBLE: GOOD["double.py"], COUNT: GOOD["count.py"]}
    folder.mkdir(parents=True)
    packed(folder / "ada_lab90.zip", {**good, "lab90.ipynb": notebook})
    packed(folder / "bob.zip", {f"lab90/{name}": text for name, text in good.items()})
    packed(folder / "half_lab90.zip", {**good, DOUBLE: HALF, "timestamp.txt": "1990-01-01"})
    packed(folder / "turingalan_LATE_42_1234_work.zip", {**good, "../../../../evil.py": "x"})
    (folder / "broken_lab90.zip").write_bytes(b"PK\x03\x04 no zip at all")
    (folder / "readme.txt").write_text("not a submission")
    return {
        "ada": (60, 40), "bob": (60, 40), "half": (30, 40), "turingalan-42": (0, 0),
        "broken": (0, 0),
    }  # fmt: skip


def test_archives_into_a_gradebook_in_postgresql(
    postgres: str, tree: Path, nbgrader: Nbgrader, tmp_path: Path
) -> None:
    course = make_course(tree, tmp_path / "course", db=postgres)
    nbgrader(course, "generate_assignment lab90")
    notebook = (course / "release" / "lab90" / "lab90.ipynb").read_bytes()
    wanted = handed_in(course / "downloaded" / "lab90" / "archive", notebook)
    nbgrader(course, "zip_collect lab90")
    log = nbgrader(course, "autograde lab90").text
    settings = (course / "nbgrader_config.py").read_text()
    url = postgres.replace("postgresql://", "postgresql+psycopg2://")
    assert f'c.CourseDirectory.db_url = "{url}"' in settings
    with Gradebook(url) as book:
        found = {
            one.student.id: {g.name: g.auto_score for nb in one.notebooks for g in nb.grades}
            for one in book.assignment_submissions("lab90")
        }
        times = {one.student.id: one.timestamp for one in book.assignment_submissions("lab90")}
    assert found == {name: {"double": a, "count": b} for name, (a, b) in wanted.items()}, log
    assert times["half"] is None, "a timestamp out of an archive is the student's own word"
    assert not (course / "gradebook.db").exists()
    assert not list(tmp_path.rglob("evil.py"))
    nbgrader(course, "export --to=grades.csv")
    assert "lab90,,,half,,,,70.0,0.0,70.0,100.0" in (course / "grades.csv").read_text()
