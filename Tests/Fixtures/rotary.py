"""Writes Tests/Fixtures/formats/rotary.json: configurations with the rotary frequencies transformers derives from them.

    pip install torch transformers
    Tests/Fixtures/rotary.py

Each entry has `config` (what config.json would hold), `frequencies` (radians per position of each pair) and
`magnitude` (the factor on cosine and sine).
"""

import json
import pathlib

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

PATH = pathlib.Path(__file__).parent / "formats" / "rotary.json"
SIZES = {
    "vocab_size": 8, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8,
    "max_position_embeddings": 1024,
}  # fmt: skip
CASES = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
    {"rope_type": "yarn", "factor": 16.0, "rope_theta": 1e6, "beta_fast": 16.0, "beta_slow": 2.0,
     "original_max_position_embeddings": 128},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707,
     "original_max_position_embeddings": 512},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25, "original_max_position_embeddings": 256},
    {"rope_type": "yarn", "factor": 2.0},
]  # fmt: skip


def main():
    entries = []
    for case in CASES:
        parameters = {"rope_theta": 10000.0} | case
        config = LlamaConfig(**SIZES, rope_parameters=dict(parameters))
        frequencies, magnitude = ROPE_INIT_FUNCTIONS[case["rope_type"]](config, "cpu")
        entries.append(
            {
                "config": {"model_type": "llama"} | SIZES | {"rope_parameters": parameters},
                "frequencies": frequencies.tolist(),
                "magnitude": magnitude,
            }
        )
    PATH.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
