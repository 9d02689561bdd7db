"""An index to serve a page of, and processes to look after."""

from __future__ import annotations

import time
from pathlib import Path

from vactk.errors import VactkError
from vactk.retrieval.hits import Hit
from vactk.retrieval.index.file_identity import FileIdentity, FileState
from vactk.video.reader import open_video

KEY = 2**55  # beyond what a browser's numbers hold


def entry(key, video, start_s=2.0, end_s=4.0, label=""):
    """What an index has of a file that is indexed now."""
    known = FileIdentity.of(video, FileState.of(video) or FileState(0, 0))
    return Hit(
        rank=0, score=0.0, key=key, video=video, start_s=start_s, end_s=end_s, label=label, known_file=known
    )


def read_frame(path):
    """The first frame of a video, in whatever process."""
    with open_video(path) as video:
        return video.read([0]).numpy()


class Fake:
    """An index whose hits are all its entries, those with the words of the query in their names first."""

    def __init__(self, entries):
        self.hits = {hit.key: hit for hit in entries}
        self.asked = []

    num_videos = property(lambda self: len(self.hits))
    num_entries = property(lambda self: 2 * len(self.hits))
    model_name = "/home/me/runs/first"
    read_video = staticmethod(read_frame)

    def embed(self, views):
        return views

    def by_vector(self, vector, wanted):
        self.asked.append((vector.shape, wanted))
        return self.by_text(["upload"], wanted)[0]

    def labels(self):
        return sorted({hit.label for hit in self.hits.values()})

    def entry(self, key):
        return self.hits.get(key)

    def by_text(self, queries, wanted):
        self.asked.append((queries, wanted))
        if not queries[0].strip():
            raise VactkError("the query is empty")
        kept = [
            hit
            for hit in self.hits.values()
            if wanted.label in ("", hit.label) and wanted.path in str(hit.video)
        ]
        ranked = sorted(kept, key=lambda hit: queries[0] not in hit.video.name)[: wanted.top]
        return [[Hit(**{**vars(hit), "rank": rank, "score": 1 / rank}) for rank, hit in enumerate(ranked, 1)]]

    def by_video(self, video, wanted):
        (hits,) = self.by_text(["like"], wanted)
        return [hit for hit in hits if hit.video != video]


def descendants(parent: int) -> set[int]:
    """The processes below one."""
    found, parents = set(), {parent}
    while parents:
        listed = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        parents = {pid for pid in listed if _stat(pid)[1:2] in [[str(parent)] for parent in parents]} - found
        found |= parents
    return found


def all_end(processes: set[int], within_s: float) -> bool:
    """Whether these processes end in time, by themselves."""
    deadline_s = time.monotonic() + within_s
    while any(_stat(pid)[:1] not in ([], ["Z"]) for pid in processes):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def _stat(process: int) -> list[str]:
    """Its state, its parent and more; nothing once it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
