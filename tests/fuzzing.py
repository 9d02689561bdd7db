"""Damaged inputs by the hundreds, each read in a process that may crash, hang or eat memory without harm.

A kind of input is a function that makes good files and one that reads a file. Its files are mutated by a seeded
generator, and what becomes of each is one of the OUTCOMES; only "read" and "refused" are right.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vactk.errors import VactkError

OUTCOMES = ("read", "refused", "untyped error", "crash", "too slow", "out of memory")
RIGHT = ("read", "refused")
TIMEOUT_S = 20.0
MEMORY_BYTES = 3 * 2**30  # more than the process has when it begins
BATCH = 20  # inputs of one process

NUMBERS = (b"0", b"-1", b"1e309", b"NaN", b"9" * 20, b"18446744073709551615", b"0.5", b"-0", b"1" * 5000)
WORDS = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"',
    b"'",
    b",",
    b"\t",
    b" ",
    b"\n",
    b"\r\n",
    b"#",
    b":",
    b"- ",
    b"|",
)
NESTED = (b"[" * 2000, b"{" * 2000, b'{"a":' * 1500, b"&a *a", b"&a [*a, *a]", b"!!python/object:os.system")
ODD = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", "\u2028".encode(), "\u202e".encode())
LONG = (b"a" * 20_000, b"/" * 300, b"../../etc/passwd", b"%s%n")
TOKENS = (*WORDS, *NESTED, *ODD, *LONG)


@dataclass(frozen=True)
class Kind:
    """A kind of input. `make` writes good files into a folder and returns them; `read` reads one file."""

    name: str
    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]
    is_text: bool = False
    whole_folder: bool = False  # the files lie beside each other, and `read` may look at all of them


class Result(NamedTuple):
    """What became of one input."""

    kind: str
    source: str
    number: int
    outcome: str
    detail: str
    seconds: float


@dataclass
class Report:
    """What became of all inputs."""

    results: list[Result] = field(default_factory=list)

    def count(self, kind: str, outcome: str) -> int:
        return sum(result.kind == kind and result.outcome == outcome for result in self.results)

    @property
    def wrong(self) -> list[Result]:
        return [result for result in self.results if result.outcome not in RIGHT]


def fuzz(kinds: Sequence[Kind], count: int, seed: int, folder: Path, keep: Path | None = None) -> Report:
    """`count` mutated inputs of each kind. Inputs that went wrong are copied to `keep`."""
    report = Report()
    for kind in kinds:
        good = folder / kind.name / "good"
        good.mkdir(parents=True)
        sources = list(kind.make(good))
        jobs = [(number, sources[number % len(sources)]) for number in range(count)]
        for result in _run(kind, jobs, seed, folder / kind.name / "work"):
            report.results.append(result)
            if keep is not None and result.outcome not in RIGHT:
                _keep(kind, result, dict(jobs)[result.number], seed, keep)
    return report


def mutated(content: bytes, rng: random.Random, *, is_text: bool) -> bytes:
    """`content` with one to four changes."""
    ways = [*ANY, *(TEXT if is_text else BINARY)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(ways)(content, rng)
    return content


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 2, 8, 64, 1000)) :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    piece = content[start : start + rng.choice((1, 4, 32, 512))]
    return content[:start] + piece * rng.choice((2, 3, 20)) + content[start:]


def _shuffle(content: bytes, rng: random.Random) -> bytes:
    """Two pieces change places."""
    if len(content) < 8:
        return content
    size = rng.randrange(1, max(2, len(content) // 4))
    a, b = sorted(rng.randrange(len(content) - size + 1) for _ in range(2))
    b = max(b, a + size)
    return (
        content[:a]
        + content[b : b + size]
        + content[a + size : b]
        + content[a : a + size]
        + content[b + size :]
    )


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    near_head = rng.random() < 0.5  # where most of what is parsed lies
    for _ in range(rng.choice((1, 3, 20, 200))):
        if changed:
            place = rng.randrange(min(len(changed), 200) if near_head else len(changed))
            changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _noise(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    size = rng.choice((4, 8, 100, 3000))
    return content[:start] + rng.randbytes(size) + content[start + size :]


def _extreme(content: bytes, rng: random.Random) -> bytes:
    """A field of 4 or 8 bytes becomes a number at the end of its range."""
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1))
    start = rng.randrange(max(1, min(len(content), rng.choice((16, 400, 10**9)))))
    return content[:start] + value.to_bytes(size, rng.choice(("big", "little"))) + content[start + size :]


def _zeros(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    size = rng.choice((16, 512, 10**6))
    return content[:start] + bytes(min(size, len(content) - start)) + content[start + size :]


def _token(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice(TOKENS) + content[start + rng.choice((0, 0, 1, 5)) :]


def _number(content: bytes, rng: random.Random) -> bytes:
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return _token(content, rng)
    place = rng.choice(digits)
    return content[:place] + rng.choice(NUMBERS) + content[place + 1 :]


def _lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    place = rng.randrange(len(lines))
    way = rng.randrange(4)
    if way == 0:
        del lines[place]
    elif way == 1:
        lines.insert(place, lines[rng.randrange(len(lines))])
    elif way == 2:
        lines[place] = lines[place].upper()
    else:
        rng.shuffle(lines)
    return b"".join(lines)


ANY = (_cut, _drop, _repeat, _shuffle, _flip)
BINARY = (_noise, _extreme, _zeros, _flip, _extreme)
TEXT = (_token, _token, _number, _number, _lines, _noise)


def _input(kind: Kind, source: Path, number: int, seed: int) -> bytes:
    rng = random.Random(f"{seed}/{kind.name}/{number}")
    return mutated(source.read_bytes(), rng, is_text=kind.is_text)


def _run(kind: Kind, jobs: Sequence[tuple[int, Path]], seed: int, work: Path) -> Iterator[Result]:
    """The jobs in processes of BATCH inputs; one that is lost goes on with a new process after it."""
    context = multiprocessing.get_context("fork")
    left = list(jobs)
    while left:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_read_all, args=(kind, left[:BATCH], seed, work, theirs))
        child.start()
        theirs.close()
        for number, source in left[:BATCH]:
            result = _next(ours, child, kind, number, source)
            left.pop(0)
            yield result
            if result.outcome in ("crash", "too slow"):
                break
        child.kill()
        child.join()
        ours.close()


def _next(pipe: Any, child: Any, kind: Kind, number: int, source: Path) -> Result:
    started = time.monotonic()
    if not pipe.poll(TIMEOUT_S):
        return Result(kind.name, source.name, number, "too slow", "", time.monotonic() - started)
    try:
        outcome, detail = pipe.recv()
    except (EOFError, OSError):
        child.join()
        name = signal.Signals(-child.exitcode).name if child.exitcode and child.exitcode < 0 else "ended"
        outcome, detail = "crash", name
    return Result(kind.name, source.name, number, outcome, detail, time.monotonic() - started)


def _read_all(kind: Kind, jobs: Sequence[tuple[int, Path]], seed: int, work: Path, pipe: Any) -> None:
    """The life of a process that reads inputs. It says nothing on the terminal."""
    faulthandler.disable()  # a crash is an outcome, not news
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    with Path("/proc/self/statm").open() as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (present + MEMORY_BYTES, present + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, source in jobs:
        shutil.rmtree(work, ignore_errors=True)
        if kind.whole_folder:
            shutil.copytree(source.parent, work)
        else:
            work.mkdir(parents=True)
        path = work / source.name
        path.write_bytes(_input(kind, source, number, seed))
        pipe.send(_outcome(kind, path))
    os._exit(0)


def _outcome(kind: Kind, path: Path) -> tuple[str, str]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            kind.read(path)
    except VactkError as error:
        if not str(error).strip():
            return "untyped error", "a VactkError that says nothing"
        return "refused", str(error)[:300]
    except MemoryError:
        return "out of memory", traceback.format_exc()[-2000:]
    except BaseException:
        return "untyped error", traceback.format_exc()[-2000:]
    return "read", ""


def _keep(kind: Kind, result: Result, source: Path, seed: int, keep: Path) -> None:
    folder = keep / f"{kind.name}-{result.number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / source.name).write_bytes(_input(kind, source, result.number, seed))
    (folder / "why.txt").write_text(f"{result.outcome}\n{result.detail}\n")
