//! How far the hardware is, and getting it over errors (6.5.2.11).

use iommu_core::{Culprit, DmaMemory, Error, ErrorKind, Platform, RawLock};
use iommu_core::{RegisterBank, Result, StreamId};

use super::{Condition, Queue, Refused, State};
use crate::spec::{self, Descriptor, Fsts, Iqercd};
use crate::unit::Unit;

/// Why the hardware refused what is not one descriptor's fault (11.4.9.9): the tail is not one, the
/// queue cannot be read, the tail is not aligned.
const NOT_A_DESCRIPTOR: [u8; 3] = [1, 2, 6];

impl<M: DmaMemory, L: RawLock> Queue<M, L> {
    /// Reads how far the hardware is.
    pub(super) fn refresh<P>(&self, unit: &Unit<P>, state: &mut State) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        self.look_after(unit, state)?;
        self.read_head(unit, state)
    }

    fn read_head<P>(&self, unit: &Unit<P>, state: &mut State) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let head = unit.bank().read64(spec::IQH);
        let size = self.width as u64 * 8;
        let advance = (head / size).wrapping_sub(state.consumed) & (self.capacity - 1);
        let beyond = head / size >= self.capacity || advance > state.produced - state.consumed;
        if !head.is_multiple_of(size) || beyond {
            state.condition = Condition::Broken;
            return Err(Error::new(
                ErrorKind::Hardware,
                "the invalidation queue's head is where it cannot be",
            )
            .of(Culprit::Register {
                name: "IQH_REG",
                value: head,
            }));
        }
        state.consumed += advance;
        Ok(())
    }

    /// Recovers the hardware from the errors that it reports.
    pub(super) fn look_after<P>(&self, unit: &Unit<P>, state: &mut State) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let bank = unit.bank();
        let errors = Fsts::from_bits(bank.read32(spec::FSTS));
        if !errors.iqe() && !errors.ite() && !errors.ice() {
            return Ok(());
        }
        let record = Iqercd::from_bits(bank.read64(spec::IQERCD));
        let mut handled = Fsts::new();
        if errors.ice() {
            // An answer that nobody asked for: the hardware goes on (6.5.2.11).
            log::warn!(
                "device {:#06x} answered an invalidation wrongly",
                record.icesid()
            );
            handled.set_ice(true);
        }
        if errors.ite() {
            state.aborted = state.produced;
            state.silent = Culprit::Stream(StreamId(record.itesid().into()));
            log::error!(
                "device {:#06x} did not answer an invalidation",
                record.itesid()
            );
            handled.set_ite(true);
        }
        if errors.iqe() {
            self.replace_refused(unit, state, record)?;
            handled.set_iqe(true);
        }
        bank.write32(spec::FSTS, handled.into_bits());
        // Some hardware looks at the queue again only when it is told to.
        self.ring(unit, state);
        Ok(())
    }

    /// Puts something that cannot be refused where the hardware stopped.
    fn replace_refused<P>(&self, unit: &Unit<P>, state: &mut State, record: Iqercd) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        self.read_head(unit, state)?;
        let at = state.consumed;
        let refused = Error::new(ErrorKind::Hardware, "the hardware refuses the descriptor")
            .of(self.culprit(at));
        log::error!("{refused}, reason {}", record.iqei());
        let again = state.refused.as_ref().is_some_and(|last| last.last == at);
        if again || at == state.produced || NOT_A_DESCRIPTOR.contains(&record.iqei()) {
            state.condition = Condition::Broken;
            return Err(refused);
        }
        // Somebody may still be waiting for what was refused earlier, and for what lies between.
        let first = state.refused.as_ref().map_or(at, |earlier| earlier.first);
        state.refused = Some(Refused {
            first,
            last: at,
            error: refused,
        });
        self.put(at, Descriptor::wait(self.nobodys_status(), 0));
        unit.publish();
        Ok(())
    }
}
