"""The server under clients that vanish, stall and flood, and while it is told to stop."""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import time
import unittest

from serving import APUS, MODEL, Server, in_parallel

# Longer in a run by hand: APUS_TEST_OVERLOAD_SECONDS=30.
OVERLOAD_SECONDS = float(os.environ.get("APUS_TEST_OVERLOAD_SECONDS", "6"))


def head(length, path="/v1/completions"):
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n".encode()


def long_request(**more):
    return json.dumps(
        {"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True, "stream": True, **more}).encode()


def connect(server, receive_buffer=None):
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(60)
    client.connect(("127.0.0.1", server.port))
    return client


def wait_until(holds, seconds, message):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(message)
        time.sleep(0.05)


class Streams:
    """Streams that are read to their end, at once."""

    def __init__(self, server, count, tokens, **more):
        self.connections = []
        for _ in range(count):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
            client.request("POST", "/v1/completions", json.dumps({
                "prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True, "stream": True, **more}))
            self.connections.append(client)
        self.responses = [client.getresponse() for client in self.connections]

    def texts(self):
        texts = [response.read().decode() for response in self.responses]
        for client in self.connections:
            client.close()
        return texts


class VanishingClients(unittest.TestCase):
    def test_a_disconnect_frees_what_it_held(self):
        with Server() as server:
            clients = [connect(server) for _ in range(6)]
            for client in clients:
                body = long_request()
                client.sendall(head(len(body)) + body)
            for client in clients:
                self.assertIn(b"200 OK", client.recv(4096))
            wait_until(lambda: server.metric("apus:num_requests_running") == 6, 10, "six streams should run")
            for index, client in enumerate(clients):
                if index % 2:
                    # A reset instead of an orderly end.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            wait_until(lambda: server.metric("apus:num_requests_running") == 0, 3, "the streams should have ended")
            self.assertEqual(server.metric("apus:kv_cache_usage_perc"), 0)

    def test_a_disconnect_ends_an_answer_in_one_piece(self):
        with Server() as server:
            client = connect(server)
            body = long_request(stream=False)
            client.sendall(head(len(body)) + body)
            wait_until(lambda: server.metric("apus:num_requests_running") == 1, 10, "the request should run")
            client.close()
            wait_until(lambda: server.metric("apus:num_requests_running") == 0, 3, "the request should have ended")

    def test_a_disconnect_ends_embeddings(self):
        with Server() as server:
            client = connect(server)
            body = json.dumps({"input": [[1000 + i % 7 for i in range(2000)] for _ in range(40)]}).encode()
            client.sendall(head(len(body), "/v1/embeddings") + body)
            wait_until(lambda: server.metric("apus:num_requests_running") > 0, 10, "the request should run")
            client.close()
            wait_until(
                lambda: server.metric("apus:num_requests_running") + server.metric("apus:num_requests_waiting") == 0, 4,
                "the request should have ended")

    def test_half_a_body(self):
        with Server("--body-timeout", "1") as server:
            client = connect(server)
            client.sendall(head(1000) + b'{"prompt": ')
            start = time.monotonic()
            answer = client.recv(4096)
            self.assertIn(b"408", answer)
            self.assertLess(time.monotonic() - start, 5)
            client.close()
            client = connect(server)
            client.sendall(head(1000) + b'{"prompt": ')
            client.close()
            self.assertEqual(server.request("GET", "/health")[0], 200)

    def test_slow_senders(self):
        with Server("--body-timeout", "1", "--idle-timeout", "1") as server:
            body = connect(server)
            body.sendall(head(1000))
            header = connect(server)
            header.sendall(b"POST /v1/completions HTTP/1.1\r\n")
            ended = {body: False, header: False}
            end = time.monotonic() + 8
            while not all(ended.values()) and time.monotonic() < end:
                for client in [client for client, is_over in ended.items() if not is_over]:
                    try:
                        client.sendall(b"a")
                        client.settimeout(0.1)
                        if client.recv(4096) == b"":
                            ended[client] = True
                    except socket.timeout:
                        pass
                    except OSError:
                        ended[client] = True
            self.assertTrue(all(ended.values()), "slow senders should be cut off")

    def test_clients_that_never_read(self):
        with Server("--write-timeout", "1") as server:
            server.post("/v1/completions", {"prompt": "a", "max_tokens": 4})
            before = server.memory()
            clients = []
            for _ in range(4):
                client = connect(server, receive_buffer=4096)
                body = long_request(logprobs=20, n=4)
                client.sendall(head(len(body)) + body)
                clients.append(client)
            # Others are served meanwhile.
            status, answer = server.post("/v1/completions", {"prompt": "The sky is", "max_tokens": 8})
            self.assertEqual(status, 200)
            wait_until(lambda: server.metric("apus:num_requests_running") == 0, 90, "who does not read should be dropped")
            self.assertLess(server.memory() - before, 150e6)
            for client in clients:
                client.close()


class Overload(unittest.TestCase):
    def test_ten_times_too_many(self):
        with Server("--max-sequences", "4", "--max-queued-requests", "8") as server:
            body = {"prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": True}
            server.post("/v1/completions", body)
            before = server.memory()
            end = time.monotonic() + OVERLOAD_SECONDS

            def client(_):
                counts = {200: 0, 503: 0}
                while time.monotonic() < end:
                    status, headers, answer = server.request("POST", "/v1/completions", body)
                    counts[status] += 1
                    if status == 200:
                        assert json.loads(answer)["usage"]["completion_tokens"] == 24
                    else:
                        assert int(headers["Retry-After"]) >= 1
                        assert json.loads(answer)["error"]["code"] == "queue_full"
                        time.sleep(0.02)
                return counts

            counts = in_parallel(120, client)
            accepted = sum(count[200] for count in counts)
            refused = sum(count[503] for count in counts)
            self.assertGreater(accepted, 10)
            self.assertGreater(refused, accepted)
            self.assertEqual(server.metric("apus:num_requests_running") + server.metric("apus:num_requests_waiting"), 0)
            self.assertLess(server.memory() - before, 60e6)

    def test_queue_bounded_by_tokens(self):
        with Server("--max-sequences", "1", "--max-queued-tokens", "300") as server:
            running = connect(server)
            body = long_request()
            running.sendall(head(len(body)) + body)
            running.recv(4096)
            waiting = connect(server)
            body = long_request(prompt=[5] * 200)
            waiting.sendall(head(len(body)) + body)
            wait_until(lambda: server.metric("apus:num_requests_waiting") == 1, 5, "the request should wait")
            status, answer = server.post("/v1/completions", {"prompt": [5] * 200, "max_tokens": 4})
            self.assertEqual((status, answer["error"]["code"]), (503, "queue_full"))
            running.close()
            waiting.close()

    def test_waiting_streams_take_little_memory(self):
        tokens = 2048
        with Server("--max-sequences", "1", "--max-connections", "400", "--context", tokens,
                    "--cache-tokens", tokens) as server:
            # Makes the whole cache resident, so that what the running request fills is no growth.
            prompt = [5 + i % 1000 for i in range(tokens - 8)]
            self.assertEqual(server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})[0], 200)
            first = connect(server)
            body = long_request(max_tokens=tokens - 64)
            first.sendall(head(len(body)) + body)
            first.recv(4096)
            before = server.memory()
            clients = []
            for _ in range(256):
                client = connect(server)
                client.sendall(head(len(body)) + body)
                clients.append(client)
            # The first may have ended by then.
            wait_until(lambda: server.metric("apus:num_requests_waiting") >= 255, 20, "the streams should wait")
            self.assertLess(server.memory() - before, 60e6)
            for client in clients + [first]:
                client.close()
            wait_until(lambda: server.metric("apus:num_requests_waiting") == 0, 5, "the queue should be empty")

    def test_out_of_pages(self):
        with Server("--context", "256", "--cache-tokens", "512", "--max-sequences", "8", "--page-size", "16",
                    "--precision", "float32", "--cache-type", "f32") as server:
            body = {"prompt": "Once upon a time", "max_tokens": 150, "ignore_eos": True, "temperature": 0}
            alone = server.post("/v1/completions", body)[1]["choices"][0]["text"]
            answers = in_parallel(8, lambda _: server.post("/v1/completions", body))
            self.assertEqual({status for status, _ in answers}, {200})
            self.assertEqual({answer["choices"][0]["text"] for _, answer in answers}, {alone})
            self.assertEqual(server.metric("apus:kv_cache_usage_perc"), 0)


class Stopping(unittest.TestCase):
    def test_running_requests_finish(self):
        with Server() as server:
            streams = Streams(server, 4, 150)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: self.refuses(server), 3, "new requests should be refused")
            for text in streams.texts():
                self.assertTrue(text.endswith("data: [DONE]\n\n"), text[-200:])
                self.assertIn('"finish_reason":"length"', text)
                self.assertNotIn('"error"', text)
            self.assertEqual(server.process.wait(10), 0)

    @staticmethod
    def refuses(server):
        try:
            status, headers, _ = server.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
            return status == 503 and int(headers["Retry-After"]) >= 1 and server.request("GET", "/ready")[0] == 503
        except OSError:
            return True

    def test_what_does_not_finish_is_told_so(self):
        with Server("--drain-timeout", "1") as server:
            streams = Streams(server, 3, 3900)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            for text in streams.texts():
                events = [line for line in text.split("\n\n") if line]
                self.assertEqual(events[-1], "data: [DONE]")
                self.assertEqual(json.loads(events[-2][6:])["error"]["code"], "shutting_down")
            self.assertEqual(server.process.wait(10), 0)
            self.assertLess(time.monotonic() - start, 8)

    def test_a_second_signal_does_not_wait(self):
        with Server() as server:
            streams = Streams(server, 1, 3900)
            server.process.send_signal(signal.SIGINT)
            wait_until(lambda: "stopping" in server.log_text(), 5, "the first signal should be logged")
            time.sleep(0.2)
            server.process.send_signal(signal.SIGINT)
            self.assertEqual(server.process.wait(5), 130)
            for client in streams.connections:
                client.close()

    def test_killed_and_started_again(self):
        with Server() as server:
            streams = Streams(server, 2, 3000)
            port = server.port
            server.process.kill()
            server.process.wait()
            for client in streams.connections:
                client.close()
        again = subprocess.Popen(
            [APUS, "serve", MODEL, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            self.assertIn(f":{port}", again.stdout.readline())
        finally:
            again.terminate()
            self.assertEqual(again.wait(10), 0)
            again.stdout.close()

    def test_a_port_in_use_is_an_error(self):
        with Server() as server:
            done = subprocess.run(
                [APUS, "serve", MODEL, "--port", str(server.port)], capture_output=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"ddress already in use", done.stderr)

    def test_a_full_disk_for_logs(self):
        with open("/dev/full", "wb") as full:
            process = subprocess.Popen(
                [APUS, "serve", MODEL, "--port", "0"], stdout=subprocess.PIPE, stderr=full, text=True)
            try:
                port = int(process.stdout.readline().rsplit(":", 1)[1])
                for _ in range(3):
                    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    client.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 2}))
                    self.assertEqual(client.getresponse().status, 200)
                    client.close()
            finally:
                process.terminate()
                self.assertEqual(process.wait(10), 0)
                process.stdout.close()


if __name__ == "__main__":
    unittest.main()
