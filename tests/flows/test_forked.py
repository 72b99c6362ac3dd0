"""A process that is forked is, to who looks at it, one that `subprocess` starts."""

import os
import signal
import subprocess
import sys

import forked
import pytest

LOOK = """
import os, sys
print(sys.argv, sys.orig_argv[1:], __name__, sys.path[0], os.getcwd(), os.environ["GIVEN"], "json" in globals())
print(os.getsid(0) == os.getpid(), sys.stdin.read())
print("caf\\udce9", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    return tmp_path


@pytest.mark.parametrize(
    "words", [["-c", LOOK, "one"], ["look.py", "one"], ["-m", "look", "one"], ["-u", "-m", "look"]]
)
@pytest.mark.parametrize("session", [False, True])
def test_words_streams_environment_folder_session_and_status_are_those_of_a_new_process(script, words, session):
    options = {"cwd": script, "env": os.environ | {"GIVEN": "value"}, "start_new_session": session}
    options |= {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    new, fork = (each.run([sys.executable, *words], **options) for each in (subprocess, forked))
    assert (fork.returncode, fork.stdout, fork.stderr) == (new.returncode, new.stdout, new.stderr)
    assert new.returncode == 3


def test_a_signal_and_a_time_limit_end_it_as_they_end_a_new_process():
    words = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    with forked.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_a_file_given_for_output_stays_open(tmp_path):
    with (tmp_path / "out.txt").open("w") as file:
        assert forked.run([sys.executable, "-c", "print(1)"], stdout=file).returncode == 0
        file.write("2\n")
    assert (tmp_path / "out.txt").read_text() == "1\n2\n"
