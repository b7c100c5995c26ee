"""A quarterly report that is killed leaves the old summary and files; the next run makes its own whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from medscore_assets.readmission.scoring import ReadmissionModel
from resources.warehouse import Warehouse
from tests.faults import quarters
from tests.faults.quarters import contents, digests, summarise, write_files
from tests.readmission.population.members import load, many_members


def kill_when_it(
    does: str, processes: ForkServerContext, warehouse: Warehouse, model_files: Path, folder: Path
) -> None:
    """Run the report in another process and kill it with SIGKILL when it says so, or when a file is there."""
    url = warehouse.engine.url.render_as_string(hide_password=False)
    parent, child = processes.Pipe(duplex=False)
    process = processes.Process(target=quarters.report, args=(url, model_files, folder, child))
    process.start()
    child.close()
    said = ""
    while said != ("commits" if does == "has files" else does):
        assert parent.poll(300)
        said = parent.recv()
    deadline = time.monotonic() + 300
    while does == "has files" and not list(folder.rglob(".v*/*")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_report_leaves_the_old_one_and_is_made_good_to_the_byte(
    processes: ForkServerContext,
    model: ReadmissionModel,
    model_files: Path,
    open_warehouse: Callable[[], Warehouse],
    tmp_path: Path,
) -> None:
    killed, undisturbed = open_warehouse(), open_warehouse()
    old_members, new_members = (many_members(1_200, seed, hospitals=3) for seed in (1, 2))
    for warehouse in (killed, undisturbed):
        load(warehouse, old_members)
        summarise(warehouse, model)
    folder, other = tmp_path / "killed", tmp_path / "undisturbed"
    write_files(killed, folder)
    old_tables, old_files = digests(killed), contents(folder)
    assert old_tables == digests(undisturbed)
    for warehouse in (killed, undisturbed):
        load(warehouse, new_members)
    summarise(undisturbed, model)
    write_files(undisturbed, other)
    new_tables = digests(undisturbed)
    assert all(new_tables[table] != old_tables[table] for table in old_tables)

    kill_when_it("reads", processes, killed, model_files, folder)
    assert (digests(killed), contents(folder)) == (old_tables, old_files)
    kill_when_it("writes", processes, killed, model_files, folder)
    assert digests(killed) in (old_tables, new_tables)
    assert contents(folder) == old_files
    kill_when_it("has files", processes, killed, model_files, folder)
    assert digests(killed) == new_tables
    left = contents(folder)
    assert {name: left[name] for name in old_files} == old_files
    assert not any("/v2/" in name for name in left)

    summarise(killed, model)
    write_files(killed, folder)
    assert digests(killed) == new_tables
    assert contents(folder) == old_files | contents(other)
