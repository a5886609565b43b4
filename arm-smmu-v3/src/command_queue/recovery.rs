//! How far the hardware is, and getting it over commands that fail (7.1).

use iommu_core::{Culprit, DmaMemory, Error, ErrorKind, Platform, RawLock, Result};

use super::{CommandQueue, Condition, QUEUE, State};
use crate::hardware::Hardware;
use crate::spec::commands::{Command, SIZE};
use crate::spec::registers::{CmdqCons, Gerror, cerror, offset};

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// Looks after errors of the queue that nobody waits for. For the interrupt of global errors.
    pub(crate) fn check<P>(&self, hardware: &Hardware<P>)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut state = self.state.lock();
        if state.condition == Condition::Running {
            // What it finds is kept for whoever waits for the command.
            let _ = self.refresh(hardware, &mut state);
        }
    }

    /// Calls `with` under the lock that every write of `SMMU_GERRORN` is made under.
    pub(crate) fn with_gerrorn<T>(&self, with: impl FnOnce() -> T) -> T {
        let _state = self.state.lock();
        with()
    }

    /// Reads how far the hardware is, and recovers it from commands it refused (7.1).
    pub(super) fn refresh<P>(&self, hardware: &Hardware<P>, state: &mut State) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut cons = CmdqCons::from(hardware.read32(offset::CMDQ_CONS));
        // The reason stays after recovery: only the error being active makes it count. It may have
        // become active since the index was read; from then on the register stands still.
        let failed = cons.err() != cerror::NONE && self.error_is_active(hardware);
        if failed {
            cons = hardware.read32(offset::CMDQ_CONS).into();
        }
        let mask = 2 * self.capacity - 1;
        let advance = (u64::from(cons.rd()).wrapping_sub(state.consumed)) & mask;
        let reserved = u32::from(cons) & CmdqCons::RESERVED;
        let beyond = u64::from(cons.rd()) > mask || advance > state.produced - state.consumed;
        if reserved != 0 || beyond {
            state.condition = Condition::Broken;
            return Err(Error::new(
                ErrorKind::Hardware,
                "the queue's consumer is where it cannot be",
            )
            .of(Culprit::Register {
                name: "SMMU_CMDQ_CONS",
                value: u32::from(cons).into(),
            }));
        }
        state.consumed += advance;
        if failed {
            self.recover(hardware, state, cons)
        } else {
            Ok(())
        }
    }

    fn error_is_active<P: Platform>(&self, hardware: &Hardware<P>) -> bool {
        let error = hardware.read32(offset::GERROR) ^ hardware.read32(offset::GERRORN);
        Gerror::from(error).cmdq()
    }

    fn recover<P>(&self, hardware: &Hardware<P>, state: &mut State, cons: CmdqCons) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let at = state.consumed;
        match cons.err() {
            cerror::ABT => {
                // The hardware cannot read the queue, and trying again would not change that.
                state.condition = Condition::Broken;
                return Err(
                    Error::new(ErrorKind::Hardware, "the SMMU cannot read its commands")
                        .of(self.culprit(at)),
                );
            }
            cerror::ATC_INV_SYNC => state.failures.push(
                at,
                Error::new(ErrorKind::DeviceTimedOut, "a device's ATC does not answer")
                    .of(self.culprit(at)),
            ),
            _ => {
                let refused = Error::new(ErrorKind::Hardware, "the SMMU refuses the command")
                    .of(self.culprit(at));
                log::error!("{refused}");
                if state.failures.within(at..at + 1).is_err() {
                    // What was put in its place is refused as well.
                    state.condition = Condition::Broken;
                    return Err(refused);
                }
                state.failures.push(at, refused);
                self.doubt_posted(at);
                // The hardware starts again with the same slot: a command that cannot fail.
                self.put(at, Command::sync());
                self.clean(at, at + 1);
                self.entries.memory().write_barrier();
            }
        }
        let acknowledged = Gerror::from(hardware.read32(offset::GERRORN));
        let toggled = acknowledged.with_cmdq(!acknowledged.cmdq());
        hardware.write32(offset::GERRORN, toggled.into());
        Ok(())
    }

    pub(super) fn culprit(&self, position: u64) -> Culprit {
        let slot = self.slot(position);
        let command = Command([self.entries.load(slot * SIZE / 8), 0]).name();
        #[expect(clippy::cast_possible_truncation, reason = "at most 19 bits")]
        let index = slot as u32;
        Culprit::Command {
            queue: QUEUE,
            command,
            index,
        }
    }
}
