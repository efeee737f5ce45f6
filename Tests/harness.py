"""lm-eval's own client against a running `apus serve`: log-likelihoods, rolling ones, and generation.

    pip install 'lm-eval[api]' transformers
    apus serve SmolLM2.gguf --port 8000 &
    python3 Tests/harness.py http://127.0.0.1:8000 FOLDER_OF_TOKENIZER_JSON
"""

import json
import os
import sys
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

CHOICES = [
    ("The capital of France is", " Paris", " banana"),
    ("Water is made of hydrogen and", " oxygen", " bicycles"),
    ("One, two, three, four,", " five", " green"),
]
TEXT = "It was a bright cold day in April, and the clocks were striking thirteen."


def instances(kind, arguments):
    return [Instance(kind, {}, value, index) for index, value in enumerate(arguments)]


def main(address, tokenizer):
    models = json.load(urllib.request.urlopen(address + "/v1/models"))
    client = LocalCompletionsAPI(
        base_url=address + "/v1/completions", model=models["data"][0]["id"], tokenizer_backend="huggingface",
        tokenizer=tokenizer, batch_size=4, max_length=1024)
    pairs = [(context, ending) for context, *endings in CHOICES for ending in endings]
    scores = client.loglikelihood(instances("loglikelihood", pairs))
    for (context, right, wrong), good, bad in zip(CHOICES, scores[::2], scores[1::2]):
        assert good[0] > bad[0] + 2, (context, right, good, wrong, bad)
        print(f"{context} |{right} {good[0]:.3f} |{wrong} {bad[0]:.3f}")
    # Whatever greedy decoding writes, the log-likelihood calls greedy.
    context = CHOICES[0][0]
    greedy = client.generate_until(
        instances("generate_until", [(context, {"until": ["\n"], "max_gen_toks": 8, "temperature": 0})]))[0]
    # Its tokens may be cut differently as a text; the first word is one token in either.
    first = " " + greedy.split()[0].rstrip(".,")
    assert client.loglikelihood(instances("loglikelihood", [(context, first)]))[0][1], greedy
    whole = client.loglikelihood_rolling(instances("loglikelihood_rolling", [(TEXT,)]))[0]
    assert -200 < whole < -20, whole
    print(f"greedy |{greedy} |rolling {whole:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
