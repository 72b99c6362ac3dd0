"""`export.serve` beside `export.predict`, and under hostile requests.

    python tests/bench/serving.py                   # 64 clients: photos/s over those of export.predict; p50, p99
    python tests/bench/serving.py hostile           # 20,000 hostile requests: no crash, no leak, each a 4xx

speed: both sides label the same JPEGs of 500 x 375 pixels on the same cores, in turn, round by round; the ratio is the
median of the rounds'. predict opens its model and writes its CSV within its time. The service runs in a process of its
own, as do its clients, which take their processor time from the same cores. --arch, --size, --precision: the model.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]


# Clients


class Client(asyncio.Protocol):
    "A connection that posts one photo after the other. It takes little time: it builds no request twice."

    def __init__(self, requests: Iterator[bytes], seconds: list[float], done: asyncio.Event):
        self.requests, self.seconds, self.done = requests, seconds, done

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.post()

    def post(self) -> None:
        self.answer, self.begun = b"", time.perf_counter()
        if request := next(self.requests, None):
            self.transport.write(request)
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        if separator and len(body) == int(re.search(rb"content-length: (\d+)", head)[1]):
            assert head.startswith(b"HTTP/1.1 200"), self.answer
            self.seconds.append(time.perf_counter() - self.begun)
            self.post()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set()


async def post_all(port: int, photos: Path, clients: int) -> dict[str, object]:
    "Post each photo of the folder once, by `clients` connections; the seconds in all, and of each photo."
    heads = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: "
    bodies = [path.read_bytes() for path in sorted(photos.iterdir())]
    requests = iter([f"{heads}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    ends, seconds, begun = [asyncio.Event() for _ in range(clients)], [], time.perf_counter()
    for end in ends:
        await asyncio.get_running_loop().create_connection(
            lambda end=end: Client(requests, seconds, end), "127.0.0.1", port
        )
    for end in ends:
        await end.wait()
    return {"all": time.perf_counter() - begun, "each": seconds, "processor": time.process_time()}


# Speed


def speed(folder: Path, options: argparse.Namespace) -> None:
    import predict
    from service import started

    photos = predict.jpegs(folder / "photos", predict.PHOTOS, options.count, 500, 375)
    model = predict.model_file(folder, options.arch, options.size, options.precision)
    ratios, spent, each = [], [], []
    with started(model) as running:
        port, pid = running.port, running.process.pid
        client = [sys.executable, __file__, "client", "--port", port, "--folder", photos, "--clients", options.clients]
        for number in range(options.rounds + 1):
            own, served = processor(os.getpid()), processor(pid)
            alone = labelled_by_predict(model, photos, folder / "p.csv")
            own = processor(os.getpid()) - own
            posted = json.loads(subprocess.run([*map(str, client)], stdout=subprocess.PIPE, check=True).stdout)
            served = processor(pid) - served + posted["processor"]
            if number:  # the first round warms both up
                ratios.append(alone / posted["all"])
                spent.append(own / served)
                each += posted["each"]
                rates = [options.count / alone, options.count / posted["all"]]
                each_ms = [1000 * own / options.count, 1000 * served / options.count]
                print(f"predict {rates[0]:.1f} photos/s, serve {rates[1]:.1f}; ratio {ratios[-1]:.3f}; ", end="")
                print(f"ms of the processor a photo {each_ms[0]:.2f}, {each_ms[1]:.2f}", flush=True)
        print(batch_sizes(port))
    p50, p99 = (1000 * statistics.quantiles(each, n=100)[index] for index in (49, 98))
    print(f"{options.arch} {options.size} {options.precision}, {options.clients} clients, {options.rounds} rounds")
    print(f"ratio {statistics.median(ratios):.3f} (bar 0.9), ", end="")
    print(f"by the processor's seconds {statistics.median(spent):.3f}; ", end="")
    print(f"p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def processor(pid: int) -> float:
    "Seconds that the processor has spent on a process."
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def labelled_by_predict(model: Path, photos: Path, out: Path) -> float:
    "Seconds that export.predict takes, in this process."
    from export.predictions.local import predict_here
    from export.predictions.options import PredictOptions

    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict_here([model], photos, PredictOptions(out, "cpu"))
    return time.perf_counter() - begun


def batch_sizes(port: int) -> str:
    import hostile

    figures = hostile.metrics(port)
    mean = figures["rapid_finetune_batch_photos_sum"] / figures["rapid_finetune_batch_photos_count"]
    return f"photos in a batch: {mean:.1f} on average"


# Hostile requests


def hostile(folder: Path, options: argparse.Namespace) -> None:
    import hostile
    import tiny_onnx
    from service import started

    kinds = hostile.kinds()
    with started(tiny_onnx.write(folder / "tiny.onnx"), "--max_mb", 2, "--max_pixels", 1_000_000) as running:
        port, pid = running.port, running.process.pid
        run(hostile, port, kinds, 2 * len(kinds))  # each part of the service has worked once
        before, begun = held(pid), time.perf_counter()
        statuses, halfway = run(hostile, port, kinds, options.requests // 2), held(pid)
        for name, found in run(hostile, port, kinds, options.requests - options.requests // 2).items():
            statuses[name] += found
        passed = time.perf_counter() - begun
        time.sleep(3)
        after = held(pid)
        wrong = {name: found for name, found in statuses.items() if set(found) - hostile.expected(name)}
        good = hostile.good(port)
    print(f"the service ended with exit status {running.process.returncode}")
    total = Counter(status for found in statuses.values() for status in found.elements())
    print(f"{options.requests} hostile requests of {len(kinds)} kinds in {passed:.0f} s; by status {dict(total)}")
    for name, unit in (("RSS", "MB"), ("descriptors", ""), ("threads", "")):
        print(f"{name}: {before[name]:.0f} {unit} before, {halfway[name]:.0f} halfway, {after[name]:.0f} after")
    print(f"a good photo afterwards: {good}; kinds with another answer than a 4xx: {wrong or 'none'}")


def run(module, port: int, kinds: dict, count: int) -> dict[str, Counter]:
    "The statuses of `count` hostile requests by kind, 16 at a time; slow ones are each 200th."
    quick = [name for name in kinds if name not in module.SLOW]
    names = [quick[number % len(quick)] for number in range(count)]
    for number, place in enumerate(range(0, count, 200)):
        names[place] = module.SLOW[number % len(module.SLOW)]
    statuses = {name: Counter() for name in kinds}
    with ThreadPoolExecutor(16) as pool:
        for name, status in zip(names, pool.map(lambda name: module.status_of(port, kinds[name]), names), strict=True):
            statuses[name][status] += 1
    return statuses


def held(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    figures = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return {"RSS": int(figures["VmRSS"]) / 1024, "threads": int(figures["Threads"]), "descriptors": descriptors}


def client(folder: Path, options: argparse.Namespace) -> None:
    print(json.dumps(asyncio.run(post_all(options.port, options.folder, options.clients))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["speed", "hostile", "client"], default="speed")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="int8")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--count", type=int, default=2000, help="photos of `speed`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000, help="of `hostile`")
    parser.add_argument("--port", type=int, help="of `client`, which `speed` starts")
    parser.add_argument("--folder", type=Path, help="of `client`")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        {"speed": speed, "hostile": hostile, "client": client}[arguments.what](Path(scratch), arguments)
