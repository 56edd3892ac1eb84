"""Tokens a second of `petrun serve` with one client and with many, the time to the first token, and the time of a whole answer.

    python scripts/bench/serve.py [--model embedded] [--clients 16] [--requests 4] [--rounds 3] [--batch-size 16]

Starts a server with a LoRA (rank 8, query and value) of random values, then lets one client and `--clients` at once take turns; each
sends its requests one after the other, prompts of 4 to 40 words, answers of 32 to 96 tokens, as streams. Printed for each round: tokens a
second and their ratio; at the end the percentiles of all rounds, and the seconds that the server took to start, with what it compiled.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bases import write_lora, write_qwen2

# transformers looks for an optional package `kernels`, and would find the file of that name beside this one.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

WORDS = "please send round hats to Porto before April we agreed on each".split()


class Measured:
    """One answer."""

    def __init__(self, port: int, number: int) -> None:
        rng = np.random.default_rng(number)
        body = {
            "model": ("delta", "base")[number % 2],
            "prompt": " ".join(rng.choice(WORDS, int(rng.integers(4, 41)))),
            "max_tokens": int(rng.integers(32, 97)),
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        begin, self.first = time.perf_counter(), 0.0
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                self.first = self.first or time.perf_counter() - begin
                usage = json.loads(line.removeprefix(b"data: ")).get("usage")
                self.tokens = usage["completion_tokens"] if usage else 0
        connection.close()
        self.seconds = time.perf_counter() - begin


def run(port: int, clients: int, requests: int, start: int) -> tuple[float, list[Measured]]:
    """Let the clients work. Returns tokens a second, and every answer."""
    found: list[Measured] = []

    def work(client: int) -> None:
        for k in range(requests):
            found.append(Measured(port, start + client * requests + k))

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(each.tokens for each in found) / (time.perf_counter() - begin), found


def percentiles(name: str, found: list[Measured]) -> None:
    def line(values: list[float]) -> str:
        return ", ".join(f"{np.percentile(values, p) * 1000:.0f}" for p in (50, 90, 99))

    print(
        f"{name}: first token {line([x.first for x in found])} ms, whole answer {line([x.seconds for x in found])} ms "
        f"(percentiles 50, 90, 99 of {len(found)})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["embedded", "qwen2"], default="embedded")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--context", type=int, default=512)
    a = parser.parse_args()
    from petrun.assets import base_folder

    with tempfile.TemporaryDirectory() as folder:
        base, delta = base_folder(), Path(folder) / "delta"
        if a.model == "qwen2":
            base = Path(folder) / "base"
            write_qwen2(base)
        write_lora(delta, base)
        options = f"--port 0 --queue 64 --batch-size {a.batch_size} --context {a.context}".split()
        command = [sys.executable, "-m", "petrun", "serve", "--base", str(base), "--delta", f"delta={delta}", *options]
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "GLOG_v": "3"}) as server:
            assert server.stdout is not None
            said = server.stdout.readline()
            started = time.perf_counter() - begin
            port = int(said.rpartition(":")[2].partition("/")[0])
            run(port, 2, 1, 10**6)
            alone: list[Measured] = []
            crowd: list[Measured] = []
            ratios = []
            for k in range(a.rounds):
                one, found = run(port, 1, a.requests, 1000 * k)
                alone += found
                many, found = run(port, a.clients, a.requests, 1000 * k)
                crowd += found
                ratios.append(many / one)
                print(
                    f"one client {one:.0f} tokens/s, {a.clients} clients {many:.0f} tokens/s, ratio {many / one:.2f}",
                    flush=True,
                )
            server.terminate()
    print(f"{a.model}, {a.batch_size} rows: ratio {statistics.median(ratios):.2f}; started in {started:.1f} s")
    percentiles("one client", alone)
    percentiles(f"{a.clients} clients", crowd)


if __name__ == "__main__":
    main()
