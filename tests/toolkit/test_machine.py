"""Processors and memory as the operating system counts them."""

import os
import subprocess
import sys

import pytest

from toolkit.machine import MEMORY_FILES, cores, free_in_container, free_memory


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone binds a process to processors")
def test_cores_are_those_that_this_process_may_use():
    code = "import os, toolkit.machine as m; print(m.cores()); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    done = subprocess.run([sys.executable, "-c", f"{code}; print(m.cores())"], capture_output=True, text=True)
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0))), "1"]
    assert 1 <= cores() <= os.cpu_count()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's sysconf")
def test_free_memory_is_some_of_the_machines():
    assert 10**8 < free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("limit", "used"), MEMORY_FILES, ids=["version 2", "version 1"])
def test_free_memory_of_a_container_is_its_limit_less_what_it_uses(tmp_path, limit, used):
    assert free_in_container(tmp_path) == sys.maxsize
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("3000\n")
    (tmp_path / used).write_text("1000\n")
    assert free_in_container(tmp_path) == 2000
    (tmp_path / limit).write_text("max\n")
    assert free_in_container(tmp_path) == sys.maxsize


def test_free_memory_is_the_containers_if_that_has_less(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.machine.CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() == 2000
