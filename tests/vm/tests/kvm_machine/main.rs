//! The machine on this host's KVM, with guests of a few instructions.
//!
//! One rule: guests are bytes with their assembler beside them; a guest that hangs fails its test in seconds.

mod cases;
mod daemons;
mod guest;
mod manners;
mod monitor;

use libtest_mimic::Arguments;

type Test = fn() -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    (
        "a_guest_is_entered_in_protected_mode_with_its_start_info",
        cases::entry,
    ),
    (
        "every_byte_of_a_string_output_arrives_once",
        cases::string_output,
    ),
    ("soft_off_ends_the_machine", cases::soft_off),
    ("every_way_to_reset_is_a_reset", cases::resets),
    (
        "a_machine_that_was_reset_starts_again_with_its_ram",
        cases::restart,
    ),
    (
        "unclaimed_addresses_read_as_ones_and_swallow_writes",
        cases::nowhere,
    ),
    (
        "a_doorbell_signals_without_an_exit_and_moves_with_its_bar",
        cases::doorbell,
    ),
    (
        "a_message_signalled_interrupt_wakes_a_halted_vcpu",
        cases::interrupt,
    ),
    ("every_vcpu_stops_when_asked", cases::stop),
    ("an_impossible_number_of_vcpus_is_refused", cases::too_many),
    (
        "the_monitor_ends_with_the_guests_exit_code_in_its_cage_and_without",
        monitor::exit_code,
    ),
    (
        "the_monitor_restarts_or_ends_a_guest_that_resets",
        monitor::restart,
    ),
    (
        "the_monitor_ends_a_deaf_guest_when_told_to",
        monitor::terminated,
    ),
    (
        "the_monitor_names_the_backend_that_is_not_there",
        monitor::no_backend,
    ),
    (
        "the_monitor_ends_even_when_nobody_reads_its_output",
        monitor::stuck,
    ),
    (
        "a_vm_brings_its_daemons_along_and_is_asked_about_them",
        daemons::brought_along,
    ),
    (
        "a_daemon_that_is_killed_comes_back_under_the_vm",
        daemons::killed_daemon,
    ),
    (
        "a_mistake_that_a_daemon_finds_is_told_with_the_line_of_the_vms_file",
        daemons::mistake_for_a_daemon,
    ),
    (
        "a_monitor_whose_keeper_of_daemons_is_killed_says_so_and_ends_in_order",
        daemons::killed_keeper,
    ),
    (
        "a_monitor_that_is_killed_takes_its_daemons_along",
        daemons::killed_monitor,
    ),
    (
        "a_monitor_whose_words_nobody_hears_keeps_its_vm",
        manners::no_reader,
    ),
    (
        "a_monitor_whose_reader_sleeps_keeps_its_vm",
        manners::asleep_reader,
    ),
    (
        "a_monitor_whose_words_go_to_a_full_disk_keeps_its_vm",
        manners::full_disk,
    ),
    (
        "a_monitor_in_the_background_leaves_the_terminal_alone_and_takes_it_in_the_foreground",
        manners::background,
    ),
    (
        "a_monitor_that_a_signal_ends_gives_the_terminal_back",
        manners::fatal_signal,
    ),
    (
        "a_monitor_that_is_stopped_lends_the_terminal",
        manners::stopped_and_continued,
    ),
    (
        "a_monitor_that_is_hung_up_ends_in_order",
        manners::gone_terminal,
    ),
    (
        "asking_about_a_vm_survives_whoever_reads_the_answer",
        manners::status_without_reader,
    ),
    (
        "a_monitor_that_root_started_and_its_daemons_become_another_user",
        manners::another_user,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let trials = TESTS
        .iter()
        .map(|(name, test)| vm::trial(name, || vm::kvm().and_then(|()| test())));
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
