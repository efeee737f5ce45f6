#!/usr/bin/env python3
"""Sends what openapi.json allows, and what it does not, to a running `apus serve`; no input may give a 5xx.

    pip install schemathesis
    APUS_TEST_MODEL=model.gguf Tests/fuzz_api.py [EXAMPLES]

EXAMPLES requests are made of each operation (100 by default). Exit code 0 where the server never failed.
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "Commands"))

from serving import Server


def main():
    examples = sys.argv[1] if len(sys.argv) > 1 else "100"
    # Short contexts bound what one generated request can cost.
    with Server("--context", "128", "--request-timeout", "30", "--log-level", "error") as server:
        done = subprocess.run(
            ["schemathesis", "run", f"{server.address}/openapi.json", "--checks",
             "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
             "--max-examples", examples, "--mode", "all", "--request-timeout", "60", "--generation-deterministic"],
            check=False)
        status = server.request("GET", "/health")[0]
        print(server.log_text())
    return done.returncode if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
