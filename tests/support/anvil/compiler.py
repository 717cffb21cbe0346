"""Emitters.sol to bytecode, by solc from npm."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


@functools.cache
def contracts() -> dict[str, tuple[str, str]]:
    """(creation code, runtime code) by contract name, 0x hex."""
    source = {
        "language": "Solidity",
        "sources": {"Emitters.sol": {"content": (HERE / "Emitters.sol").read_text()}},
        "settings": {
            "optimizer": {"enabled": True},
            "evmVersion": "paris",
            "outputSelection": {"*": {"*": ["evm.bytecode.object", "evm.deployedBytecode.object"]}},
        },
    }
    program = "process.stdout.write(require('solc').compile(require('fs').readFileSync(0, 'utf8')))"
    done = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(source),
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parents[2],
    )
    answer = json.loads(done.stdout)
    problems = [e["formattedMessage"] for e in answer.get("errors", []) if e["severity"] == "error"]
    if problems:
        raise RuntimeError("\n".join(problems))
    return {
        name: ("0x" + entry["evm"]["bytecode"]["object"], "0x" + entry["evm"]["deployedBytecode"]["object"])
        for name, entry in answer["contracts"]["Emitters.sol"].items()
    }
