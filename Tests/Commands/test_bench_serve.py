"""`apus bench serve` against a small server whose delays are known."""

import json
import os
import subprocess
import tempfile
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
APUS = os.environ.get("APUS_BINARY", str(ROOT / ".build/release/apus"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, text, kind="application/json", **headers):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/v1/models":
            self.answer(200, json.dumps({"object": "list", "data": [{"id": "stand-in"}]}))
        elif self.path == "/metrics":
            state = self.server.state
            self.answer(200, "".join(f'# TYPE {n} counter\n{n}{{model_name="m"}} {v}\n' for n, v in state["counters"].items()),
                        "text/plain")
        else:
            self.answer(404, "{}")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state
        with state["lock"]:
            number = len(state["requests"])
            state["requests"].append((time.monotonic(), self.path, body, self.headers.get("Authorization")))
            state["active"] += 1
            state["peak"] = max(state["peak"], state["active"])
        try:
            self.stream(state, number, body)
        except BrokenPipeError:
            # A client that gave up.
            self.close_connection = True
        finally:
            with state["lock"]:
                state["active"] -= 1
                for name, growth in state["growth"].items():
                    state["counters"][name] += growth

    def stream(self, state, number, body):
        if state["status"] and number > 0:
            self.answer(state["status"], json.dumps({"error": {"message": "no room"}}), Retry_After="1")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chat = "messages" in body
        if chat:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        time.sleep(state["ttft"])
        count = body["max_tokens"]
        for index in range(count):
            if index:
                time.sleep(state["itl"])
            if state["breaks"] and number > 0 and index == count // 2:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            # A text that looks like the end and like an empty text, to be told apart from both.
            text = ' "text":"" [DONE] é'
            choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text}
            self.event({"id": "x", "choices": [choice], "usage": None})
        choice = {"index": 0, "delta": {}, "finish_reason": "stop"} if chat else {"index": 0, "text": "", "finish_reason": "stop"}
        self.event({"id": "x", "choices": [choice]})
        prompt = body.get("prompt", [])
        self.event({"choices": [], "usage": {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": 0}})
        if state["done"]:
            self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, value):
        data = b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
        # Some events come in two chunks, cut anywhere.
        middle = len(data) // 3
        self.chunk(data[:middle])
        self.chunk(data[middle:])

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


class StandIn:
    """A server with known delays in seconds."""

    def __init__(self, ttft=0.05, itl=0.01, status=None, breaks=False, done=True, growth=None):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.state = self.server.state = {
            "lock": threading.Lock(), "requests": [], "active": 0, "peak": 0, "ttft": ttft, "itl": itl, "status": status,
            "breaks": breaks, "done": done, "growth": growth or {}, "counters": {name: 5 for name in growth or {}},
        }  # fmt: skip

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def bench(self, *arguments, timeout=60):
        address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        done = subprocess.run([APUS, "bench", "serve", address, *map(str, arguments)], capture_output=True, timeout=timeout)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def measured(self, *arguments):
        code, out, err = self.bench(*arguments, "--json")
        if code != 0:
            raise AssertionError(err)
        return json.loads(out)

    @property
    def bodies(self):
        return [body for _, _, body, _ in self.state["requests"]]


class Measuring(unittest.TestCase):
    def test_times_are_those_of_the_server(self):
        with StandIn(ttft=0.2, itl=0.02) as server:
            result = server.measured("--requests", 8, "--concurrency", 4, "--prompt", 7, "--generate", 11)
        self.assertEqual((result["completed"], result["failed"]), (8, 0))
        self.assertEqual((result["total_input_tokens"], result["total_output_tokens"]), (56, 88))
        # A sleep never ends early; how late it ends depends on what else the machine does.
        for key, low, high in [("ttft", 200, 300), ("itl", 20, 40), ("tpot", 20, 40), ("e2el", 400, 700)]:
            self.assertGreaterEqual(result[f"median_{key}_ms"], low - 1, key)
            self.assertLess(result[f"median_{key}_ms"], high, key)
            self.assertGreaterEqual(result[f"p99_{key}_ms"], result[f"median_{key}_ms"])
        self.assertAlmostEqual(result["output_throughput"], 88 / result["duration"], delta=0.01)
        self.assertGreaterEqual(result["duration"], 2 * 0.4)
        self.assertEqual(server.state["peak"], 4)
        self.assertEqual(result["max_concurrent_requests"], 4)

    def test_requests_say_what_was_asked(self):
        with StandIn(ttft=0, itl=0) as server:
            server.measured("--requests", 5, "--prompt", 9, "--generate", 3, "--api-key", "sesame", "--vocabulary", 1000,
                            "--extra", '{"top_k": 4}')  # fmt: skip
            self.assertEqual({path for _, path, _, _ in server.state["requests"]}, {"/v1/completions"})
            self.assertEqual({key for *_, key in server.state["requests"]}, {"Bearer sesame"})
        self.assertEqual(len(server.bodies), 6)
        for body in server.bodies:
            self.assertEqual((body["model"], body["max_tokens"], body["ignore_eos"], body["top_k"]), ("stand-in", 3, True, 4))
            self.assertTrue(body["stream"] and body["stream_options"]["include_usage"])
            self.assertTrue(len(body["prompt"]) == 9 and all(256 <= token < 1000 for token in body["prompt"]))
        self.assertEqual(len({tuple(body["prompt"]) for body in server.bodies}), 6)

    def test_the_same_seed_asks_the_same(self):
        with StandIn(ttft=0, itl=0) as server:
            for seed in (3, 3, 4):
                server.measured("--requests", 2, "--generate", 1, "--spread", 0.5, "--seed", seed, "--warmup", 0,
                                "--concurrency", 1)  # fmt: skip
        prompts = [body["prompt"] for body in server.bodies]
        self.assertEqual(prompts[0:2], prompts[2:4])
        self.assertNotEqual(prompts[0:2], prompts[4:6])
        self.assertTrue(all(64 <= len(prompt) <= 192 for prompt in prompts))

    def test_shared_prefixes(self):
        with StandIn(ttft=0, itl=0) as server:
            server.measured("--workload", "shared-prefix", "--prefix", 20, "--groups", 2, "--prompt", 5, "--requests", 6,
                            "--generate", 1, "--warmup", 0)  # fmt: skip
        prompts = [body["prompt"] for body in server.bodies]
        self.assertEqual({len(prompt) for prompt in prompts}, {25})
        self.assertEqual(len({tuple(prompt[:20]) for prompt in prompts}), 2)
        self.assertEqual(len({tuple(prompt[20:]) for prompt in prompts}), 6)

    def test_file_of_conversations_and_prompts(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file, StandIn(ttft=0.1, itl=0) as server:
            file.write('{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}\n\n{"prompt": "Once"}\n')
            file.flush()
            result = server.measured("--workload", "file", "--file", file.name, "--generate", 2, "--warmup", 0)
            self.assertEqual(result["total_output_tokens"], 6)
            # The empty text that opens a chat's answer is not its first token.
            self.assertGreaterEqual(result["median_ttft_ms"], 99)
            code, _, err = server.bench("--workload", "file", "--file", "/dev/null/none")
            self.assertEqual(code, 1)
            self.assertIn("/dev/null/none", err)
        paths = sorted(path for _, path, _, _ in server.state["requests"])
        self.assertEqual(paths, ["/v1/chat/completions", "/v1/completions"])

    def test_arrival_rates(self):
        with StandIn(ttft=0, itl=0) as server:
            server.measured("--requests", 60, "--rate", 100, "--generate", 1, "--warmup", 0)
            times = [moment for moment, *_ in server.state["requests"]]
            mean = (times[-1] - times[0]) / 59
            self.assertTrue(0.006 < mean < 0.03, mean)
            server.state["requests"].clear()
            server.measured("--requests", 60, "--rate", 20, "--ramp", 400, "--generate", 1, "--warmup", 0)
            times = [moment for moment, *_ in server.state["requests"]]
            self.assertGreater(times[20] - times[0], times[59] - times[39])

    def test_goodput_and_speculation(self):
        growth = {"apus:spec_decode_num_drafts_total": 10, "apus:spec_decode_num_draft_tokens_total": 40,
                  "apus:spec_decode_num_accepted_tokens_total": 30}  # fmt: skip
        with StandIn(ttft=0.05, itl=0, growth=growth) as server:
            options = ("--requests", 4, "--generate", 2, "--concurrency", 1)
            result = server.measured(*options, "--goodput", "ttft:10000")
            self.assertAlmostEqual(result["request_goodput"], result["request_throughput"])
            self.assertEqual(result["spec_decode_num_drafts"], 40)
            self.assertAlmostEqual(result["spec_decode_acceptance_rate"], 75)
            self.assertAlmostEqual(result["spec_decode_acceptance_length"], 4)
            self.assertEqual(server.measured(*options, "--goodput", "ttft:20", "--goodput", "e2el:9999")["request_goodput"], 0)

    def test_the_table_and_the_page(self):
        with tempfile.TemporaryDirectory() as folder, StandIn(ttft=0, itl=0.001) as server:
            page = Path(folder) / "out.html"
            code, out, err = server.bench("--requests", 3, "--generate", 20, "--html", page)
            self.assertEqual(code, 0, err)
            for line in ("Successful requests:                     3", "Total generated tokens:                  60",
                         "Mean TTFT (ms):", "Median TPOT (ms):", "P99 ITL (ms):", "P99 E2EL (ms):",
                         "Output token throughput (tok/s):"):  # fmt: skip
                self.assertIn(line, out)
            html = page.read_text()
            self.assertEqual(html.count("<svg"), 4)
            self.assertNotIn("http", html.replace("http-equiv", ""))

    def test_failures_are_counted_and_named(self):
        with StandIn(ttft=0, itl=0, status=503) as server:
            code, out, _ = server.bench("--requests", 5, "--generate", 1)
            self.assertEqual(code, 1)
            self.assertIn("Failed requests:                         5", out)
            self.assertIn("failed 5 times: status 503", out)
        with StandIn(ttft=0, itl=0, breaks=True) as server:
            _, out, _ = server.bench("--requests", 4, "--generate", 8)
            self.assertIn("failed 4 times: the connection ended in the middle of the response", out)
        with StandIn(ttft=0, itl=0, done=False) as server:
            _, out, _ = server.bench("--requests", 2, "--generate", 1, "--warmup", 0)
            self.assertIn("the stream ended without [DONE]", out)
        with StandIn(ttft=3, itl=0) as server:
            _, out, _ = server.bench("--requests", 1, "--generate", 1, "--warmup", 0, "--timeout", 1)
            self.assertIn("no end after 1 s", out)

    def test_wrong_addresses_and_options(self):
        for arguments, reason in [
            (["https://127.0.0.1:1"], "only plain http"),
            (["http://127.0.0.1:1"], "Connection refused"),
            (["http://:80"], "names no host"),
            (["http://127.0.0.1:99999"], "1 to 65535"),
            (["http://127.0.0.1:1", "--goodput", "speed:3"], "ttft:MS"),
            (["http://127.0.0.1:1", "--text"], "--tokenizer"),
        ]:
            done = subprocess.run([APUS, "bench", "serve", *arguments], capture_output=True, timeout=30)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(reason, done.stderr.decode(), arguments)


if __name__ == "__main__":
    unittest.main()
