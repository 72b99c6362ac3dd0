"""The command: where it listens, who may ask, how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import hostile
import pytest
from service import ROOT, RUN, SLOW_MODEL, ask, started, wait_until

TOKEN = "0123456789abcdef-secret"


def refused(*arguments, before="", **environment):
    "What the command prints if it does not start; its exit status is 2."
    command = [sys.executable, "-c", f"{before}\n{RUN}", *map(str, arguments), "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, timeout=60)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr


def test_another_host_without_a_token_is_refused(model):
    message = refused(model, "--host", "0.0.0.0")
    assert message.startswith("error: --host 0.0.0.0 lets other machines ask: give --token_file FILE")


def test_a_short_token_is_refused(model, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    assert "a token has 16 to 1000 ASCII characters" in refused(model, "--token_file", tmp_path / "token")
    assert "RAPID_FINETUNE_TOKEN: a token has" in refused(model, RAPID_FINETUNE_TOKEN="with some spaces in it")


def test_a_port_in_use_is_refused(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(model, "--port", port)
    assert message == f"error: --host 127.0.0.1 --port {port} can't be used (Address already in use): give another\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", 65_536), "--port 65536: give 0 to 65,535"),
        (("--max_photos", 300), "--max_photos 300: give 1 to 256"),
        (("--max_pixels", 0), "--max_pixels 0: give 1 to 178,956,970"),
        (("--name", "a/b"), "the model's name 'a/b': give a --name of letters"),
        (("--host", "no.such.host.invalid"), "--host no.such.host.invalid: no address ("),
    ],
)
def test_an_option_out_of_range_is_refused(model, arguments, message):
    assert refused(model, *arguments).startswith(f"error: {message}")


def test_a_missing_library_is_named_with_the_line_that_installs_it(model):
    message = refused(model, before="import sys\nsys.modules['uvicorn'] = None")
    assert message == "error: export.serve needs uvicorn: pip install 'rapid-finetune[serve]'\n"


def test_with_a_token_only_those_who_have_it_are_answered(model, photos, tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with started(model, "--host", "0.0.0.0", "--token_file", tmp_path / "token") as running:
        photo = photos[0].read_bytes()
        assert ask(running.port, "/predict", photo, {"Authorization": f"Bearer {TOKEN}"}).status == 200
        for given in ({}, {"Authorization": f"Bearer {TOKEN[:-1]}"}, {"Authorization": TOKEN}):
            answer = ask(running.port, "/predict", photo, given)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert ask(running.port, "/metrics").status == ask(running.port, "/v2/models/tiny").status == 401
        assert ask(running.port, "/v2/health/ready").status == ask(running.port, "/docs").status == 200
        assert TOKEN not in " ".join(running.process.args[2:])


def test_another_name_or_another_sites_page_is_refused_without_a_token(port):
    assert ask(port, "/docs", headers={"Host": "evil.example"}).status == 421
    assert ask(port, "/docs", headers={"Host": f"localhost:{port}"}).status == 200
    assert ask(port, "/docs", headers={"Host": "[::1]:80"}).status == 200
    assert ask(port, "/docs", headers={"Origin": "http://evil.example"}).status == 403
    assert ask(port, "/docs", headers={"Origin": f"http://127.0.0.1:{port}"}).status == 200


def test_a_bug_is_one_line_here_and_tells_the_client_nothing(model, photos):
    before = "from export.serving import app\napp.prediction = lambda *given: {}['secret']"
    with started(model, before=before) as running:
        answer = ask(running.port, "/predict", photos[0].read_bytes())
        assert (answer.status, answer.json) == (500, {"error": "the service failed: its own messages say why"})
        assert ask(running.port, "/v2/health/live").status == 200
        running.process.terminate()
        assert running.process.communicate()[1].startswith("error: KeyError: 'secret' (<lambda>, line 2)\n")


def test_a_model_that_fails_is_a_500_and_the_service_goes_on(model, photos):
    before = "\n".join(
        [
            "from export.session import Classifier",
            "answers, failing = Classifier.answers, [True]",
            "def fails(*given):",
            "    if failing and failing.pop(): raise ValueError('out of memory')",
            "    return answers(*given)",
            "Classifier.answers = fails",
        ]
    )
    with started(model, before=before) as running:
        photo = photos[0].read_bytes()
        assert [ask(running.port, "/predict", photo).status for _ in range(2)] == [500, 200]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_what_came_is_answered_and_nobody_else(model, number):
    with started(model, before=SLOW_MODEL) as running, ThreadPoolExecutor(6) as pool:
        posted = [pool.submit(hostile.good, running.port) for _ in range(6)]
        wait_until(running.port, "rapid_finetune_photos_held", 6)
        running.process.send_signal(number)
        assert running.process.wait(60) == 0
        assert [each.result() for each in posted] == [200] * 6
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port), timeout=5)


def test_a_photo_that_is_on_its_way_at_a_signal_is_answered(model):
    with started(model) as running, socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        posted = hostile.post(hostile.jpeg())
        connection.sendall(posted[:-100])
        wait_until(running.port, "rapid_finetune_bytes_held", 100)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(posted[-100:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert running.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_model_has_run_once_ends_the_service(model, number):
    slow = """
import time
from export.session import Classifier
warm_up = Classifier.warm_up
Classifier.warm_up = lambda *given: print("warming", flush=True) or time.sleep(1) or warm_up(*given)
"""
    words = [sys.executable, "-c", slow + RUN, str(model), "--device", "cpu", "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "warming\n"
            process.send_signal(number)
            assert process.wait(30) == 130
        finally:
            process.kill()


def test_a_second_ctrl_c_ends_at_once(model):
    with started(model, "--bs", 1, before=SLOW_MODEL) as running, ThreadPoolExecutor(60) as pool:
        posted = [pool.submit(hostile.good, running.port) for _ in range(60)]  # 15 seconds of work
        wait_until(running.port, "rapid_finetune_photos_held", 40)
        for _ in range(2):
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        begun = time.monotonic()
        assert running.process.wait(60) == 130
        assert time.monotonic() - begun < 4
        assert 503 in {each.result() for each in posted} <= {200, 503, None}
