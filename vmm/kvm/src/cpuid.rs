//! What the guest's CPUID says: the host's offer, plus who each vCPU is.
//!
//! One rule: pure functions on a table; features come from KVM's list of supported ones and are never added to,
//! except those that KVM implements and lists elsewhere (TSC deadline, hypervisor bit).

use kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

/// One CPUID leaf as KVM takes it.
pub type CpuidEntry = kvm_bindings::kvm_cpuid_entry2;

/// Frequency of KVM's local APIC timer in kHz.
const APIC_KHZ: u32 = 1_000_000;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HYPER_THREADING: u32 = 1 << 28;
const ALWAYS_RUNNING_TIMER: u32 = 1 << 2;

/// Leaf that starts the hypervisor's own ones.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Leaf that says how fast the TSC is, as VMware defined it and others follow.
const TIMING: u32 = 0x4000_0010;

/// What is the same for all vCPUs of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Processors {
    /// How many there are, each a core of one package.
    pub count: u32,
    /// The local APIC timer has a TSC deadline mode.
    pub tsc_deadline: bool,
    /// Frequency of the TSC in kHz; 0 if not known.
    pub tsc_khz: u32,
}

/// The table for vCPU number `id`.
pub fn for_vcpu(host: &[CpuidEntry], id: u32, processors: Processors) -> Vec<CpuidEntry> {
    let Processors {
        count,
        tsc_deadline,
        tsc_khz,
    } = processors;
    let mut table: Vec<CpuidEntry> = host
        .iter()
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f))
        .copied()
        .collect();
    let max_leaf = host.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    for entry in &mut table {
        adapt(entry, id, count, tsc_deadline);
    }
    if max_leaf >= 0xb {
        table.extend(topology(id, count));
    }
    let base = table.iter_mut().find(|e| e.function == HYPERVISOR_BASE);
    if let Some(base) = base.filter(|base| tsc_khz > 0 && base.eax < TIMING) {
        base.eax = TIMING;
        table.push(CpuidEntry {
            function: TIMING,
            eax: tsc_khz,
            ebx: APIC_KHZ,
            ..Default::default()
        });
    }
    table
}

/// Bits of an APIC id that tell cores apart.
fn core_bits(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

fn adapt(entry: &mut CpuidEntry, id: u32, count: u32, tsc_deadline: bool) {
    let padded = 1u32 << core_bits(count);
    match entry.function {
        0x1 => {
            let logical = if count > 1 { padded.min(255) } else { 1 };
            entry.ebx = (entry.ebx & 0x0000_ffff) | (logical << 16) | ((id & 0xff) << 24);
            entry.ecx |= HYPERVISOR | if tsc_deadline { TSC_DEADLINE } else { 0 };
            set(&mut entry.edx, HYPER_THREADING, count > 1);
        }
        0x4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { padded - 1 } else { 0 };
            let cores = (padded - 1).min(63);
            entry.eax = (entry.eax & 0x3fff) | (sharing.min(0xfff) << 14) | (cores << 26);
        }
        0x6 => {
            entry.eax = ALWAYS_RUNNING_TIMER;
            entry.ebx = 0;
            entry.ecx = 0;
            entry.edx = 0;
        }
        // No performance counters.
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0001 => {
            let extended_topology = entry.ecx & (1 << 22) != 0;
            set(&mut entry.ecx, 1 << 1, count > 1 && extended_topology);
        }
        0x8000_0008 => entry.ecx = (core_bits(count) << 12) | (count - 1).min(255),
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { padded - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing.min(0xfff) << 14);
        }
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

fn set(word: &mut u32, bit: u32, on: bool) {
    *word = if on { *word | bit } else { *word & !bit };
}

/// Leaf 0xb: a level of threads (one per core), a level of cores, and the end.
fn topology(id: u32, count: u32) -> [CpuidEntry; 3] {
    let level = |index, eax, ebx, kind: u32| CpuidEntry {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: (kind << 8) | index,
        edx: id,
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, core_bits(count), count, 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<CpuidEntry> {
        let leaf = |function, eax| CpuidEntry {
            function,
            eax,
            ..Default::default()
        };
        vec![
            leaf(0, 0xd),
            leaf(1, 0),
            leaf(0xb, 7),
            leaf(0x1f, 7),
            leaf(0x8000_0008, 0),
            leaf(HYPERVISOR_BASE, 0x4000_0001),
        ]
    }

    fn processors(count: u32, tsc_deadline: bool) -> Processors {
        Processors {
            count,
            tsc_deadline,
            tsc_khz: 2_600_000,
        }
    }

    #[test]
    fn the_speed_of_the_tsc_is_told() {
        let table = for_vcpu(&host(), 0, processors(1, true));
        assert_eq!(find(&table, HYPERVISOR_BASE, 0).eax, TIMING);
        assert_eq!(find(&table, TIMING, 0).eax, 2_600_000);
        let silent = Processors {
            tsc_khz: 0,
            ..processors(1, true)
        };
        let table = for_vcpu(&host(), 0, silent);
        assert_eq!(find(&table, HYPERVISOR_BASE, 0).eax, 0x4000_0001);
    }

    fn find(table: &[CpuidEntry], function: u32, index: u32) -> CpuidEntry {
        *table
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id() {
        for id in 0..5 {
            let table = for_vcpu(&host(), id, processors(5, true));
            assert_eq!(find(&table, 1, 0).ebx >> 24, id);
            assert_eq!(find(&table, 0xb, 0).edx, id);
            assert_eq!(find(&table, 0xb, 1).eax, 3, "five cores need three bits");
            assert_eq!(find(&table, 0xb, 1).ebx, 5);
            assert!(!table.iter().any(|e| e.function == 0x1f));
        }
    }

    #[test]
    fn the_hypervisor_shows_itself_and_its_deadline_timer() {
        let leaf = find(&for_vcpu(&host(), 0, processors(1, true)), 1, 0);
        assert_eq!(leaf.ecx, HYPERVISOR | TSC_DEADLINE);
        let leaf = find(&for_vcpu(&host(), 0, processors(1, false)), 1, 0);
        assert_eq!(leaf.ecx, HYPERVISOR);
        assert_eq!(leaf.edx & HYPER_THREADING, 0);
    }
}
