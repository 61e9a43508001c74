//! The program on real Debian 11, 12, 13 and 14, under systemd, with a real attacker on the wire.
//!
//! `tests/run` runs them all; `cargo test --test debian debian_12` one Debian, `… trap_14` one trap.
//! They need root, and make what they need: boxes (`tests/testbed/box`), in network namespaces of their own.
//! Each `trap_NN` first shows the article's line, or the stock package, failing on that Debian, then ours holding.

mod article;
mod attacker;
mod bed;
mod cage;
mod confirm;
mod containers;
mod engine;
mod files;
mod firewalls;
mod flow;
mod journal;
mod kernel;
mod kill;
mod noise;
mod one_list;
mod traps_access;
mod traps_blocking;
mod traps_jail;
mod traps_service;
mod tree;
mod upgrade;

/// The tests of an engine: where each runs, in a module for each Debian. `ci`: in tests/run; `full`: only with
/// `tests/run --full`; `no`: not on that Debian.
macro_rules! debian {
    ($engine:ident in $on_11:ident $on_12:ident $on_13:ident $on_14:ident {
        $($subject:ident::$test:ident $in_11:ident $in_12:ident $in_13:ident $in_14:ident)*
    }) => {
        mod $on_11 { $(test!($in_11 $subject $test Bullseye $engine);)* }
        mod $on_12 { $(test!($in_12 $subject $test Bookworm $engine);)* }
        mod $on_13 { $(test!($in_13 $subject $test Trixie $engine);)* }
        mod $on_14 { $(test!($in_14 $subject $test Forky $engine);)* }
    };
}

macro_rules! test {
    (no $($rest:tt)*) => {};
    (ci $subject:ident $test:ident $suite:ident $engine:ident) => {
        #[test]
        fn $test() {
            crate::bed::with_engine(crate::bed::Engine::$engine, || crate::$subject::$test(crate::bed::$suite));
        }
    };
    (full $subject:ident $test:ident $suite:ident $engine:ident) => {
        #[test]
        #[ignore = "on this Debian only with tests/run --full"]
        fn $test() {
            crate::bed::with_engine(crate::bed::Engine::$engine, || crate::$subject::$test(crate::bed::$suite));
        }
    };
}

debian! { Package in debian_11 debian_12 debian_13 debian_14 {
    confirm::what_is_confirmed_in_time_stays                                     full full full ci
    confirm::while_it_waits_nothing_is_applied_and_undo_ends_it                  full ci   full full
    confirm::what_nobody_confirms_is_taken_back                                  full ci   full full
    confirm::an_apply_that_takes_longer_has_all_of_the_time_afterwards           full full full full
    confirm::an_apply_that_was_killed_is_taken_back                              full full full full
    confirm::a_lost_connection_takes_it_back                                     full full full ci
    confirm::a_boot_within_the_time_takes_it_back                                full ci   full full
    confirm::at_a_terminal_enter_keeps_it_and_ctrl_c_takes_it_back               full full full full
    confirm::without_systemd_it_is_refused                                       no   ci   no   no
    containers::trap_25_without_systemd                                          full ci   full ci
    containers::trap_25_where_nothing_may_start_services                         no   ci   full ci
    containers::trap_26_without_net_admin_there_is_no_rule                       no   ci   full ci
    containers::verify_of_nothing_is_a_failure                                   no   ci   no   no
    containers::without_systemd_and_without_logs_the_sshd_jail_waits_for_its_log no   ci   no   no
    engine::the_embedded_one_stays_until_the_package_is_asked_for                full ci   full full
    engine::where_apt_has_no_portsentry_the_embedded_one_takes_its_place         no   no   ci   no
    engine::a_later_apt_install_starts_no_second_daemon                          full full full ci
    engine::an_undo_back_to_the_literal_chaos_leaves_no_table                    full full full no
    engine::what_was_blocked_before_comes_into_the_ledger                        full ci   full full
    engine::whom_readme_frees_is_free                                            ci   full full full
    files::a_full_disk_leaves_the_old_file                                       no   ci   no   no
    files::a_read_only_file_system_is_refused                                    no   ci   no   no
    files::a_symlinked_file_is_followed_and_keeps_all_it_has                     no   ci   full full
    files::two_applies_at_once_take_turns                                        no   ci   no   no
    files::bad_input_is_refused_by_place                                         no   ci   no   no
    firewalls::blocked_by_iptables_alone                                         ci   full full ci
    firewalls::portsentry_blocks_by_iptables_alone                               full ci   full full
    flow::fresh_to_undo                                                          ci   ci   ci   ci
    flow::undo_with_the_packages_leaves_no_trace                                 full ci   full full
    flow::it_installs_itself_where_it_stays                                      full ci   full full
    flow::the_ssh_client_of_apply_stays_safe                                     no   ci   no   ci
    flow::undo_does_not_overwrite_later_edits                                    no   ci   no   no
    flow::undo_takes_exactly_our_entries                                         no   ci   full full
    flow::without_a_terminal_and_without_yes_apply_refuses                       no   ci   no   no
    kill::an_apply_killed_again_and_again_still_ends_and_is_undone               full full full full
    kill::a_kill_inside_dpkg_is_mended                                           no   ci   no   no
    noise::a_blocked_host_meets_noise                                            full full ci   full
    one_list::an_action_of_fail2bans_own                                         full full ci   full
    one_list::lists_that_disagree_are_named_and_mended                           full ci   full full
    one_list::who_is_free_is_free_everywhere_and_caught_again                    full ci   full full
    one_list::who_is_freed_in_one_list_is_free_in_the_other                      full full full full
    one_list::without_its_keeper_portsentry_blocks_as_well                       full full full ci
    traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody              full ci   full full
    traps_access::trap_03_the_ignore_builder_drops_forms_silently                ci   ci   ci   no
    traps_access::trap_10_libwrap_guards_ssh_in_sshd_session                     full full ci   full
    traps_access::trap_17_an_ignore_line_with_leading_blanks_is_without_effect   no   ci   no   no
    traps_access::safe_addresses_scan_and_are_not_blocked                        no   no   no   ci
    traps_access::an_ignored_scan_is_seen_and_bans_nobody                        no   no   no   ci
    traps_access::trap_27_on_14_the_articles_seds_change_comments_only           no   no   no   ci
    traps_blocking::trap_01_the_article_is_not_idempotent                        full ci   ci   no
    traps_blocking::trap_04_chaos_without_its_module_blocks_nothing              full ci   full full
    traps_blocking::trap_11_a_raw_socket_sees_nothing_behind_input_drop          full ci   no   no
    traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server                  full full ci   no
    traps_blocking::trap_16_the_rules_program_is_where_the_rule_says             ci   full no   no
    traps_blocking::trap_05_resolving_first_blocks_after_the_scan                no   ci   no   no
    traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart          no   ci   full ci
    traps_blocking::trap_29_portsentry_1_does_not_see_ipv6                       no   ci   ci   no
    traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule           no   no   no   ci
    traps_jail::trap_06_fail2ban_fails_for_want_of_sshds_log                     ci   ci   no   no
    traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes           full ci   full no
    traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban                  full ci   full no
    traps_jail::trap_31_a_host_name_cannot_inject                                full ci   full full
    traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban                 no   ci   no   no
    traps_jail::trap_14_fail2ban_bans_nothing_without_its_program                no   no   ci   no
    traps_jail::trap_09_on_14_the_stock_jail_breaks_fail2ban                     no   no   no   ci
    traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban                     no   no   no   ci
    traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes   no   no   no   ci
    traps_service::trap_07_after_a_boot_portsentry_forgets                       ci   ci   no   ci
    traps_service::trap_19_active_proves_nothing                                 full ci   ci   ci
    traps_service::trap_28_the_diff_reads_conffiles_out_of_the_cached_archive    full ci   full full
    traps_service::trap_23_a_deleted_conffile_comes_back                         no   ci   full full
    traps_service::a_busy_dpkg_is_waited_for                                     no   ci   no   no
    traps_service::trap_08_on_13_the_article_leaves_nothing_running              no   no   ci   no
    traps_service::trap_12_a_daemon_that_refuses_its_configuration_is_not_active no   no   no   ci
    traps_service::trap_19_active_without_its_socket_is_blind                    no   no   no   ci
    upgrade::trap_24_upgraded_from_12_to_13                                      no   full no   no
    upgrade::trap_12_upgraded_from_13_to_14                                      no   no   ci   no
} }

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
debian! { Embedded in embedded_11 embedded_12 embedded_13 embedded_14 {
    cage::the_watcher_may_do_little_and_the_responder_what_the_configuration_says ci   full full ci
    cage::connect_mode_in_the_cage_has_its_low_ports                           full ci   full full
    cage::a_watcher_that_hangs_is_started_anew                                 full full ci   full
    confirm::what_is_confirmed_in_time_stays                                   full full full full
    confirm::while_it_waits_nothing_is_applied_and_undo_ends_it                full full full full
    confirm::what_nobody_confirms_is_taken_back                                full full full full
    confirm::an_apply_that_was_killed_is_taken_back                            full full full full
    confirm::a_lost_connection_takes_it_back                                   full full full full
    confirm::a_boot_within_the_time_takes_it_back                              full full full ci
    confirm::at_a_terminal_enter_keeps_it_and_ctrl_c_takes_it_back             full full full full
    containers::trap_25_without_systemd                                        full full full full
    containers::trap_25_without_systemd_the_embedded_one_is_started_by_hand    full ci   full full
    containers::trap_25_where_nothing_may_start_services                       full full full ci
    containers::trap_26_without_net_admin_there_is_no_rule                     full full ci   full
    containers::verify_of_nothing_is_a_failure                                 full full full full
    engine::verify_names_what_fails_beside_the_watcher                         full ci   full full
    engine::whom_safe_names_is_freed_by_apply                                  full full ci   full
    engine::a_change_to_the_literal_chaos_frees_whom_the_ledger_holds          full ci   full no
    engine::whom_readme_frees_is_free                                          full ci   full full
    files::a_full_disk_leaves_the_old_file                                     full ci   full full
    files::a_read_only_file_system_is_refused                                  full full full full
    files::a_symlinked_file_is_followed_and_keeps_all_it_has                   full full ci   full
    files::two_applies_at_once_take_turns                                      full full full full
    files::bad_input_is_refused_by_place                                       full full full full
    firewalls::behind_nftables                                                 full ci   full full
    firewalls::behind_iptables_legacy                                          full full full ci
    firewalls::behind_ufw                                                      full ci   full full
    firewalls::behind_firewalld                                                full full full ci
    firewalls::behind_docker                                                   no   full full full
    flow::fresh_to_undo                                                        ci   ci   ci   ci
    flow::undo_with_the_packages_leaves_no_trace                               full ci   full full
    flow::undo_takes_exactly_our_entries                                       ci   full full full
    flow::it_installs_itself_where_it_stays                                    full full ci   full
    flow::the_ssh_client_of_apply_stays_safe                                   full full full ci
    flow::undo_does_not_overwrite_later_edits                                  full ci   full full
    flow::without_a_terminal_and_without_yes_apply_refuses                     full full full full
    journal::entries_have_fields                                               full ci   full full
    kill::an_apply_killed_again_and_again_still_ends_and_is_undone             full full full full
    kill::a_kill_inside_dpkg_is_mended                                         full ci   full full
    noise::a_blocked_host_meets_noise                                          ci   full full full
    one_list::lists_that_disagree_are_named_and_mended                         full ci   full full
    one_list::who_is_free_is_free_everywhere_and_caught_again                  full full ci   full
    one_list::who_is_freed_in_one_list_is_free_in_the_other                    full full full ci
    traps_access::an_ignored_scan_is_seen_and_bans_nobody                      full full full full
    traps_access::trap_02_hosts_allow_with_host_bits_matches_nobody            full full full full
    traps_access::trap_03_and_17_no_ignored_address_is_dropped_silently        full full ci   full
    traps_access::trap_10_libwrap_guards_ssh_in_sshd_session                   full full full full
    traps_access::safe_addresses_scan_and_are_not_blocked                      full full full full
    traps_blocking::trap_05_a_silent_resolver_delays_no_block                  ci   full full full
    traps_blocking::trap_11_a_scan_behind_input_drop_is_seen                   ci   full full full
    traps_blocking::trap_15_an_ipv6_scanner_is_blocked_by_an_ipv6_rule         ci   full ci   full
    traps_blocking::trap_04_chaos_without_its_module_blocks_nothing            full ci   full full
    traps_blocking::trap_13_advanced_udp_blocks_the_dhcp_server                full full ci   full
    traps_blocking::trap_18_verify_sees_firewall_and_memory_drift_apart        full full ci   full
    traps_jail::trap_06_fail2ban_fails_for_want_of_sshds_log                   ci   full no   no
    traps_jail::trap_20_the_stock_jail_blocks_tcp_only_and_for_minutes         ci   full full full
    traps_jail::trap_21_a_missing_history_kills_all_of_fail2ban                full ci   full full
    traps_jail::trap_21_logrotate_leaves_no_gap_for_fail2ban                   full ci   full full
    traps_jail::trap_22_on_14_the_stock_jail_watches_a_file_that_nobody_writes full full full ci
    traps_jail::trap_30_a_silent_resolver_does_not_delay_the_ban               full full full full
    traps_jail::trap_31_a_host_name_cannot_inject                              full ci   full full
    traps_jail::trap_31_a_hostile_name_server_injects_nothing                  full ci   full full
    traps_jail::trap_09_on_14_the_stock_jail_breaks_fail2ban                   no   no   no   full
    traps_service::trap_19_active_without_its_table_is_blind                   full full full ci
    traps_service::trap_19_the_embedded_one_without_its_right_says_so          full ci   full full
    traps_service::trap_23_a_deleted_conffile_comes_back                       full full full full
    traps_service::a_busy_dpkg_is_waited_for                                   full full full full
    upgrade::the_embedded_one_watches_through_an_upgrade                       no   ci   full no
} }
