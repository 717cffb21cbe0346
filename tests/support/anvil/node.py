"""An anvil of our own: a real EVM node, started and stopped, with what we need of its JSON-RPC.

With `--slots-in-an-epoch 4` it answers safe = head - 4 and finalized = head - 8, so a reorg of up to seven blocks stays
above finalized.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE, ended

ROOT = Path(__file__).parents[3]
FINALIZED_BEHIND = 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class AnvilNode:
    """Mines only when told to (`mine`). Use as a context manager."""

    def __init__(self, chain_id: int = 1729, slots: int = 4, port: int | None = None) -> None:
        self.chain_id, self.slots = chain_id, slots
        self.port = port or free_port()
        self.url, self.ws_url = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.sender = ""

    def __enter__(self) -> AnvilNode:
        program = ROOT / "node_modules/.bin/anvil"
        if not program.exists():
            raise RuntimeError("anvil is not installed: run `make install`")
        node = shutil.which("node")
        self._process = subprocess.Popen(
            [
                program, "--host", "127.0.0.1", "--port", str(self.port), "--chain-id", str(self.chain_id),
                "--slots-in-an-epoch", str(self.slots), "--no-mining", "--gas-limit", "1000000000000",
                "--disable-code-size-limit", "--silent",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | ({"PATH": f"{Path(node).parent}:{os.environ['PATH']}"} if node else {}),
        )  # fmt: skip
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.sender = self.rpc("eth_accounts")[0]
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.__exit__()
                    raise RuntimeError("anvil does not start") from None
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        if self._process:
            os.killpg(self._process.pid, 9)
            ended(self._process, "the end of anvil after SIGKILL")
            self._process = None

    def rpc(self, method: str, *params: Any) -> Any:
        return self.batch([(method, params)])[0]

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Results in order; an error in any is raised."""
        body = [{"jsonrpc": "2.0", "id": i, "method": m, "params": list(p)} for i, (m, p) in enumerate(calls)]
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), {"Content-Type": "application/json", "Connection": "close"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            parsed = json.loads(answer.read())
        for entry in parsed:
            if "error" in entry:
                raise RuntimeError(f"{calls[entry['id']][0]}: {entry['error']}")
        return [entry["result"] for entry in sorted(parsed, key=lambda e: int(e["id"]))]

    def mine(self, blocks: int = 1) -> None:
        """New blocks: the first takes the pending transactions."""
        for _ in range(blocks):
            self.rpc("evm_mine")

    def block(self, number: int | str = "latest") -> dict[str, Any]:
        found: dict[str, Any] = self.rpc(
            "eth_getBlockByNumber", number if isinstance(number, str) else hex(number), False
        )
        return found

    def finalize(self) -> int:
        """Mines until all there is now is final; the finalized block's number, which is that head's."""
        self.mine(2 * self.slots)
        return int(self.block("finalized")["number"], 16)

    def head(self) -> tuple[int, str]:
        """Number and hash."""
        block = self.block()
        return int(block["number"], 16), block["hash"]
