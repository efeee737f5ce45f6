"""The server as applications use it: through the real `openai` client, and through plain HTTP for what a client hides."""

import json
import shutil
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import openai

from serving import MODEL, ROOT, Server, in_parallel

REWARD = ROOT / "Tests/Fixtures/models/llama-reward"

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


def safetensors(path):
    """The matrices of a file as lists of rows."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    result = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        rows, columns = entry["shape"]
        values = struct.unpack_from(f"<{rows * columns}{ {'I64': 'q', 'F32': 'f'}[entry['dtype']] }", data,
                                    8 + size + entry["data_offsets"][0])  # fmt: skip
        result[name] = [list(values[row * columns:(row + 1) * columns]) for row in range(rows)]
    return result


class WithServer(unittest.TestCase):
    """Tests that share one server."""

    arguments = ("--precision", "float32", "--cache-type", "f32")

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.arguments)
        cls.client = openai.OpenAI(base_url=cls.server.address + "/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.__exit__()


class OpenAIClient(WithServer):
    def test_models(self):
        names = [model.id for model in self.client.models.list()]
        self.assertEqual(names, [self.server.name])
        self.assertEqual(self.client.models.retrieve(names[0]).owned_by, "apus")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("another")

    def test_chat(self):
        answer = self.client.chat.completions.create(
            model=self.server.name, messages=FRANCE, temperature=0, max_completion_tokens=24)
        choice = answer.choices[0]
        self.assertIn("Paris", choice.message.content)
        self.assertEqual(choice.message.role, "assistant")
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertGreater(answer.usage.prompt_tokens, 5)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_chat_stream_is_the_same_text(self):
        whole = self.client.chat.completions.create(
            model=self.server.name, messages=FRANCE, temperature=0, max_completion_tokens=24)
        chunks = list(self.client.chat.completions.create(
            model=self.server.name, messages=FRANCE, temperature=0, max_completion_tokens=24, stream=True,
            stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        self.assertEqual([reason for reason in reasons if reason], [whole.choices[0].finish_reason])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))

    def test_chat_logprobs(self):
        answer = self.client.chat.completions.create(
            model=self.server.name, messages=FRANCE, temperature=0, max_completion_tokens=8, logprobs=True,
            top_logprobs=3)
        content = answer.choices[0].logprobs.content
        joined = b"".join(bytes(entry.bytes) for entry in content)
        self.assertEqual(joined.decode(), answer.choices[0].message.content)
        for entry in content:
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertLessEqual(entry.logprob, 0)
            self.assertAlmostEqual(entry.logprob, entry.top_logprobs[0].logprob)

    def test_n_and_seed(self):
        def run(seed):
            answer = self.client.completions.create(
                model=self.server.name, prompt="Once upon a time", max_tokens=12, n=3, temperature=1, seed=seed)
            self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
            return [choice.text for choice in answer.choices]

        first = run(5)
        self.assertEqual(len(set(first)), 3)
        self.assertEqual(first, run(5))
        self.assertNotEqual(first, run(6))

    def test_stop(self):
        answer = self.client.completions.create(
            model=self.server.name, prompt="1 2 3 4 5 6 7", max_tokens=30, temperature=0, stop=[" 12", "\n"])
        self.assertNotIn("12", answer.choices[0].text)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_completions_of_many_prompts(self):
        tokens = self.server.post("/tokenize", {"prompt": "The sky is"})[1]["tokens"]
        one = self.client.completions.create(model=self.server.name, prompt="The sky is", max_tokens=6, temperature=0)
        for prompt in (["The sky is", "A b c d"], [tokens, tokens]):
            answer = self.client.completions.create(
                model=self.server.name, prompt=prompt, max_tokens=6, temperature=0)
            self.assertEqual([choice.index for choice in answer.choices], [0, 1])
            self.assertEqual(answer.choices[0].text, one.choices[0].text)
        streamed = {0: "", 1: ""}
        for chunk in self.client.completions.create(
                model=self.server.name, prompt=["The sky is", "A b c d"], max_tokens=6, temperature=0, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        self.assertEqual(streamed[0], one.choices[0].text)

    def test_echo(self):
        answer = self.client.completions.create(
            model=self.server.name, prompt="The sky is", max_tokens=2, temperature=0, echo=True)
        self.assertTrue(answer.choices[0].text.startswith("The sky is"))
        chunks = list(self.client.completions.create(
            model=self.server.name, prompt="The sky is", max_tokens=2, temperature=0, echo=True, stream=True))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), answer.choices[0].text)

    def test_embeddings(self):
        answer = self.client.embeddings.create(model=self.server.name, input=["a cat", "a kitten", "the stock market"])
        cat, kitten, market = (entry.embedding for entry in answer.data)
        plain = self.client.embeddings.create(model=self.server.name, input="a cat", encoding_format="float")
        for a, b in zip(plain.data[0].embedding, cat):
            self.assertAlmostEqual(a, b, places=4)

        def likeness(a, b):
            norm = sum(x * x for x in a) ** 0.5 * sum(x * x for x in b) ** 0.5
            return sum(x * y for x, y in zip(a, b)) / norm

        self.assertGreater(likeness(cat, kitten), likeness(cat, market))

    def test_json_schema(self):
        schema = {
            "type": "object", "additionalProperties": False, "required": ["city", "population"],
            "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer", "maximum": 99999999}}}
        for stream in (False, True):
            answer = self.client.chat.completions.create(
                model=self.server.name, messages=FRANCE, temperature=1, seed=3, max_completion_tokens=200, stream=stream,
                response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}})
            if stream:
                text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            else:
                text = answer.choices[0].message.content
            value = json.loads(text)
            self.assertEqual(set(value), {"city", "population"})
            self.assertIsInstance(value["population"], int)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(
                model=self.server.name, messages=FRANCE,
                response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}})
        self.assertEqual(caught.exception.param, "response_format")

    def test_tools(self):
        tools = [{"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "required": ["city"], "additionalProperties": False,
            "properties": {"city": {"type": "string", "maxLength": 12}}}}} for name in ("weather", "time")]
        question = [{"role": "user", "content": "What time is it in Paris?"}]
        named = {"type": "function", "function": {"name": "time"}}
        for choice, parallel in ((named, True), ("required", False)):
            answer = self.client.chat.completions.create(
                model=self.server.name, messages=question, tools=tools, tool_choice=choice, parallel_tool_calls=parallel,
                temperature=0, max_completion_tokens=200)
            self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
            calls = answer.choices[0].message.tool_calls
            self.assertEqual(len(calls), 1)
            self.assertIn(calls[0].function.name, ("time",) if choice == named else ("weather", "time"))
            self.assertEqual(set(json.loads(calls[0].function.arguments)), {"city"})
            name, arguments, reasons = "", "", []
            for chunk in self.client.chat.completions.create(
                    model=self.server.name, messages=question, tools=tools, tool_choice=choice, temperature=0,
                    parallel_tool_calls=parallel, max_completion_tokens=200, stream=True):
                self.assertFalse(chunk.choices[0].delta.content)
                reasons.append(chunk.choices[0].finish_reason)
                for call in chunk.choices[0].delta.tool_calls or []:
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
            self.assertEqual((name, json.loads(arguments)), (calls[0].function.name, json.loads(calls[0].function.arguments)))
            self.assertEqual(reasons[-1], "tool_calls")
        # The answer of a tool goes back through the template.
        history = question + [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{\"city\": \"Paris\"}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "12:30"}]
        answer = self.client.chat.completions.create(
            model=self.server.name, messages=history, tools=tools, tool_choice="none", max_completion_tokens=8)
        self.assertTrue(answer.choices[0].message.content)

    def test_scores_need_a_reward_head(self):
        status, answer = self.server.post("/v1/score", {"input": "a"})
        self.assertEqual((status, answer["error"]["param"]), (400, "model"))

    def test_errors_have_openais_shape(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(model=self.server.name, messages=FRANCE, temperature=9)
        self.assertEqual(caught.exception.param, "temperature")
        self.assertEqual(caught.exception.type, "invalid_request_error")
        with self.assertRaises(openai.NotFoundError) as missing:
            self.client.chat.completions.create(model="another", messages=FRANCE)
        self.assertEqual(missing.exception.code, "model_not_found")


class RewardModel(unittest.TestCase):
    """A model with a score head, behind the API."""

    def test_scores_are_those_of_transformers(self):
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "reward"
            shutil.copytree(REWARD, model)
            # The fixture has no tokenizer; its prompts are token ids.
            vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {chr(97 + place): 3 + place for place in range(26)}
            (model / "tokenizer.json").write_text(json.dumps({
                "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None,
                "decoder": None,
                "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "fuse_unk": False}}))
            expected = safetensors(REWARD / "expected.safetensors")
            tokens, scores = expected["tokens"], expected["scores"]
            with Server("--precision", "float32", "--cache-type", "f32", model=model) as server:
                status, answer = server.post("/v1/score", {"input": tokens})
                self.assertEqual(status, 200, answer)
                self.assertEqual([row["index"] for row in answer["data"]], list(range(len(tokens))))
                for row, (score,) in zip(answer["data"], scores):
                    self.assertAlmostEqual(row["score"], score, delta=1e-5 * max(1, abs(score)))
                self.assertEqual(answer["usage"]["prompt_tokens"], sum(map(len, tokens)))
                self.assertEqual(server.post("/v1/score", {"input": "abc"})[0], 200)
                status, answer = server.post("/v1/completions", {"prompt": "a"})
                self.assertEqual((status, answer["error"]["param"]), (400, "model"))


class DraftModel(unittest.TestCase):
    def test_a_draft_model_changes_no_greedy_text(self):
        request = {"prompt": "One two three four", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
        texts = []
        for arguments in ((), ("--draft-model", MODEL)):
            with Server("--precision", "float32", "--cache-type", "f32", "--batch-invariant", *arguments) as server:
                status, answer = server.post("/v1/completions", request)
                self.assertEqual(status, 200, answer)
                texts.append(answer["choices"][0]["text"])
                if arguments:
                    drafted = server.metric("apus:spec_decode_num_draft_tokens_total")
                    self.assertGreater(drafted, 0)
                    self.assertEqual(server.metric("apus:spec_decode_num_accepted_tokens_total"), drafted)
        self.assertEqual(texts[0], texts[1])


class HarnessContract(WithServer):
    """What lm-eval's `local-completions` relies on: echo, log-probabilities, lists of token ids, choices by index."""

    def score(self, sequences):
        status, answer = self.server.post("/v1/completions", {
            "model": self.server.name, "prompt": sequences, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True,
            "temperature": 0})
        self.assertEqual(status, 200, answer)
        return sorted(answer["choices"], key=lambda choice: choice["index"])

    def test_loglikelihood(self):
        texts = ["The capital of France is Paris", "The capital of France is banana", "Short"]
        sequences = [self.server.post("/tokenize", {"prompt": text})[1]["tokens"] for text in texts]
        choices = self.score(sequences)
        self.assertEqual(len(choices), 3)
        sums = []
        for choice, tokens in zip(choices, sequences):
            logprobs = choice["logprobs"]
            self.assertEqual(len(logprobs["token_logprobs"]), len(tokens) + 1)
            self.assertIsNone(logprobs["token_logprobs"][0])
            self.assertIsNone(logprobs["top_logprobs"][0])
            for value, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:]):
                self.assertIn(value, top.values())
            sums.append(sum(logprobs["token_logprobs"][1:-1]))
        # The two texts differ in their last word only.
        self.assertGreater(sums[0], sums[1] + 3)

    def test_prompt_logprobs_are_those_of_generation(self):
        status, answer = self.server.post("/v1/completions", {
            "prompt": "One two three", "max_tokens": 5, "temperature": 0, "logprobs": 2})
        self.assertEqual(status, 200)
        generated = answer["choices"][0]["logprobs"]
        prompt = self.server.post("/tokenize", {"prompt": "One two three"})[1]["tokens"]
        text = "One two three" + answer["choices"][0]["text"]
        again = self.server.post("/tokenize", {"prompt": text})[1]["tokens"]
        self.assertEqual(again[:len(prompt)], prompt)
        scored = self.score([again])[0]["logprobs"]
        self.assertEqual(scored["tokens"][len(prompt):-1], generated["tokens"])
        for a, b in zip(scored["token_logprobs"][len(prompt):-1], generated["token_logprobs"]):
            self.assertAlmostEqual(a, b, places=3)

    def test_nothing_generated(self):
        status, answer = self.server.post("/v1/completions", {
            "prompt": [1, 2, 3], "max_tokens": 0, "logprobs": 0, "echo": True})
        self.assertEqual(status, 200, answer)
        self.assertEqual(len(answer["choices"][0]["logprobs"]["tokens"]), 3)
        self.assertEqual(answer["usage"]["completion_tokens"], 0)


class BadInput(WithServer):
    arguments = ("--context", "512", "--max-body-bytes", "1000000")

    def refused(self, path, body, field, status=400, **options):
        found, answer = self.server.post(path, body, **options)
        self.assertEqual(found, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        self.assertEqual(answer["error"]["param"], field, answer)
        return answer["error"]

    def test_fields(self):
        prompt = {"prompt": "a"}
        cases = [
            ({}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [[]]}, "prompt"),
            ({"prompt": ["a", 3]}, "prompt[1]"), ({"prompt": [1, "a"]}, "prompt[1]"), ({"prompt": [-1]}, "prompt[0]"),
            ({"prompt": [1 << 40]}, "prompt[0]"), ({"prompt": [2000000]}, "prompt"),
            ({**prompt, "max_tokens": -1}, "max_tokens"), ({**prompt, "max_tokens": "5"}, "max_tokens"),
            ({**prompt, "max_tokens": 0}, "max_tokens"), ({**prompt, "n": 0}, "n"), ({**prompt, "n": 1000}, "n"),
            ({**prompt, "temperature": -0.5}, "temperature"), ({**prompt, "temperature": "hot"}, "temperature"),
            ({**prompt, "top_p": 0}, "top_p"), ({**prompt, "stop": [""]}, "stop"), ({**prompt, "stop": [1]}, "stop[0]"),
            ({**prompt, "stop": ["a"] * 17}, "stop"), ({**prompt, "logprobs": 21}, "logprobs"),
            ({**prompt, "stream": "yes"}, "stream"), ({**prompt, "stream_options": {}}, "stream_options"),
            ({**prompt, "logit_bias": {"5": 1}}, "logit_bias"), ({**prompt, "best_of": 4}, "best_of"),
            ({**prompt, "suffix": "b"}, "suffix"), ({**prompt, "echo": 1}, "echo"),
            ({**prompt, "response_format": {"type": "xml"}}, "response_format.type"),
        ]
        for body, field in cases:
            with self.subTest(body=body):
                self.refused("/v1/completions", body, field)

    def test_chat_fields(self):
        user = {"messages": FRANCE}
        cases = [
            ({}, "messages"), ({"messages": []}, "messages"), ({"messages": "hello"}, "messages"),
            ({"messages": [{}]}, "messages[0].role"), ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
            ({**user, "max_completion_tokens": 0}, "max_completion_tokens"), ({**user, "top_logprobs": 3}, "top_logprobs"),
            ({**user, "tools": [{"type": "function"}]}, "tools[0].function"), ({**user, "tool_choice": "required"}, "tool_choice"),
            ({**user, "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ]
        for body, field in cases:
            with self.subTest(body=body):
                self.refused("/v1/chat/completions", body, field)

    def test_prompts_beyond_the_context(self):
        error = self.refused("/v1/completions", {"prompt": [5] * 600}, "prompt")
        self.assertEqual(error["code"], "context_length_exceeded")
        self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 900}]}, "messages")

    def test_bodies(self):
        for body in (b"", b"{", b"[1]", b"nonsense", b'{"prompt": "a\xff"}', b'{"prompt": "\\ud800"}', b"[" * 5000,
                     b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": 1e999}'):
            with self.subTest(body=body[:40]):
                self.refused("/v1/completions", body, None)
        self.refused("/v1/completions", b'{"prompt": "' + b"a" * 10_000_000 + b'"}', None, status=413)
        self.refused("/detokenize", {"tokens": [999999]}, "tokens")

    def test_paths_and_methods(self):
        self.assertEqual(self.server.request("GET", "/v1/nothing")[0], 404)
        status, headers, body = self.server.request("GET", "/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        self.assertIn("POST", json.loads(body)["error"]["message"])

    def test_chunked_body_beyond_the_limit(self):
        def parts():
            for _ in range(200):
                yield b"a" * 100_000

        status, _, _ = self.server.request("POST", "/v1/completions", parts())
        self.assertEqual(status, 413)

    def test_headers_beyond_the_limit(self):
        status, _, _ = self.server.request("GET", "/health", headers={"x-large": "a" * 40_000})
        self.assertIn(status, (400, 431))


class Around(unittest.TestCase):
    """Keys, origins, TLS, names, logs, status."""

    def test_keys(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as keys:
            keys.write("from-file\n\n")
            keys.flush()
            with Server("--api-key-file", keys.name, "--api-key", "given", environment={"APUS_API_KEYS": "one, two"}) as server:
                for key in ("from-file", "given", "one", "two"):
                    status, _, _ = server.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
                    self.assertEqual(status, 200, key)
                for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic given"}):
                    status, found, body = server.request("GET", "/v1/models", headers=headers)
                    self.assertEqual(status, 401)
                    self.assertEqual(json.loads(body)["error"]["code"], "invalid_api_key")
                    self.assertEqual(found["WWW-Authenticate"], "Bearer")
                for path in ("/health", "/ready", "/version", "/metrics", "/openapi.json", "/"):
                    self.assertEqual(server.request("GET", path)[0], 200, path)

    def test_origins(self):
        with Server("--cors-origin", "https://chat.example") as server:
            ask = {"origin": "https://chat.example", "access-control-request-method": "POST"}
            status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers=ask)
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, "https://chat.example"))
            status, headers, _ = server.request("GET", "/health", headers={"origin": "https://chat.example"})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, "https://chat.example"))
            status, headers, _ = server.request("GET", "/health", headers={"origin": "https://other.example"})
            self.assertNotIn("Access-Control-Allow-Origin", headers)

    def test_tls(self):
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "c.pem"), Path(folder, "k.pem")
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                 "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
                check=True, capture_output=True)
            with Server("--tls-certificate", certificate, "--tls-key", key) as server:
                self.assertTrue(server.address.startswith("https://"))
                import ssl
                client = openai.OpenAI(
                    base_url=server.address + "/v1", api_key="none", max_retries=0,
                    http_client=openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(certificate))))
                chunks = client.completions.create(model=server.name, prompt="a", max_tokens=4, stream=True)
                self.assertTrue(list(chunks))
                client.close()

    def test_names_ids_traces_and_logs(self):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with Server("--name", "org/model", "--name", "alias", "--log-format", "json") as server:
            self.assertEqual(server.request("GET", "/v1/models/org/model")[0], 200)
            status, headers, body = server.request(
                "POST", "/v1/completions", {"model": "alias", "prompt": "a", "max_tokens": 2},
                headers={"x-request-id": "my-id.1", "traceparent": trace, "tracestate": "a=b"})
            self.assertEqual(status, 200)
            answer = json.loads(body)
            self.assertEqual((answer["id"], answer["model"]), ("cmpl-my-id.1", "org/model"))
            self.assertEqual(
                (headers["x-request-id"], headers["traceparent"], headers["tracestate"]), ("my-id.1", trace, "a=b"))
            _, headers, _ = server.request("GET", "/health", headers={"x-request-id": "bad id\t", "traceparent": "00-x"})
            self.assertRegex(headers["x-request-id"], "^[0-9a-f]{32}$")
            self.assertNotIn("traceparent", headers)
            lines = [json.loads(line) for line in server.log_text().splitlines()]
            entry = next(line for line in lines if line.get("request_id") == "my-id.1")
            self.assertEqual(entry["trace_id"], "0af7651916cd43dd8448eb211c80319c")
            self.assertEqual((entry["status"], entry["path"]), (200, "/v1/completions"))
            self.assertEqual(entry["completion_tokens"], 2)

    def test_metrics_have_vllms_names(self):
        with Server() as server:
            server.post("/v1/completions", {"prompt": "a b c", "max_tokens": 5, "ignore_eos": True})
            text = server.request("GET", "/metrics")[2].decode()
            labels = f'{{engine="0",model_name="{server.name}"}}'
            for line in (
                f"apus:generation_tokens_total{labels} 5.0", f"apus:prompt_tokens_total{labels} 3.0",
                f"apus:num_requests_running{labels} 0.0", f"apus:time_to_first_token_seconds_count{labels} 1.0",
                f"apus:e2e_request_latency_seconds_count{labels} 1.0",
                f'apus:request_success_total{{finished_reason="length",engine="0",model_name="{server.name}"}} 1.0',
            ):
                self.assertIn(line + "\n", text)
            self.assertIn('apus:time_to_first_token_seconds_bucket{le="0.001",', text)
            self.assertIn('apus:request_generation_tokens_bucket{le="+Inf",', text)

    def test_description_is_true(self):
        with Server() as server:
            description = json.loads(server.request("GET", "/openapi.json")[2])
            for path, methods in description["paths"].items():
                for method in methods:
                    status, _, _ = server.request(method.upper(), path.replace("{model}", server.name), {} if method == "post" else None)
                    self.assertIn(status, (200, 400), f"{method} {path}")

    def test_wrong_options(self):
        for arguments in (["--port", "70000"], ["--tls-key", "k.pem"], ["--idle-timeout", "0"], ["--max-sequences", "0"]):
            with self.assertRaises(AssertionError), Server(*arguments):
                pass


class Many(WithServer):
    def test_answers_do_not_mix(self):
        words = ["red", "green", "blue", "seven", "Paris", "cat", "moon", "salt"]
        alone = [self.server.post("/v1/completions", {"prompt": f"{word} " * 8, "max_tokens": 16, "temperature": 0})[1]
                 ["choices"][0]["text"] for word in words]
        together = in_parallel(24, lambda index: self.server.post("/v1/completions", {
            "prompt": f"{words[index % 8]} " * 8, "max_tokens": 16, "temperature": 0})[1]["choices"][0]["text"])
        self.assertEqual(together, [alone[index % 8] for index in range(24)])

    def test_time_to_first_token_is_not_the_whole_time(self):
        start = time.monotonic()
        chunks = self.client.completions.create(
            model=self.server.name, prompt="a", max_tokens=200, temperature=0, stream=True, extra_body={"ignore_eos": True})
        next(iter(chunks))
        first = time.monotonic() - start
        for _ in chunks:
            pass
        self.assertLess(first, (time.monotonic() - start) / 2)


if __name__ == "__main__":
    unittest.main()
