"""The hard histories of a chain, S1 to S23, each by name: end to end here or where the second table says, and as a core
without I/O where it has one. A scenario that is not covered yet names the issue that brings it."""

from __future__ import annotations

# Scenario -> tests, as "module::function" relative to tests/.
END_TO_END: dict[str, list[str]] = {
    "S1 same-height tip replacement": ["scenarios/test_tip.py::test_s01_same_height_tip_replacement"],
    "S2 shorter canonical chain": ["scenarios/test_tip.py::test_s02_shorter_canonical_chain"],
    "S3 head goes back without a fork": [
        "scenarios/test_tip.py::test_s03_head_goes_back_without_a_fork",
        "scenarios/test_tip.py::test_s03_a_head_whose_block_is_answered_with_null",
        "scenarios/test_tip.py::test_s03_a_head_below_what_is_final_in_the_middle_of_a_reorg",
        "scenarios/test_endpoints.py::test_s03_who_serves_a_lower_head_is_marked_and_the_other_one_serves",
    ],
    "S4 torn read": [
        "scenarios/test_answers.py::test_s04_torn_read",
        "scenarios/test_answers.py::test_s04_a_reorg_between_two_pages_of_one_range",
        "scenarios/test_answers.py::test_s04_a_reorg_between_two_pages_of_a_replacement",
        "scenarios/test_attest.py::test_s04_torn_read_in_disguise",
    ],
    "S5 silent omission": [
        "scenarios/test_answers.py::test_s05_silent_omission",
        "scenarios/test_attest.py::test_s05_silent_omission_is_found_healed_and_blamed",
        "scenarios/test_attest.py::test_s05_silent_omission_is_found_by_a_second_endpoint",
        "scenarios/test_attest.py::test_s05_the_endpoint_that_is_asked_omits",
        "scenarios/test_attest.py::test_s05_two_endpoints_disagree_and_neither_has_receipts",
        "scenarios/test_attest.py::test_s05_a_root_that_does_not_match_while_the_logs_do_heals_and_blames_nothing",
        "scenarios/test_attest.py::test_s05_a_transaction_hash_is_no_reason_to_heal",
        "scenarios/test_attest.py::test_s05_headers_that_are_labels_prove_nothing_and_say_so",
        "system/test_recovery.py::test_logs_that_a_node_left_out_are_healed_with_every_row_that_depends_on_them",
    ],
    "S6 not-yet-indexed head": [
        "scenarios/test_answers.py::test_s06_not_yet_indexed_head",
        "scenarios/test_answers.py::test_s06_logs_that_never_come_are_not_waited_for_for_ever_and_not_believed",
        "scenarios/test_answers.py::test_s06_a_bloom_that_is_wrong",
        "scenarios/test_attest.py::test_s06_a_bloom_that_is_wrong_is_proven_by_receipts",
        "scenarios/test_attest.py::test_s06_not_yet_indexed_head_that_was_believed_is_found",
    ],
    "S7 same transaction in both forks": ["scenarios/test_forks.py::test_s07_same_transaction_in_both_forks"],
    "S8 reorg while a backfill of the same range is in flight": [
        "scenarios/test_forks.py::test_s08_reorg_while_a_backfill_of_the_same_range_is_in_flight",
        "scenarios/test_forks.py::test_s08_reorg_between_the_validation_of_a_range_and_its_commit",
        "system/test_fencing.py::test_a_backfill_and_the_daemon_meet_in_one_range_while_a_reorg_comes",
    ],
    "S9 reorg on reorg": [
        "scenarios/test_forks.py::test_s09_reorg_on_reorg_during_the_search",
        "scenarios/test_forks.py::test_s09_reorg_on_reorg_while_it_is_staged",
        "scenarios/test_forks.py::test_s09_back_to_the_stored_fork",
        "scenarios/test_forks.py::test_s09_twenty_alternations",
    ],
    "S10 crash matrix": [
        "scenarios/test_writers.py::test_s10_crash_matrix",
        "system/test_kill.py::test_twenty_kills_leave_the_tables_as_emitted",
        "system/test_recovery.py::test_a_heal_that_is_killed_is_done_whole_or_not_at_all",
        "system/test_fencing.py::test_postgres_gone_for_a_while",
    ],
    "S11 deeper than retained anchors or below finalized": [
        "scenarios/test_forks.py::test_s11_below_finalized_on_every_endpoint_halts_until_a_person_confirms",
        "scenarios/test_forks.py::test_s11_below_finalized_on_one_endpoint_only_sets_that_one_aside",
        "scenarios/test_forks.py::test_s11_a_backfill_ends_with_its_own_code",
        "scenarios/test_forks.py::test_s11_below_the_first_stored_block_when_nothing_of_it_is_final",
    ],
    "S12 offline reorg and long sleep": [
        "scenarios/test_forks.py::test_s12_offline_reorg_and_long_sleep",
        "scenarios/test_forks.py::test_s12_a_node_whose_finalized_tag_is_its_head",
        "scenarios/test_forks.py::test_s12_the_floor_is_a_stored_block",
    ],
    "S13 replacement not servable": [
        "scenarios/test_answers.py::test_s13_replacement_not_servable",
        "scenarios/test_endpoints.py::test_s13_what_a_replacement_waits_for_comes_from_an_endpoint_that_was_set_aside",
    ],
    "S14 two writers": [
        "scenarios/test_writers.py::test_s14_two_writers_that_stage_a_replacement",
        "scenarios/test_writers.py::test_s14_a_holder_stopped_before_its_transaction_is_refused_in_it",
        "scenarios/test_writers.py::test_s14_a_step_longer_than_the_lease_does_not_lose_it",
        "scenarios/test_writers.py::test_s14_a_backfill_and_the_daemon_on_one_range",
        "scenarios/test_writers.py::test_s14_headers_are_not_forgotten_under_an_uncommitted_log",
        "system/test_fencing.py::test_a_stopped_holder_is_fenced_and_ends_with_its_own_code",
    ],
    "S15 derived state": ["scenarios/test_derived.py::test_s15_derived_state_is_taken_back_to_the_middle_of_a_span"],
    "S16 child created and at work in one range, then orphaned": [
        "scenarios/test_derived.py::test_s16_child_created_and_at_work_in_the_same_range_then_orphaned",
        "scenarios/test_derived.py::test_s16_a_contract_that_is_watched_from_now_on_when_a_reorg_comes",
    ],
    "S17 four blocks of one timestamp": ["scenarios/test_derived.py::test_s17_four_blocks_of_one_timestamp"],
    "S18 one block over every limit": [
        "scenarios/test_endpoints.py::test_s18_one_block_over_every_limit",
        "unit/test_rpc_parts.py::test_a_block_with_more_logs_than_are_served_at_once_is_fetched_whole",
    ],
    "S19 an endpoint that limits, hangs and answers nonsense": [
        "scenarios/test_endpoints.py::test_s19_nonsense_of_every_kind_between_the_answers",
        "scenarios/test_endpoints.py::test_s19_a_storm_of_429_on_one_endpoint_is_left_for_the_other",
        "scenarios/test_endpoints.py::test_s19_words_of_a_node_reach_the_lease_s_state_without_what_postgresql_refuses",
        "scenarios/test_endpoints.py::test_s19_an_endpoint_that_only_hangs_costs_its_time_out_once",
        "unit/test_transport.py::test_retries_are_bounded",
        "unit/test_transport.py::test_passing_trouble_is_tried_again_and_batches_go_on",
        "unit/test_transport.py::test_a_hanging_node_is_given_up_after_about_its_time_out",
        "unit/test_transport.py::test_a_batch_with_an_answer_too_few_or_too_many_is_tried_again_then_named",
    ],
    "S20 two ABI generations in one block, unknown and misfit events": [
        "scenarios/test_generations.py::test_s20_two_abi_generations_in_one_block_unknown_and_misfit_events",
        "unit/test_decode.py::test_every_shipped_abi_of_the_deployments_loads_and_v3_decodes_in_both_variants",
        "unit/test_decode.py::test_lines_that_cannot_be_decoded_say_why_and_do_not_fail_the_command",
    ],
    "S21 an endpoint of another chain joins after the start": [
        "scenarios/test_endpoints.py::test_s21_an_endpoint_of_another_chain_joins_after_the_start",
        "scenarios/test_endpoints.py::test_s21_an_endpoint_that_turns_into_another_chain_behind_its_name",
        "unit/test_pool.py::test_an_endpoint_down_at_open_that_comes_back_as_another_chain_is_never_read",
    ],
    "S22 removed and duplicate entries": ["scenarios/test_answers.py::test_s22_removed_and_duplicate_entries"],
    "S23 mute WebSocket, stuck poll": [
        "scenarios/test_endpoints.py::test_s23_mute_websocket",
        "scenarios/test_endpoints.py::test_s23_stuck_poll",
        "unit/test_stall_detector.py::test_everything_that_is_stuck_is_named_within_60_seconds",
    ],
}

CORE: dict[str, str] = {
    scenario: f"scenarios/test_core.py::test_{scenario}_core"
    for scenario in ("s01", "s02", "s03", "s04", "s05", "s06", "s07", "s08", "s09", "s10", "s11", "s12", "s13", "s14",
                     "s15", "s17", "s22")
}  # fmt: skip
