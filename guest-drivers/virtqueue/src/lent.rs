//! What the driver half remembers of the chains it lent to the device, by id.
//!
//! One rule: private memory; an id from the device means nothing until it was looked up here.

use alloc::vec::Vec;

use fallible_alloc::FallibleVec;
use fallible_alloc::OutOfMemory;

use crate::chain::Segment;
use crate::error::AddError;
use crate::error::RingError;
use crate::index;

const CHAIN_BYTES_MAX: u64 = 1 << 32;

/// One lent chain. `descriptors == 0` means the id is free.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loan {
    /// Ring descriptors the chain occupies.
    pub(crate) descriptors: u16,
    /// Count of chains added before it, wrapping.
    pub(crate) sequence: u16,
    /// Split: its last descriptor.
    pub(crate) last: u16,
    /// Bytes the device may write.
    pub(crate) writable: u32,
}

/// All chains lent and the counts of added, published and returned ones, which wrap.
#[derive(Debug)]
pub(crate) struct Lent {
    loans: Vec<Loan>,
    pub(crate) added: u16,
    pub(crate) published: u16,
    pub(crate) returned: u16,
    pub(crate) overruns: u64,
}

impl Lent {
    pub(crate) fn new(size: u16) -> Result<Self, OutOfMemory> {
        Ok(Self {
            loans: Vec::filled(size.into(), |_| Loan::default())?,
            added: 0,
            published: 0,
            returned: 0,
            overruns: 0,
        })
    }

    /// Lends `id`, not yet published.
    #[inline]
    pub(crate) fn lend(&mut self, id: u16, descriptors: u16, last: u16, writable: u32) {
        if let Some(loan) = self.loans.get_mut(usize::from(id)) {
            *loan = Loan {
                descriptors,
                sequence: self.added,
                last,
                writable,
            };
            self.added = self.added.wrapping_add(1);
        }
    }

    /// The loan of an id the device returned: in range, lent, and published.
    #[inline]
    pub(crate) fn check(&self, id: u32) -> Result<(u16, Loan), RingError> {
        let short = u16::try_from(id).map_err(|_| RingError::IdOutOfRange)?;
        let loan = *self
            .loans
            .get(usize::from(short))
            .ok_or(RingError::IdOutOfRange)?;
        let unpublished = index::distance(self.published, self.added);
        if loan.descriptors == 0 || index::within(loan.sequence, self.published, unpublished) {
            return Err(RingError::NotInFlight);
        }
        Ok((short, loan))
    }

    /// Takes `id` back; its loan passed [`Lent::check`].
    #[inline]
    pub(crate) fn give_back(&mut self, id: u16) {
        if let Some(loan) = self.loans.get_mut(usize::from(id)) {
            loan.descriptors = 0;
            self.returned = self.returned.wrapping_add(1);
        }
    }

    /// What the device says it wrote, cut to what it may write.
    #[inline]
    pub(crate) fn clamp(&mut self, loan: &Loan, written: u32) -> u32 {
        if written > loan.writable {
            self.overruns += 1;
        }
        written.min(loan.writable)
    }

    /// Chains lent and published.
    #[inline]
    pub(crate) fn with_device(&self) -> u16 {
        index::distance(self.returned, self.published)
    }

    /// Chains lent.
    #[inline]
    pub(crate) fn lent(&self) -> u16 {
        index::distance(self.returned, self.added)
    }

    /// Hands every lent id to `reclaim` and forgets them.
    pub(crate) fn reclaim(&mut self, mut reclaim: impl FnMut(u16)) {
        for (id, loan) in (0..).zip(self.loans.iter_mut()) {
            if loan.descriptors != 0 {
                reclaim(id);
            }
            *loan = Loan::default();
        }
        self.added = 0;
        self.published = 0;
        self.returned = 0;
    }
}

/// Checks a chain to be added; returns its segment count and its writable bytes.
#[inline]
pub(crate) fn measure(
    readable: &[Segment],
    writable: &[Segment],
    size: u16,
) -> Result<(u16, u32), AddError> {
    let count = readable.len() + writable.len();
    if count == 0 {
        return Err(AddError::Empty);
    }
    let count = u16::try_from(count).map_err(|_| AddError::TooLong)?;
    if count > size {
        return Err(AddError::TooLong);
    }
    let (mut total, mut writable_bytes) = (0_u64, 0_u64);
    for segment in readable {
        if segment.len == 0 {
            return Err(AddError::ZeroLength);
        }
        total += u64::from(segment.len);
    }
    for segment in writable {
        if segment.len == 0 {
            return Err(AddError::ZeroLength);
        }
        writable_bytes += u64::from(segment.len);
    }
    if total + writable_bytes > CHAIN_BYTES_MAX {
        return Err(AddError::TooLarge);
    }
    Ok((count, u32::try_from(writable_bytes).unwrap_or(u32::MAX)))
}
