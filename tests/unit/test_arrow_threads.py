"""Reading Parquet starts no Arrow threads.

At exit, Arrow's threads may abort a producer that has already printed its report.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from producer.local_fleet.supervisor_client import ROOT
from tasks.model import ImageRequest
from tasks.outputs import parquet
from tasks.outputs.samples import SampleImage
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import success

#: Reads each kind of file, and prints the number of new threads afterwards.
_READ = """
import pathlib, sys, psutil
from producer.output.summary import summarise
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.outputs import parquet
from tasks.storage import manifest, plan

folder = pathlib.Path(sys.argv[1])
before = psutil.Process().num_threads()

def count(name):
    print(name, psutil.Process().num_threads() - before)

plan.decode((folder / "plan").read_bytes())
count("plan")
table = manifest.decode((folder / "manifest").read_bytes())
manifest.decode((folder / "manifest").read_bytes(), ["status", "reason", "bytes"])
count("manifest")
assert summarise([table]).success == 2
count("summary")
with (folder / "images").open("rb") as file:
    assert parquet.sizes(file) == {"0": 1, "1": 2}
with (folder / "images").open("rb") as file:
    assert [image.body for image in parquet.images(file)] == [b"a", b"bb"]
count("images")
assert len(list(url_list.read(str(folder / "list.parquet"), SourceOptions(columns=("nested.id",))))) == 2
count("list")
"""


def test_reading_starts_no_threads(tmp_path: Path) -> None:
    """Plans, manifests, their sums, packed images and URL lists are read by the thread that needs them."""
    ref = ShardRef("20260101-000000-abcdef", 0)
    planned = plan.encode([ImageRequest(index, "http://a.example/") for index in (0, 1)], ref)
    (tmp_path / "plan").write_bytes(planned)
    (tmp_path / "manifest").write_bytes(manifest.encode(plan.decode(planned), [success(0), success(1)], ref))
    samples = pa.table({"key": ["0", "1"], "bytes": [1, 2]})
    images = (SampleImage(key, "", body) for key, body in (("0", b"a"), ("1", b"bb")))
    (tmp_path / "images").write_bytes(b"".join(parquet.encode(samples, images)))
    rows = pa.table({"url": ["http://a.example/"] * 2, "nested": [{"id": 1}, {"id": 2}]})
    pq.write_table(rows, tmp_path / "list.parquet")
    argv = [sys.executable, "-c", _READ, str(tmp_path)]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:-1] == ["plan 0", "manifest 0", "summary 0", "images 0", "list 0"]
