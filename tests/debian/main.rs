//! The program on real Debian 11, 12, 13 and 14, under systemd, with a real attacker on the wire.
//!
//! `tests/run` runs them all; `cargo test --test debian debian_12` one Debian, `… trap_14` one trap.
//! They need root, and make what they need: boxes (`tests/testbed/box`), in network namespaces of their own.
//! Each `trap_NN` first shows the article's line, or the stock package, failing on that Debian, then ours holding.

mod article;
mod attacker;
mod bed;
mod containers;
mod engine;
mod files;
mod firewalls;
mod flow;
mod kernel;
mod kill;
mod traps_access;
mod traps_blocking;
mod traps_jail;
mod traps_service;
mod tree;
mod upgrade;

/// A module for each Debian, and engine, with the tests that run there; those of `full` only with `tests/run --full`.
macro_rules! debian {
    ($($debian:ident, $suite:ident, $engine:ident: { $($subject:ident::$test:ident)* }
       $(+ full { $($other_subject:ident::$other:ident)* })?)*) => {$(
        mod $debian {
            $(#[test]
            fn $test() {
                crate::bed::with_engine(crate::bed::Engine::$engine, || crate::$subject::$test(crate::bed::$suite));
            })*
            $($(#[test]
            #[ignore = "on this Debian only with tests/run --full"]
            fn $other() {
                crate::bed::with_engine(crate::bed::Engine::$engine, || crate::$other_subject::$other(crate::bed::$suite));
            })*)?
        }
    )*};
}

// Not run with the embedded engine, for they are about Debian's portsentry alone:
// - trap_01, 08, 27: the article's commands, which edit the package's files
// - trap_03_the_ignore_builder…, 17: 1.2's list and what builds it; trap_03_and_17… is the embedded one's
// - trap_05_resolving…, 11_a_raw_socket…, 29: where 1.2 is slow or blind; trap_05_a_silent…, 11_a_scan… and 15 show that the
//   embedded one is not
// - trap_07: that 1.2 forgets; flow::fresh_to_undo cuts the power with both
// - trap_12, 24: how the package's own configuration is upgraded; the embedded one has an upgrade of its own
// - trap_14: the stock action without its program; trap_20 shows ours
// - trap_16: where 1.2's rule looks for iptables; every block of the embedded one shows it
// - trap_19_active_proves_nothing, …without_its_socket…: the package's units; the embedded one has two of its own
// - trap_28: conffiles in the archive of a package
// - without_systemd_and_without_logs…: of fail2ban's sshd jail, on machines where nothing starts the embedded one
debian! {
    debian_11, Bullseye, Package: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::it_installs_itself_where_it_stays
        traps_blocking::trap_01_the_article_is_not_idempotent
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_03_the_ignore_builder_drops_forms_silently
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_jail::trap_06_fail2ban_fails_for_want_of_sshds_log
        traps_service::trap_07_after_a_boot_portsentry_forgets
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_blocking::trap_11_a_raw_socket_sees_nothing_behind_input_drop
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_blocking::trap_16_the_rules_program_is_where_the_rule_says
        traps_service::trap_19_active_proves_nothing
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        containers::trap_25_without_systemd
        traps_service::trap_28_the_diff_reads_conffiles_out_of_the_cached_archive
        traps_jail::trap_31_a_host_name_cannot_inject
    } + full {
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
        engine::the_embedded_one_stays_until_the_package_is_asked_for
    }
    debian_12, Bookworm, Package: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::it_installs_itself_where_it_stays
        flow::the_ssh_client_of_apply_stays_safe
        flow::undo_does_not_overwrite_later_edits
        flow::undo_takes_exactly_our_entries
        flow::without_a_terminal_and_without_yes_apply_refuses
        upgrade::trap_24_upgraded_from_12_to_13
        traps_blocking::trap_01_the_article_is_not_idempotent
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_03_the_ignore_builder_drops_forms_silently
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_blocking::trap_05_resolving_first_blocks_after_the_scan
        traps_jail::trap_06_fail2ban_fails_for_want_of_sshds_log
        traps_service::trap_07_after_a_boot_portsentry_forgets
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_blocking::trap_11_a_raw_socket_sees_nothing_behind_input_drop
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_blocking::trap_16_the_rules_program_is_where_the_rule_says
        traps_access::trap_17_an_ignore_line_with_leading_blanks_is_without_effect
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_service::trap_19_active_proves_nothing
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        traps_service::trap_23_a_deleted_conffile_comes_back
        containers::trap_25_without_systemd
        containers::trap_25_where_nothing_may_start_services
        containers::trap_26_without_net_admin_there_is_no_rule
        containers::verify_of_nothing_is_a_failure
        containers::without_systemd_and_without_logs_the_sshd_jail_waits_for_its_log
        traps_service::trap_28_the_diff_reads_conffiles_out_of_the_cached_archive
        traps_blocking::trap_29_portsentry_1_does_not_see_ipv6
        traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban
        traps_jail::trap_31_a_host_name_cannot_inject
        traps_service::a_busy_dpkg_is_waited_for
        engine::the_embedded_one_stays_until_the_package_is_asked_for
        files::a_full_disk_leaves_the_old_file
        files::a_read_only_file_system_is_refused
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
        files::two_applies_at_once_take_turns
        files::bad_input_is_refused_by_place
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
        kill::a_kill_inside_dpkg_is_mended
    }
    debian_13, Trixie, Package: {
        engine::where_apt_has_no_portsentry_the_embedded_one_takes_its_place
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::it_installs_itself_where_it_stays
        flow::undo_takes_exactly_our_entries
        upgrade::trap_12_upgraded_from_13_to_14
        traps_blocking::trap_01_the_article_is_not_idempotent
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_03_the_ignore_builder_drops_forms_silently
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_service::trap_08_on_13_the_article_leaves_nothing_running
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_jail::trap_14_fail2ban_bans_nothing_without_its_program
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_service::trap_19_active_proves_nothing
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        traps_service::trap_23_a_deleted_conffile_comes_back
        containers::trap_25_without_systemd
        containers::trap_25_where_nothing_may_start_services
        containers::trap_26_without_net_admin_there_is_no_rule
        traps_service::trap_28_the_diff_reads_conffiles_out_of_the_cached_archive
        traps_blocking::trap_29_portsentry_1_does_not_see_ipv6
        traps_jail::trap_31_a_host_name_cannot_inject
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
    } + full {
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
        engine::the_embedded_one_stays_until_the_package_is_asked_for
    }
    debian_14, Forky, Package: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::it_installs_itself_where_it_stays
        flow::the_ssh_client_of_apply_stays_safe
        flow::undo_takes_exactly_our_entries
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::safe_addresses_scan_and_are_not_blocked
        traps_access::an_ignored_scan_is_seen_and_bans_nobody
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_service::trap_07_after_a_boot_portsentry_forgets
        traps_jail::trap_09_on_14_the_stock_jail_breaks_fail2ban
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_service::trap_12_a_daemon_that_refuses_its_configuration_is_not_active
        traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_service::trap_19_active_proves_nothing
        traps_service::trap_19_active_without_its_socket_is_blind
        traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban
        traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes
        traps_service::trap_23_a_deleted_conffile_comes_back
        containers::trap_25_without_systemd
        containers::trap_25_where_nothing_may_start_services
        containers::trap_26_without_net_admin_there_is_no_rule
        traps_access::trap_27_on_14_the_articles_seds_change_comments_only
        traps_service::trap_28_the_diff_reads_conffiles_out_of_the_cached_archive
        traps_jail::trap_31_a_host_name_cannot_inject
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
    } + full {
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
        engine::the_embedded_one_stays_until_the_package_is_asked_for
    }
    embedded_11, Bullseye, Embedded: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::undo_takes_exactly_our_entries
        traps_access::an_ignored_scan_is_seen_and_bans_nobody
        traps_blocking::trap_05_a_silent_resolver_delays_no_block
        traps_blocking::trap_11_a_scan_behind_input_drop_is_seen
        traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule
        traps_jail::trap_06_fail2ban_fails_for_want_of_sshds_log
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
    } + full {
        firewalls::behind_nftables
        firewalls::behind_iptables_legacy
        firewalls::behind_ufw
        firewalls::behind_firewalld
        flow::it_installs_itself_where_it_stays
        flow::the_ssh_client_of_apply_stays_safe
        flow::undo_does_not_overwrite_later_edits
        flow::without_a_terminal_and_without_yes_apply_refuses
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_03_and_17_no_ignored_address_is_dropped_silently
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_access::safe_addresses_scan_and_are_not_blocked
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_service::trap_19_active_without_its_table_is_blind
        traps_service::trap_19_the_embedded_one_without_its_right_says_so
        traps_service::trap_23_a_deleted_conffile_comes_back
        traps_service::a_busy_dpkg_is_waited_for
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban
        traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes
        traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban
        traps_jail::trap_31_a_host_name_cannot_inject
        traps_jail::trap_31_a_hostile_name_server_injects_nothing
        containers::trap_25_without_systemd
        containers::trap_25_without_systemd_the_embedded_one_is_started_by_hand
        containers::trap_25_where_nothing_may_start_services
        containers::trap_26_without_net_admin_there_is_no_rule
        containers::verify_of_nothing_is_a_failure
        files::a_full_disk_leaves_the_old_file
        files::a_read_only_file_system_is_refused
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
        files::two_applies_at_once_take_turns
        files::bad_input_is_refused_by_place
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
        kill::a_kill_inside_dpkg_is_mended
    }
    embedded_12, Bookworm, Embedded: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::undo_does_not_overwrite_later_edits
        upgrade::the_embedded_one_watches_through_an_upgrade
        firewalls::behind_nftables
        firewalls::behind_ufw
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_service::trap_19_the_embedded_one_without_its_right_says_so
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban
        traps_jail::trap_31_a_host_name_cannot_inject
        traps_jail::trap_31_a_hostile_name_server_injects_nothing
        containers::trap_25_without_systemd_the_embedded_one_is_started_by_hand
        files::a_full_disk_leaves_the_old_file
        kill::a_kill_inside_dpkg_is_mended
    } + full {
        flow::it_installs_itself_where_it_stays
        flow::the_ssh_client_of_apply_stays_safe
        flow::undo_takes_exactly_our_entries
        flow::without_a_terminal_and_without_yes_apply_refuses
        firewalls::behind_iptables_legacy
        firewalls::behind_firewalld
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_03_and_17_no_ignored_address_is_dropped_silently
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_access::safe_addresses_scan_and_are_not_blocked
        traps_access::an_ignored_scan_is_seen_and_bans_nobody
        traps_blocking::trap_05_a_silent_resolver_delays_no_block
        traps_blocking::trap_11_a_scan_behind_input_drop_is_seen
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_service::trap_19_active_without_its_table_is_blind
        traps_service::trap_23_a_deleted_conffile_comes_back
        traps_service::a_busy_dpkg_is_waited_for
        traps_jail::trap_06_fail2ban_fails_for_want_of_sshds_log
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
        traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes
        traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban
        containers::trap_25_without_systemd
        containers::trap_25_where_nothing_may_start_services
        containers::trap_26_without_net_admin_there_is_no_rule
        containers::verify_of_nothing_is_a_failure
        files::a_read_only_file_system_is_refused
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
        files::two_applies_at_once_take_turns
        files::bad_input_is_refused_by_place
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
    }
    embedded_13, Trixie, Embedded: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::it_installs_itself_where_it_stays
        traps_access::trap_03_and_17_no_ignored_address_is_dropped_silently
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
        containers::trap_26_without_net_admin_there_is_no_rule
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
    } + full {
        upgrade::the_embedded_one_watches_through_an_upgrade
        firewalls::behind_nftables
        firewalls::behind_iptables_legacy
        firewalls::behind_ufw
        firewalls::behind_firewalld
        flow::the_ssh_client_of_apply_stays_safe
        flow::undo_does_not_overwrite_later_edits
        flow::undo_takes_exactly_our_entries
        flow::without_a_terminal_and_without_yes_apply_refuses
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_access::safe_addresses_scan_and_are_not_blocked
        traps_access::an_ignored_scan_is_seen_and_bans_nobody
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_blocking::trap_05_a_silent_resolver_delays_no_block
        traps_blocking::trap_11_a_scan_behind_input_drop_is_seen
        traps_service::trap_19_active_without_its_table_is_blind
        traps_service::trap_19_the_embedded_one_without_its_right_says_so
        traps_service::trap_23_a_deleted_conffile_comes_back
        traps_service::a_busy_dpkg_is_waited_for
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban
        traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes
        traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban
        traps_jail::trap_31_a_host_name_cannot_inject
        traps_jail::trap_31_a_hostile_name_server_injects_nothing
        containers::trap_25_without_systemd
        containers::trap_25_without_systemd_the_embedded_one_is_started_by_hand
        containers::trap_25_where_nothing_may_start_services
        containers::verify_of_nothing_is_a_failure
        files::a_full_disk_leaves_the_old_file
        files::a_read_only_file_system_is_refused
        files::two_applies_at_once_take_turns
        files::bad_input_is_refused_by_place
        kill::a_kill_inside_dpkg_is_mended
    }
    embedded_14, Forky, Embedded: {
        flow::fresh_to_undo
        flow::undo_with_the_packages_leaves_no_trace
        flow::the_ssh_client_of_apply_stays_safe
        firewalls::behind_iptables_legacy
        firewalls::behind_firewalld
        traps_service::trap_19_active_without_its_table_is_blind
        traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes
        containers::trap_25_where_nothing_may_start_services
    } + full {
        flow::it_installs_itself_where_it_stays
        flow::undo_does_not_overwrite_later_edits
        flow::undo_takes_exactly_our_entries
        flow::without_a_terminal_and_without_yes_apply_refuses
        firewalls::behind_nftables
        firewalls::behind_ufw
        traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody
        traps_access::trap_03_and_17_no_ignored_address_is_dropped_silently
        traps_access::trap_10_libwrap_guards_ssh_in_sshd_session
        traps_access::safe_addresses_scan_and_are_not_blocked
        traps_access::an_ignored_scan_is_seen_and_bans_nobody
        traps_blocking::trap_04_chaos_without_its_module_blocks_nothing
        traps_blocking::trap_05_a_silent_resolver_delays_no_block
        traps_blocking::trap_11_a_scan_behind_input_drop_is_seen
        traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server
        traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule
        traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart
        traps_service::trap_19_the_embedded_one_without_its_right_says_so
        traps_service::trap_23_a_deleted_conffile_comes_back
        traps_service::a_busy_dpkg_is_waited_for
        traps_jail::trap_09_on_14_the_stock_jail_breaks_fail2ban
        traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes
        traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban
        traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban
        traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban
        traps_jail::trap_31_a_host_name_cannot_inject
        traps_jail::trap_31_a_hostile_name_server_injects_nothing
        containers::trap_25_without_systemd
        containers::trap_25_without_systemd_the_embedded_one_is_started_by_hand
        containers::trap_26_without_net_admin_there_is_no_rule
        containers::verify_of_nothing_is_a_failure
        files::a_full_disk_leaves_the_old_file
        files::a_read_only_file_system_is_refused
        files::a_symlinked_file_is_followed_and_keeps_all_it_has
        files::two_applies_at_once_take_turns
        files::bad_input_is_refused_by_place
        kill::an_apply_killed_again_and_again_still_ends_and_is_undone
        kill::a_kill_inside_dpkg_is_mended
    }
}
