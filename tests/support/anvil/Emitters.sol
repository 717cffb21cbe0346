// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// Emits any log: calldata is abi.encode(bytes32[] topics, bytes data).
contract Emitter {
    fallback() external {
        (bytes32[] memory t, bytes memory d) = abi.decode(msg.data, (bytes32[], bytes));
        assembly {
            let at := add(d, 32)
            let size := mload(d)
            switch mload(t)
            case 0 { log0(at, size) }
            case 1 { log1(at, size, mload(add(t, 32))) }
            case 2 { log2(at, size, mload(add(t, 32)), mload(add(t, 64))) }
            case 3 { log3(at, size, mload(add(t, 32)), mload(add(t, 64)), mload(add(t, 96))) }
            default { log4(at, size, mload(add(t, 32)), mload(add(t, 64)), mload(add(t, 96)), mload(add(t, 128))) }
        }
    }
}

/// Calls emitters in order, so that one transaction carries the logs of several contracts.
contract Script {
    function run(address[] calldata targets, bytes[] calldata payloads) external {
        for (uint256 i = 0; i < targets.length; i++) {
            (bool ok, ) = targets[i].call(payloads[i]);
            require(ok);
        }
    }
}

/// Views as the deployed contracts have them: their answers follow from the arguments.
contract Views {
    struct PriceData {
        uint256 price;
        uint256 timestamp;
    }
    struct Trackers {
        int256 fundingValue;
        uint256 baseMultiplier;
        uint256 adlUnwindPrice;
    }
    struct PerpPosition {
        int256 base;
        int256 realizedPnL;
        PriceData lastPriceData;
        Trackers trackers;
    }
    struct CollateralInfo {
        int256 netDeposits;
        int256 marginBalance;
        int256 realBalance;
    }

    function getAccountOwner(uint128 accountId) external pure returns (address) {
        require(accountId != 0, "AccountNotFound");
        return address(uint160(accountId));
    }

    function getCollateralInfo(uint128 accountId, address) external view returns (CollateralInfo memory) {
        return CollateralInfo(-int256(uint256(accountId)), int256(block.number), 3);
    }

    function getUpdatedPositionInfo(uint128 marketId, uint128 accountId) external pure returns (PerpPosition memory) {
        return PerpPosition(-int256(uint256(marketId)), int256(uint256(accountId)), PriceData(3, 4), Trackers(-5, 6, 7));
    }

    function name() external pure returns (string memory) {
        return unicode"Reya’s dollar";
    }
}
