//! The list of all cases.

/// Calls the macro `$with` with all cases, by subject, each with the setups it runs on.
#[macro_export]
macro_rules! every_case {
    ($with:ident) => {
        $with! {
            basics {
                a_stream_without_a_device_aborts_silently: two_level, linear;
                a_stream_that_was_refused_works_with_its_device: s1, s2, s1_linear, s2_linear;
                a_stream_beyond_the_table_is_recorded: linear;
                a_new_device_is_on_an_empty_domain: s1, s2, s1_linear, s2_linear;
                the_blocked_domain_refuses_silently: s1, s2, s1_linear, s2_linear;
                the_identity_domain_passes: two_level, linear, only_s1, only_s2;
                a_mapped_page_is_reached: s1, s2, s1_linear, s2_linear, only_s1, only_s2;
                transfers_cross_pages: s1, s2, s1_linear, s2_linear;
                the_ends_of_the_aperture_work: s1, s2, only_s1, only_s2;
                a_domain_of_32_bits_ends_at_4_gib: s1, s2;
                a_domain_of_39_bits_ends_at_512_gib: s1, s2;
                a_domain_of_40_bits_ends_at_1_tib: s1;
                two_domains_share_no_iova: s1, s2, s1_linear, s2_linear;
                two_devices_share_a_domain: s1, s2;
                a_released_device_is_blocked: s1, s2, s1_linear, s2_linear;
                a_parked_device_waits_for_a_domain: s1, s2;
                a_group_moves_as_one: s1, s2, s1_linear;
            }
            mapping {
                what_is_unmapped_is_out_of_reach: s1, s2, s1_linear, s2_linear, s1_by_leaf, s2_by_leaf;
                a_remapped_iova_leads_to_the_new_page: s1, s2, only_s1, only_s2;
                a_fault_does_not_stay: s1, s2;
                neighbours_of_an_unmapped_page_stay: s1, s2, s1_by_leaf, s2_by_leaf;
                sixty_four_pages_go_by_one_call: s1, s2, s1_by_leaf, s2_by_leaf;
                seventy_pages_go_by_one_call: s1, s2, s1_by_leaf, s2_by_leaf;
                a_small_command_queue_is_enough: s1, s2, s1_by_leaf, s2_by_leaf;
                two_mib_of_pages_go_by_one_call: s1, s2, s1_by_leaf, s2_by_leaf;
                a_domain_knows_where_a_device_gets: s1, s2;
                a_forgotten_mapping_is_harmless: s1, s2;
                a_mapping_without_access_is_refused: s1, s2;
            }
            blocks {
                two_mib_are_one_block: s1, s2, only_s1, only_s2;
                one_gib_is_one_block: s1, s2;
                a_part_of_a_block_is_not_unmapped: s1, s2;
                a_range_mixes_page_sizes: s1, s2, s1_by_leaf, s2_by_leaf;
                blocks_and_pages_take_turns: s1, s2, s1_by_leaf, s2_by_leaf;
            }
            faults {
                nothing_mapped_is_a_translation_fault:
                    s1, s2, s1_linear, s2_linear, only_s1, only_s2;
                a_write_to_read_only_memory_is_a_permission_fault: s1, s2, only_s1, only_s2;
                a_read_of_write_only_memory_is_a_permission_fault: s2, only_s2;
                a_page_without_access_flag_is_an_access_fault: s1, s2;
                a_page_beyond_memory_is_an_address_size_fault: s1, s2;
                a_table_that_is_not_there_is_a_walk_abort: s1, s2;
                an_invalid_entry_is_a_bad_ste: s1, s2, s1_linear, s2_linear;
                a_stream_table_that_is_not_there_is_an_ste_fetch: s1, s2;
                an_invalid_context_is_a_bad_cd: s1, s1_linear;
                a_context_that_is_not_there_is_a_cd_fetch: s1, s1_linear;
            }
            stale {
                a_redirected_page_is_stale_until_it_is_unmapped: s1, s2;
                a_changed_entry_is_stale_until_an_attach: s1, s2, s1_linear, s2_linear;
                an_unmap_without_invalidation_shows: s1, s2, s1_by_leaf, s2_by_leaf;
                a_long_unmap_without_invalidation_shows: s1, s2, s1_by_leaf, s2_by_leaf;
                an_attach_without_invalidation_shows: s1, s2, s1_linear;
                a_new_domain_finds_nothing_of_the_old_one: s1, s2, s1_linear, s2_linear;
                ids_come_back_clean: s1_narrow, s2_narrow;
                ids_run_out: s1_narrow, s2_narrow;
            }
            domains {
                from_paging_to_paging: s1, s2, s1_linear, s2_linear;
                from_stage_1_to_stage_2: two_level, linear;
                from_paging_to_identity: s1, s2, s1_linear, s2_linear;
                from_paging_to_blocked: s1, s2, s1_linear, s2_linear;
                from_identity_to_blocked: two_level, linear;
                an_attach_to_the_same_domain_is_harmless: s1, s2;
                a_detach_returns_to_the_default: s1, s2;
                a_move_leaves_others_alone: s1, s2;
                a_stage_that_is_not_there_is_unsupported: only_s1, only_s2;
                a_domain_that_is_too_wide_is_refused: s1, s2;
            }
            bad_input {
                an_overlapping_map_is_refused: s1, s2;
                a_block_over_a_page_is_refused: s1, s2;
                misaligned_ranges_are_refused: s1, s2;
                empty_and_wrapping_ranges_are_refused: s1, s2;
                ranges_out_of_reach_are_refused: s1, s2;
                an_unmap_of_a_hole_is_refused: s1, s2;
                a_second_unmap_is_refused: s1, s2;
                fixed_domains_have_no_mappings: s1, s2;
                a_map_without_memory_leaves_nothing: s1, s2;
                devices_that_cannot_be_are_refused: two_level, linear;
            }
            rmr {
                a_region_lives_through_everything: s1, s2, s1_linear, s2_linear;
                blocking_a_pinned_device_is_refused: s1, s2;
                a_region_is_not_the_users: s1, s2;
                a_region_leaves_with_its_device: s1, s2;
                a_domain_in_the_way_is_refused: s1, s2;
                a_group_is_pinned_by_one_device: s1, s2;
                odd_regions_are_mapped_by_pages: s1, s2;
                a_region_of_an_impossible_stream_is_skipped: s1, s1_linear;
                a_region_of_the_platform_counts_too: s1, s2;
                a_region_opens_what_firmware_had_closed: two_level, linear;
            }
            lifecycle {
                a_driver_closes_what_firmware_left_open: two_level, linear, only_s1, only_s2;
                a_shutdown_can_abort: s1, s2;
                a_shutdown_can_bypass: s1, s2;
                a_driver_that_ends_leaves_everything_closed: s1, s2;
                a_second_driver_starts_from_nothing: s1, s2, s1_linear, s2_linear;
                a_reset_without_tlb_invalidation_shows: s1, s2;
                a_reset_without_configuration_invalidation_shows: two_level, linear;
                a_driver_takes_over_from_a_crashed_one: s1, s2, s1_linear, s2_linear;
                a_probe_without_memory_changes_nothing: two_level, linear;
                a_device_without_memory_changes_nothing: s1, s2, s1_linear;
                memory_comes_back_with_each_device: s1, s2;
            }
            commands {
                an_illegal_command_fails_its_unmap: s1, s2;
                several_illegal_commands_fail_one_unmap: s1, s2;
                a_buffer_stays_where_its_unmap_failed: s1, s2;
                an_illegal_command_fails_its_attach: s1, s2, s1_linear;
                an_illegal_command_fails_its_release: s1, s2;
                an_illegal_command_keeps_a_domains_tables: s1_narrow, s2_narrow;
                an_illegal_command_fails_the_probe: two_level, linear;
                a_queue_that_stands_still_times_out: s1, s2;
            }
            events {
                events_come_in_order: s1, s2;
                the_driver_reads_records_right: s1, s2;
                a_full_queue_tells_and_goes_on: s1, s2;
                a_queue_of_one_event_works: s1, s2;
                events_do_not_outlive_their_driver: s1, s2;
            }
        }
    };
}

/// As [`every_case`], for what QEMU's SMMU cannot show: it takes each table of a stage-2 root but
/// the first for the first.
#[macro_export]
macro_rules! every_case_of_models {
    ($with:ident) => {
        $with! {
            basics {
                a_domain_of_40_bits_ends_at_1_tib: s2;
            }
        }
    };
}
