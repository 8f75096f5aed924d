//! Whole machines. Two run at a time by default: a guest without hardware help has use for one processor, and waits much.
//!
//! One rule: a test that cannot run here is shown as ignored with its reason, decided at run time.

mod balloon;
mod debian;
mod lives;
mod nested;
mod network;
mod probe;
mod probe_balloon;
mod probe_net;

use libtest_mimic::Arguments;

type Test = fn() -> anyhow::Result<()>;

/// Machines at a time.
const AT_ONCE: usize = 2;

const TESTS: &[(&str, Test)] = &[
    (
        "debian_under_qemu_keeps_its_files_through_trim_growth_and_a_dying_daemon",
        debian::files,
    ),
    (
        "debian_under_qemu_uses_the_packed_ring_through_a_dying_daemon",
        debian::packed,
    ),
    (
        "debian_under_qemu_cannot_change_a_read_only_disk",
        debian::read_only,
    ),
    ("debian_under_qemu_has_its_root_on_the_daemon", debian::root),
    (
        "debian_under_qemu_uses_a_tap_with_offloads_queues_and_a_dying_daemon",
        network::tap,
    ),
    (
        "debian_under_qemu_sends_jumbo_frames_over_packed_rings",
        network::packed_jumbo,
    ),
    ("debian_under_qemu_needs_no_offload_at_all", network::plain),
    ("debian_under_qemu_has_a_legacy_card", network::legacy),
    (
        "debian_guests_meet_on_the_switch_of_one_daemon",
        network::switch,
    ),
    (
        "debian_under_qemu_gets_its_address_through_passt",
        network::passt,
    ),
    (
        "debian_runs_on_our_monitor_in_nested_kvm_with_its_root_on_our_daemon",
        nested::debian,
    ),
    (
        "debian_runs_on_our_monitor_with_two_processors",
        nested::two_processors,
    ),
    (
        "debian_runs_on_alioth_in_nested_kvm_with_its_root_on_our_daemon",
        nested::alioth,
    ),
    ("the_probe_guest_verifies_a_disk", probe::verify),
    ("the_probe_guest_verifies_a_disk_on_svm", nested::probe),
    (
        "the_probe_guest_verifies_a_disk_over_four_packed_queues",
        probe::packed_queues,
    ),
    (
        "probe_guests_meet_on_the_switch_of_one_daemon",
        probe_net::guest_to_guest,
    ),
    (
        "probe_guests_meet_over_two_pairs_of_packed_queues",
        probe_net::packed_pairs,
    ),
    (
        "a_probe_guest_without_offloads_meets_one_that_has_them",
        probe_net::unlike_guests,
    ),
    (
        "streams_between_guests_survive_a_dying_network_daemon",
        probe_net::killed,
    ),
    ("a_probe_guest_sees_the_cable_out_and_in", probe_net::link),
    (
        "the_probe_guest_reaches_the_host_through_a_tap",
        probe_net::tap,
    ),
    (
        "the_probe_guest_reaches_the_host_through_passt",
        probe_net::passt,
    ),
    (
        "every_write_happens_once_while_the_daemon_is_killed",
        probe::killed,
    ),
    (
        "debians_own_balloon_driver_gives_memory_and_takes_it_back",
        nested::balloon,
    ),
    (
        "the_hosts_memory_follows_a_guests_balloon",
        probe_balloon::follows,
    ),
    (
        "memory_that_a_guest_reports_free_goes_back_to_the_host",
        probe_balloon::reports,
    ),
    (
        "a_balloon_and_a_disk_survive_a_dying_balloon_daemon",
        probe_balloon::killed,
    ),
    (
        "two_guests_trade_memory_through_the_daemons_pool",
        probe_balloon::trade,
    ),
    (
        "debian_under_qemu_has_a_balloon_by_its_generic_vhost_user_device",
        balloon::debian,
    ),
    (
        "debian_under_qemu_lives_through_pauses_memory_that_comes_and_goes_and_resets",
        lives::life,
    ),
    (
        "debian_under_qemu_moves_to_another_qemu_under_io_after_a_move_that_was_cancelled",
        lives::moves,
    ),
    (
        "debian_under_a_newer_qemu_lives_through_the_same",
        lives::newer_life,
    ),
    (
        "debian_under_a_newer_qemu_moves_to_another_under_io",
        lives::newer_moves,
    ),
];

fn main() {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        arguments.test_threads = Some(processors.min(AT_ONCE));
    }
    let trials = TESTS.iter().map(|(name, test)| vm::trial(name, test));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
