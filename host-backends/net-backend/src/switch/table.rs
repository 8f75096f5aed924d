//! Which station is behind which port: the addresses a switch has learned.
//!
//! Rule: the table has a fixed size, and for room in it a port displaces only what it brought itself, so that a guest that
//! invents addresses makes nobody's forgotten. A station that is heard of at another port is moved there; whether that
//! port may have it at all is decided before, in `claims`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::MacAddress;

/// Entries per set: the keys fill a cache line.
const WAYS: usize = 8;
/// Sets; 8192 entries in all.
const SETS: usize = 1024;
/// Most entries of a set that one port can have.
const WAYS_PER_PORT: usize = 3;
/// Seconds after which a station that was not heard of is forgotten (IEEE 802.1Q: 300).
pub(crate) const AGE: u32 = 300;

/// An address, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address(u64);

impl Address {
    /// No station's.
    pub const ZERO: Self = Self(0);

    #[inline]
    pub fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// Whether a station can have it.
    pub fn is_station(self) -> bool {
        !self.is_group() && self != Self::ZERO
    }

    /// Whether it is a group's, the broadcast address among them.
    #[inline]
    pub fn is_group(self) -> bool {
        self.0 >> 40 & 1 != 0
    }

    /// A place in a small cache of `places`.
    #[inline]
    pub fn slot(self, places: usize) -> usize {
        (self.0 ^ self.0 >> 8) as usize % places
    }
}

impl From<Address> for MacAddress {
    fn from(address: Address) -> Self {
        let [_, _, a, b, c, d, e, f] = address.0.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

/// The keys of a set: address and port, 0 if empty.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// The table. Readers and writers use it at once without a lock; the worst that a race does is that a frame is flooded or
/// an address learned with the next one.
#[derive(Debug)]
pub(crate) struct Table {
    seed: u64,
    sets: Box<[Set]>,
    /// When each entry was last heard of, in seconds; apart, so that the keys' cache lines stay shared.
    heard: Box<[[AtomicU32; WAYS]]>,
    changes: AtomicU32,
}

impl Table {
    pub fn new() -> Self {
        Self {
            // Nobody can choose addresses that all fall into one set.
            seed: RandomState::new().hash_one(0_u8) | 1,
            sets: (0..SETS).map(|_| Set::default()).collect(),
            heard: (0..SETS).map(|_| Default::default()).collect(),
            changes: AtomicU32::new(0),
        }
    }

    /// How often a station was added, moved or removed; a cache of answers is good while this stays.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    #[inline]
    fn set(&self, address: Address) -> Option<(&Set, &[AtomicU32; WAYS])> {
        let at = set_of(address, self.seed);
        Some((self.sets.get(at)?, self.heard.get(at)?))
    }

    /// The port behind which `address` is.
    #[inline]
    pub fn port(&self, address: Address, now: u32) -> Option<u16> {
        let (Set(keys), heard) = self.set(address)?;
        for (key, heard) in keys.iter().zip(heard) {
            let key = key.load(Ordering::Relaxed);
            if key >> 16 == address.0 && key != 0 {
                let fresh = now.wrapping_sub(heard.load(Ordering::Relaxed)) <= AGE;
                return fresh.then_some(port_of(key));
            }
        }
        None
    }

    /// A frame from `address` came in at `port`.
    pub fn learn(&self, address: Address, port: u16, now: u32) {
        if !address.is_station() {
            return;
        }
        let Some((Set(keys), heard)) = self.set(address) else {
            return;
        };
        let wanted = key(address, port);
        let mut free = None;
        let mut own = (0, None, 0);
        for (way, (place, heard)) in keys.iter().zip(heard).enumerate() {
            let held = place.load(Ordering::Relaxed);
            let age = now.wrapping_sub(heard.load(Ordering::Relaxed));
            if held != 0 && held >> 16 == address.0 {
                if held != wanted {
                    place.store(wanted, Ordering::Relaxed);
                    self.changes.fetch_add(1, Ordering::Release);
                }
                heard.store(now, Ordering::Relaxed);
                return;
            }
            if held == 0 || age > AGE {
                free = free.or(Some(way));
            } else if port_of(held) == port {
                own.0 += 1;
                if own.1.is_none() || age > own.2 {
                    (own.1, own.2) = (Some(way), age);
                }
            }
        }
        let way = if own.0 >= WAYS_PER_PORT {
            own.1
        } else {
            free.or(own.1)
        };
        let Some(way) = way else {
            return;
        };
        if let (Some(place), Some(heard)) = (keys.get(way), heard.get(way)) {
            heard.store(now, Ordering::Relaxed);
            place.store(wanted, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    /// Forgets what is behind `port`.
    pub fn forget(&self, port: u16) {
        for Set(keys) in &self.sets {
            for place in keys {
                let held = place.load(Ordering::Relaxed);
                if held != 0 && port_of(held) == port {
                    place.store(0, Ordering::Relaxed);
                }
            }
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Addresses known.
    pub fn len(&self) -> usize {
        let keys = self.sets.iter().flat_map(|Set(keys)| keys);
        keys.filter(|key| key.load(Ordering::Relaxed) != 0).count()
    }
}

/// Spreads addresses over the sets. The factor is fixed: one that is drawn by chance puts neighbouring addresses into a
/// few sets now and then. What a guest cannot foresee is the seed.
#[inline]
fn set_of(address: Address, seed: u64) -> usize {
    const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;
    let mixed = address.0 ^ seed;
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(FACTOR);
    (mixed >> 32) as usize % SETS
}

#[inline]
fn key(address: Address, port: u16) -> u64 {
    // Ports are below 0xffff, so no key is 0.
    (address.0 << 16) | (u64::from(port) + 1)
}

#[inline]
fn port_of(key: u64) -> u16 {
    (key & 0xffff) as u16 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(number: u32) -> Address {
        let [a, b, c, d] = number.to_be_bytes();
        Address::new([2, 0, a, b, c, d])
    }

    #[test]
    fn stations_are_learned_moved_and_forgotten() {
        let table = Table::new();
        assert_eq!(table.port(station(1), 0), None);
        table.learn(station(1), 3, 10);
        assert_eq!(table.port(station(1), 10), Some(3));
        let before = table.changes();
        table.learn(station(1), 3, 20);
        assert_eq!(table.changes(), before, "nothing new");
        table.learn(station(1), 4, 20);
        assert_eq!(table.port(station(1), 20), Some(4));
        assert_ne!(table.changes(), before);
        assert_eq!(table.port(station(1), 20 + AGE), Some(4));
        assert_eq!(table.port(station(1), 21 + AGE), None, "too old");
        table.forget(4);
        assert_eq!((table.port(station(1), 20), table.len()), (None, 0));
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        let table = Table::new();
        for address in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
            table.learn(Address::new(address), 1, 0);
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn neighbouring_addresses_find_room_whatever_the_seed() {
        for _ in 0..1000 {
            let table = Table::new();
            for number in 0..256 {
                table.learn(station(number), 1, 0);
            }
            assert!(table.len() > 250, "{} with {:#x}", table.len(), table.seed);
        }
    }

    #[test]
    fn a_flood_of_addresses_displaces_nobody_elses() {
        let table = Table::new();
        for number in 0..256 {
            table.learn(station(number), 1, 0);
        }
        let known = |table: &Table| {
            (0..256)
                .filter(|number| table.port(station(*number), 1) == Some(1))
                .count()
        };
        let before = known(&table);
        assert!(before > 250, "{before}");
        for number in 0..200_000 {
            table.learn(station(0x100_0000 + number), 2, 1);
        }
        assert_eq!(known(&table), before, "what was known stays known");
        assert!(table.len() <= SETS * WAYS);
        for number in 0..256 {
            table.learn(station(0x8000 + number), 3, 1);
        }
        let later = (0..256).filter(|number| table.port(station(0x8000 + number), 1) == Some(3));
        assert!(later.count() > 250, "and there is room for others");
    }
}
