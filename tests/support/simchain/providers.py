"""Real providers and node programs, as users and maintainers reported them: `docs/contributing/add-a-provider.md` says
how to add one.

Codes, words and statuses are those of the source. Numbers are smaller than the real ones, so that a chain of a few
hundred blocks meets them, unless the real one is small enough; a rate is per WINDOW_S instead of per second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.support.simchain.habits import (
    ABSENT,
    ClosesConnections,
    Duplicates,
    Field,
    Habit,
    LargeBodies,
    LateLogs,
    MostBlocks,
    MostBytes,
    MostCalls,
    MostLogs,
    NoMethod,
    NoReceipts,
    NoTag,
    OddTag,
    Omits,
    OneIn,
    Pages,
    PrunedReceipts,
    Rate,
    TextIds,
    TwoNodes,
    Unordered,
)
from tests.support.simchain.view import Depth, Json

_HUB = "https://github.com/"
PONDER = _HUB + "ponder-sh/ponder/blob/main/packages/utils/src/getLogsRetryHelper.ts"
# Answers of 30 public endpoints to a range over their limits, 2026-09-08.
CAPTURE = (
    _HUB + "wighawag/etherfold/blob/d92021cde0ceea08e79de5f8483259793789d302/docs/spikes/"
    "a-provider-refusal-is-read-from-its-data-before-its-prose/refusal-shapes.md"
)
CHAINLINK = _HUB + "smartcontractkit/chainlink/blob/9b76093525cb/core/chains/evm/client/errors_test.go"
PROXYD = _HUB + "ethereum-optimism/optimism/blob/8d5ebf21d77e/go/proxyd/backend.go"
ERPC = _HUB + "erpc/erpc/blob/01597705a74b/thirdparty/"  # codespell:ignore thirdparty
AMBIRE = _HUB + "AmbireTech/ambire-common/blob/7a99f466a1b8/src/services/provider/getRpcProvider.ts"
MUD = _HUB + "latticexyz/mud/issues/1522"
SPECIFICATION = "https://www.jsonrpc.org/specification#batch"

_WINDOW = "Based on your parameters, this block range should work: [{first:#x}, {fits:#x}]"
RECEIPTS = "eth_getBlockReceipts"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A provider, a node program or a proxy, and what it is known to do.

    `proves`: what its answers allow to prove at least: "all" blocks; all "but some"; those that are "silent", by their
    blooms alone; "nothing". `tags`: whether something becomes final behind it. `requests`: the most HTTP requests of a
    play, about twice what one takes; a question that is asked for ever needs more.
    """

    name: str
    habits: tuple[Habit, ...]
    proves: Literal["all", "but some", "silent", "nothing"] = "all"
    tags: bool = True
    requests: int = 400


def _number(log: Json) -> int:
    return int(log["blockTimestamp"], 16)


HOSTED = (
    Provider(
        name="Alchemy, free tier",
        habits=(
            MostBlocks(
                cap=10, code=-32600, status=400, source=PONDER,
                words="Under the Free tier plan, you can make eth_getLogs requests with up to a {cap} block range. "
                + _WINDOW + ". Upgrade to PAYG for expanded block range.",
            ),
            Rate(
                cap=25, answer="rest", code=429, source=_HUB + "gitcoinco/grants-stack-indexer/issues/156",
                words="Your app has exceeded its compute units per second capacity. If you have retries enabled, you "
                "can safely ignore this message. If not, check out https://docs.alchemy.com/reference/throughput",
            ),
        ),
    ),
    Provider(
        name="Alchemy, pay as you go",
        habits=(
            MostLogs(
                cap=60, code=-32602, source=_HUB + "ethers-io/ethers.js/issues/4703",
                words="Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no"
                " limit on the response size, or you can request any block range with a cap of {cap} logs in the "
                "response. Based on your parameters and the response size limit, this block range should work: "
                "[{first:#x}, {fits:#x}]",
            ),
            Rate(
                cap=25, code=429, status=429, source=MUD,
                words="Your app has exceeded its compute units per second capacity. If you have retries enabled, you "
                "can safely ignore this message.",
            ),
        ),
    ),
    Provider(
        name="Infura",
        habits=(
            MostLogs(
                cap=60, code=-32005, source=_HUB + "ethers-io/ethers.js/issues/4703",
                words="query returned more than {cap} results. Try with this block range [0x{first:X}, 0x{fits:X}].",
                data={"from": "0x{first:X}", "limit": 60, "to": "0x{fits:X}"},
            ),
            MostBlocks(
                cap=80, code=-32602, words="range {span} exceeds limit of {cap}",
                source=_HUB + "INFURA/infura/issues/237",
            ),
            Rate(
                cap=8, counts="requests", code=-32005, status=429, source=_HUB + "gochain/web3/issues/180",
                words="daily request count exceeded, request rate limited",
                data={"rate": {"allowed_rps": 1, "backoff_seconds": 0, "current_rps": 2.2},
                      "see": "https://infura.io/dashboard"},
            ),
        ),
    ),
    Provider(
        name="QuickNode, discover plan",
        habits=(
            MostBlocks(
                cap=5, code=-32602, status=413, source=PONDER,
                words="eth_getLogs is limited to a {cap} range, upgrade from discover plan at "
                "https://www.quicknode.com/ to increase the limit to 10,000",
            ),
            Rate(
                cap=25, answer="rest", code=-32007,
                source="https://www.quicknode.com/docs/ethereum/error-references",
                words="{cap}/second request limit reached - reduce calls per second or upgrade your account at "
                "quicknode.com",
            ),
        ),
    ),
    Provider(
        name="QuickNode, paid plan",
        habits=(
            MostBlocks(
                cap=70, code=-32614, status=413, words="eth_getLogs is limited to a {cap:,} range",
                source=_HUB + "OffchainLabs/arbitrum-sdk/issues/609",
            ),
            Rate(cap=25, answer="each", code=-32012, words="credits limited to {cap}/sec", source=MUD),
            Field(of="log", name="transactionLogIndex", value="0x0", source=_HUB + "across-protocol/relayer/pull/916"),
        ),
    ),
    Provider(
        name="Ankr",
        habits=(
            MostBlocks(cap=30, code=-32062, words="Block range is too large", source=PONDER),
            Rate(
                cap=25, code=-32090, status=429,
                words="Too many requests, reason: call rate limit exhausted, retry in 0.2s",
                source=_HUB + "tradingstrategy-ai/web3-ethereum-defi/blob/master/eth_defi/provider/fallback.py",
            ),
        ),
    ),
    Provider(
        name="Ankr, a chain of the Cosmos kind",
        habits=(
            MostBlocks(
                cap=50, code=-32000, words="maximum [from, to] blocks distance: {cap}",
                source=_HUB + "ponder-sh/ponder/issues/1940",
            ),
        ),
    ),
    Provider(
        name="Chainstack",
        habits=(
            MostBlocks(
                cap=40, code=-32002, source=PONDER,
                words="Block range limit exceeded. See more details at "
                "https://docs.chainstack.com/docs/limits#evm-range-limits",
            ),
            ClosesConnections(
                n=10,
                source="https://support.chainstack.com/hc/en-us/articles/6955614349209-Node-and-connection-limitations",
            ),
        ),
    ),
    Provider(
        name="dRPC, free tier",
        habits=(
            MostCalls(
                cap=3, code=31, status=500, source=AMBIRE,
                words="Batch of more than {cap} requests are not allowed on free tier, to use this feature register "
                "paid account at drpc.org",
            ),
            MostBlocks(
                cap=50, code=35, words="ranges over {cap} blocks are not supported on freetier", source=CAPTURE
            ),
            OneIn(
                method="eth_getLogs", n=9, code=30, status=408,
                words="Request timeout on the free tier, please upgrade your tier to the paid one",
                source="https://drpc.org/docs/howitworks/ratelimiting",
            ),
        ),
        requests=700,
    ),
    Provider(
        name="dRPC, paid tier",
        habits=(
            # A block that one of its nodes does not have yet; the same question is answered a moment later.
            OneIn(
                method="eth_getLogs", n=6, code=-32602, words="invalid block range params",
                source=ERPC + "drpc.go",
            ),
            # Some of its nodes lack the method.
            OneIn(
                method=RECEIPTS, n=7, code=-32601, source=ERPC + "drpc.go",
                words="the method eth_getBlockReceipts does not exist/is not available",
            ),
            LateLogs(source=_HUB + "enviodev/hyperindex/issues/1498"),
        ),
        proves="but some",
        requests=800,
    ),
    Provider(
        name="BlastAPI",
        habits=(
            MostBlocks(
                cap=10, code=-32600, source=CAPTURE,
                words="You can make eth_getLogs requests with up to a {cap} block range. " + _WINDOW,
            ),
        ),
    ),
    Provider(
        name="Blast, a plan of its own",
        habits=(
            MostBlocks(
                cap=30, code=-32600, source=PONDER,
                words="exceeds the range allowed for your plan ({span} > {cap}).",
            ),
        ),
    ),
    Provider(
        name="PublicNode",
        habits=(
            MostBlocks(cap=50, code=-32701, words="exceed maximum block range: {cap}", source=PONDER),
        ),
    ),
    Provider(
        name="Godwoken",
        habits=(
            Rate(
                cap=25, code=-32005, source=_HUB + "godwokenrises/godwoken-web3/issues/452",
                words="Too Many Requests, IP: ::ffff:127.0.0.1, please wait 0.2s and retry. RPC method: eth_getLogs.",
            ),
        ),
    ),
    Provider(
        name="LlamaNodes",
        habits=(
            MostLogs(cap=60, code=-32000, words="query exceeds max results {cap}", source=PONDER),
            Pages(n=13, status=525, body="error code: 525", source=CAPTURE),
        ),
    ),
    Provider(
        name="1RPC",
        habits=(
            MostBlocks(cap=50, code=-32602, words="eth_getLogs is limited to 0 - {cap} blocks range", source=CAPTURE),
            MostLogs(
                size=60_000, code=-32000, words="response size should not greater than {size} bytes", source=PONDER
            ),
            MostCalls(
                cap=3, code=31, status=500, shape="list", source=AMBIRE,
                words="Batch of more than {cap} requests are not allowed on free tier",
            ),
        ),
        requests=900,
    ),
    Provider(
        name="BlockPI",
        habits=(
            MostBlocks(
                cap=60, code=-32602, source=PONDER,
                words="eth_getLogs is limited to {cap} block range. Please check the parameter requirements at  "
                "https://docs.blockpi.io/documentations/api-reference",
            ),
        ),
    ),
    Provider(
        name="NodeReal and the BNB data seeds",
        habits=(MostBlocks(cap=20, code=-32005, words="limit exceeded",
                           source=_HUB + "DefiLlama/dimension-adapters/pull/280"),),
    ),
    Provider(
        name="Tenderly gateway",
        habits=(
            MostBlocks(
                cap=50, code=-32602, words="invalid params", source=_HUB + "bobanetwork/boba_legacy/issues/827",
                data={"error_id": "4ed94073-0317-4648-a167-107fba5f44b3",
                      "payload": "range {span} is bigger than range limit {cap}"},
            ),
            Rate(cap=25, code=-32005, words="rate limit exceeded", source=_HUB + "fluencelabs/dev-rewards/issues/20"),
        ),
    ),
    Provider(
        name="Xplorer",
        habits=(
            MostBlocks(
                cap=50, code=-32005, source="https://docs.xplorer.tech/v1.0-Kor/reference/rpc-methods-restrict",
                words="In eth_getLogs, eth_newFilter, klay_getLogs, and klay_newFilter, the block range is limited to "
                "{cap}.",
            ),
        ),
    ),
    Provider(
        name="Moralis",
        habits=(
            # Who is over the rate is banned for a moment, by a page of Cloudflare.
            Pages(n=11, status=403, body="error code: 1020", source="https://v1docs.moralis.io/misc/rate-limit"),
        ),
    ),
    Provider(
        name="Pocket gateway",
        habits=(
            Omits(n=9, source=_HUB + "hoprnet/hoprnet/issues/7437"),
            TwoNodes(source=_HUB + "ethereum/go-ethereum/issues/24078"),
        ),
    ),
    Provider(
        name="Lava and SubQuery public endpoints",
        habits=(Omits(n=5, source=_HUB + "base/node/issues/487"),),
    ),
    Provider(
        name="Cloudflare gateway",
        habits=(
            MostBlocks(
                cap=50, code=-32047, source=CAPTURE,
                words="Invalid eth_getLogs request. 'fromBlock'-'toBlock' range too large. Max range: {cap}",
            ),
            Pages(n=8, status=502, source="https://developers.cloudflare.com/support/troubleshooting/http-status-codes/",
                  body="<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head>"),
            Pages(n=17, status=429, body="error code: 1015",
                  source="https://developers.cloudflare.com/support/troubleshooting/http-status-codes/"),
        ),
    ),
    Provider(
        name="Blockdaemon and LinkPool",
        habits=(MostBlocks(cap=25, code=-32002, words="request timed out", source=CHAINLINK),),
    ),
    Provider(
        name="thirdweb",
        habits=(
            MostBlocks(
                cap=40, code=-32005, words="Maximum allowed number of requested blocks is {cap}",
                source=_HUB + "ponder-sh/ponder/blob/main/packages/utils/src/_test/thirdweb.test.ts",
            ),
            Duplicates(n=6, source=_HUB + "ponder-sh/ponder/issues/2182"),
        ),
    ),
    Provider(
        name="Conduit",
        habits=(
            Rate(cap=25, answer="rest", code=-32005, words="limit exceeded", source=ERPC + "conduit.go"),
        ),
    ),
    Provider(
        name="Flashbots",
        habits=(
            MostCalls(  # the page has no words
                cap=0, code=-32600, status=400, words="batch requests are not supported",
                source="https://docs.flashbots.net/flashbots-protect/rpc/ratelimiting",
            ),
            NoMethod(method=RECEIPTS, code=-32601, status=403, words="rpc method is not whitelisted", source=PROXYD),
        ),
        proves="silent",
        requests=2_000,
    ),
    Provider(
        name="Nirvana Labs, behind Varnish",
        habits=(
            Pages(
                n=6, status=503, source=CHAINLINK,
                body="<!DOCTYPE html><html><head><title>503 Backend fetch failed</title></head><body><h1>Error 503 "
                "Backend fetch failed</h1><p>Varnish cache server</p></body></html>",
            ),
        ),
    ),
)  # fmt: skip

CHAINS = (
    Provider(
        name="Reya, the public endpoint",
        habits=(
            MostBlocks(
                cap=60, code=-32602, words="block range too large, maximum {cap}",
                source="tests/data/rpc_messages.jsonl",
            ),
        ),
    ),
    Provider(
        name="Base and Optimism, behind proxyd",
        habits=(
            NoMethod(method=RECEIPTS, code=-32001, status=403, words="rpc method is not whitelisted", source=PROXYD),
            MostLogs(size=40_000, code=-32020, words="backend response too large", source=PONDER),
            Rate(cap=8, counts="requests", code=-32016, status=429, words="over rate limit",
                 source=_HUB + "base/node/issues/368"),
            OneIn(method="eth_getBlockByNumber", n=401, code=-32011, status=503,
                  words="no backends available for method", source=PROXYD),
        ),
        proves="silent",
        requests=1_000,
    ),
    Provider(
        name="zkSync and Abstract",
        habits=(
            MostLogs(
                cap=60, code=-32602, source=CAPTURE,
                words="Query returned more than {cap} results. Try with this block range [{first:#x}, {fits:#x}].",
            ),
            MostLogs(
                size=40_000, code=-32008, words="Response is too big: Exceeded max limit of {size}",
                source=_HUB + "matter-labs/zksync-era/issues/3412",
            ),
        ),
    ),
    Provider(
        name="Gnosis, a Nethermind that tells in data",
        habits=(
            MostLogs(
                cap=60, code=-32602, words="invalid params", source=CAPTURE,
                data="Query returned more than {cap} results. Try with this block range [{first:#x}, {fits:#x}].",
            ),
        ),
    ),
    Provider(
        name="Ronin",
        habits=(
            MostBlocks(
                cap=60, code=-32602, words="Invalid params", source=CAPTURE,
                data="requested block range {span} exceeds the limit of {cap}; narrow your fromBlock/toBlock",
            ),
            MostCalls(cap=3, code=-32000, status=400, words="too many requests", source=AMBIRE),
        ),
        requests=1_100,
    ),
    Provider(
        name="Sonic",
        habits=(
            MostBlocks(cap=100, code=-32000, words="too wide blocks range, the limit is {cap}", source=CAPTURE),
            Field(of="log", name="blockTimestamp", value=_number, source=_HUB + "l2beat/l2beat/pull/11842"),
        ),
    ),
    Provider(
        name="Flare and Avalanche",
        habits=(
            MostBlocks(
                cap=30, code=-32000, source=CAPTURE,
                words="requested too many blocks from {first} to {last}, maximum is set to {cap}",
            ),
        ),
    ),
    Provider(
        name="Celo",
        habits=(
            MostBlocks(
                cap=50, code=-32602, source=CAPTURE,
                words="query exceeds range, retry smaller (max block range {cap}, got {span})",
            ),
        ),
    ),
    Provider(
        name="Harmony",
        habits=(
            MostBlocks(cap=50, code=-32000, words="GetLogs query must be smaller than size {cap}", source=CAPTURE),
        ),
    ),
    Provider(
        name="PulseChain",
        habits=(
            MostLogs(
                cap=60, code=-32000, source=CAPTURE,
                words="query returned more than allowed number of logs, try with smaller block range",
            ),
        ),
    ),
    Provider(
        name="Arc, the public endpoint",
        habits=(
            MostBlocks(cap=40, silent=True, code=0, words="", source=_HUB + "circlefin/arc-node/issues/83"),
            Rate(cap=8, counts="requests", code=-32005, status=429, words="request limit reached",
                 source=_HUB + "circlefin/arc-node/discussions/357"),
        ),
    ),
    Provider(
        name="MegaETH",
        habits=(
            NoMethod(
                method=RECEIPTS, code=-32601, words="rpc method is not whitelisted",
                source=_HUB + "megaeth-labs/documentation/pull/83",
            ),
            Rate(cap=25, code=-32005, words="Rate limit exceeded", source=_HUB + "megaeth-labs/documentation/pull/83"),
        ),
        proves="silent",
        requests=800,
    ),
    Provider(
        name="X Layer, whose finalized block is 0",
        habits=(OddTag(finalized=0, source=_HUB + "0xPolygon/cdk-erigon/issues/441"),),
    ),
    Provider(
        name="OKExChain",
        habits=(
            NoTag(code=-32602, words="invalid argument 0: hex string without 0x prefix",
                  source=_HUB + "okx/exchain/issues/796"),
        ),
    ),
    Provider(
        name="Fabric-X",
        habits=(
            Field(of="log", name="blockTimestamp", value="0x0", source=_HUB + "hyperledger/fabric-x-evm/issues/210"),
        ),
    ),
)  # fmt: skip

NODES = (
    Provider(
        name="Nitro",
        habits=(
            MostLogs(cap=60, code=-32000, words="logs matched by query exceeds limit of {cap}", source=CAPTURE),
            OneIn(method="eth_getLogs", n=5, code=-32602, words="invalid block range params",
                  source=_HUB + "OffchainLabs/nitro/issues/3666"),
        ),
    ),
    Provider(
        name="Nitro of an Orbit chain without finality data",
        habits=(
            NoTag(
                code=-32000, words="{tag} block not found",
                source=_HUB + "OffchainLabs/arbitrum-docs/blob/15792e917618/docs/how-arbitrum-works/reference/"
                "finality-and-reorgs.mdx",
            ),
            Field(of="log", name="blockTimestamp", source=_HUB + "ethereum/execution-apis/issues/295"),
        ),
    ),
    Provider(
        name="geth, two behind a load balancer",
        habits=(
            # "block range extends beyond current head block", since Nitro 3.9.0
            TwoNodes(beyond_head="error", source=_HUB + "OffchainLabs/arbitrum-sdk/pull/625"),
            MostCalls(
                cap=100, code=-32600, words="batch too large",
                source=_HUB + "ethereum/go-ethereum/blob/master/rpc/errors.go",
            ),
            MostBytes(
                size=60_000, code=-32003, words="response too large",
                source=_HUB + "ethereum/go-ethereum/blob/master/rpc/errors.go",
            ),
        ),
    ),
    Provider(
        name="geth, with receipts whose logs have no time",
        habits=(
            Field(of="log", name="blockTimestamp", source=_HUB + "ethereum/go-ethereum/issues/32334"),
            NoTag(tags=("safe",), code=-32000, words="{tag} block not found",
                  source=_HUB + "ethereum/go-ethereum/blob/368e16f39d6c/eth/api_backend.go"),
        ),
    ),
    Provider(
        name="Erigon",
        habits=(
            MostBlocks(
                cap=60, code=-32000, words="query block range exceeds server limit, narrow your filter: {cap}",
                source=_HUB + "erigontech/erigon/issues/19721",
            ),
            MostCalls(
                cap=20, code=-32000, source=_HUB + "erigontech/erigon/issues/17245",
                words="batch limit {cap} exceeded (can increase by --rpc.batch.limit). Requested batch of size: "
                "{calls}",
            ),
        ),
    ),
    Provider(
        name="Erigon for Arbitrum",
        habits=(NoTag(code=-39001, words="Unknown block", source=_HUB + "erigontech/erigon/issues/19184"),),
    ),
    Provider(
        name="Erigon, pruned",
        habits=(
            PrunedReceipts(
                below=100, code=-32000, source=_HUB + "erigontech/erigon/issues/16006",
                words="getReceipt error: ReceiptsGen: PrepareEnv: bn={number}, old data not available due to pruning",
            ),
        ),
        proves="but some",
        requests=800,
    ),
    Provider(
        name="Reth",
        habits=(
            # The range of the hint is the one that was asked for.
            MostLogs(
                cap=60, code=-32602, source=_HUB + "paradigmxyz/reth/issues/23810",
                words="query exceeds max results {cap}, retry with the range {first}-{last}",
            ),
            MostCalls(
                cap=50, code=-32010, words="The batch request was too large: Exceeded max limit of {cap}",
                source=_HUB + "paritytech/jsonrpsee/issues/1107",
            ),
            NoReceipts(n=11, source=_HUB + "paradigmxyz/reth/issues/23394"),
        ),
        proves="but some",
    ),
    Provider(
        name="Nethermind",
        habits=(
            MostCalls(cap=30, code=-32005, words="Batch size limit exceeded",
                      source=_HUB + "NethermindEth/nethermind/blob/master/src/Nethermind/Nethermind.JsonRpc/"
                      "JsonRpcProcessor.cs"),
        ),
    ),
    Provider(
        name="Besu",
        habits=(
            MostCalls(
                cap=30, code=-32600, words="Number of requests in batch exceeds --rpc-max-batch-size.",
                source=_HUB + "besu-eth/besu/issues/4951",
            ),
            NoTag(code=-39001, words="Unknown block", source=_HUB + "besu-eth/besu/issues/3947"),
        ),
    ),
    Provider(
        name="Besu of 2020, without mixHash",
        habits=(Field(of="header", name="mixHash", source=_HUB + "besu-eth/besu/issues/1091"),),
        proves="nothing",
    ),
    Provider(
        name="Aurora relayer, one header in seven without mixHash",
        habits=(
            Field(
                of="header", name="mixHash", n=7, value=ABSENT,
                source=_HUB + "aurora-is-near/aurora-relayer/issues/54",
            ),
        ),
        proves="but some",
    ),
    Provider(
        name="Hardhat of 2020",
        habits=(
            # Of the genesis block only: no other number is a multiple of this one.
            Field(of="header", name="nonce", value="0x42", n=1 << 60,
                  source=_HUB + "graphprotocol/graph-node/issues/1569"),
        ),
        proves="but some",
    ),
    Provider(
        name="Anvil",
        habits=(OddTag(finalized=0, source=_HUB + "foundry-rs/foundry/issues/7245"),),
    ),
    Provider(
        name="Ganache",
        habits=(OddTag(finalized=Depth(0), source=_HUB + "ConsenSys-archive/ganache/issues/3204"),),
    ),
    Provider(
        name="A jsonrpsee server without batches",
        habits=(
            MostCalls(
                cap=0, code=-32005, words="Batched requests are not supported by this server",
                source=_HUB + "paritytech/jsonrpsee/blob/master/types/src/error.rs",
            ),
        ),
        requests=2_000,
    ),
)  # fmt: skip

PROXIES = (
    Provider(
        name="eRPC, which spreads the calls of a batch",
        habits=(
            TwoNodes(each="call", source="https://docs.erpc.cloud/reference/evm/getlogs-splitting"),
            Unordered(source=SPECIFICATION),
        ),
    ),
    Provider(
        name="HAProxy over two nodes, one of them late",
        habits=(TwoNodes(late=6, source=_HUB + "ethereum/go-ethereum/issues/27353"),),
    ),
    Provider(
        name="nginx with a small client_max_body_size",
        habits=(
            LargeBodies(
                size=5_000, status=413, body="<html><head><title>413 Request Entity Too Large</title></head></html>",
                source="https://nginx.org/en/docs/http/ngx_http_core_module.html#client_max_body_size",
            ),
            Pages(n=12, drop=True, source="https://nginx.org/en/docs/http/ngx_http_core_module.html#keepalive_requests"),
        ),
    ),
    Provider(
        name="A proxy that gives ids back as texts",
        habits=(TextIds(source=_HUB + "shogowada/json-rpc-2.0/issues/51"),),
    ),
    Provider(
        name="proxyd without a backend for the tags",
        habits=(NoTag(code=-32011, status=503, words="no backends available for method", source=PROXYD),),
        tags=False,
    ),
)  # fmt: skip

PROVIDERS = (*HOSTED, *CHAINS, *NODES, *PROXIES)
