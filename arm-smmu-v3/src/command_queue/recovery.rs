//! How far the hardware is, and getting it over commands that fail (7.1).

use iommu_core::{Culprit, DmaMemory, Error, ErrorKind, Platform, RawLock, Result};

use super::{CommandQueue, Condition, Part, QUEUE, State};
use crate::hardware::Hardware;
use crate::spec::commands::Command;
use crate::spec::registers::{CmdqCons, Gerror, cerror, offset};
use crate::sync::Ordering;

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// Looks after errors of the queue that nobody waits for. For the interrupt of global errors.
    pub(crate) fn check<P>(&self, hardware: &Hardware<P>)
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        if let Ok(mut state) = self.enter(hardware)
            && state.condition == Condition::Running
        {
            // What it finds is kept for whoever waits for the command.
            let _ = self.refresh(hardware, &mut state);
        }
    }

    /// Calls `with` under the lock that every write of `SMMU_GERRORN` is made under.
    ///
    /// # Errors
    ///
    /// As [`enter`](Self::enter): `with` was not called.
    pub(crate) fn with_gerrorn<P>(&self, hardware: &Hardware<P>, with: impl FnOnce()) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let _state = self.enter(hardware)?;
        with();
        Ok(())
    }

    /// Reads how far the hardware is, and recovers it from commands it refused (7.1). Returns the
    /// position that it has reached.
    pub(super) fn refresh<P>(&self, hardware: &Hardware<P>, state: &mut State) -> Result<u64>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let published = self.published.load(Ordering::Relaxed);
        let known = self.consumed.load(Ordering::Acquire);
        let mut cons = CmdqCons::from(hardware.read32(offset::CMDQ_CONS));
        // The reason stays after recovery: only the error being active makes it count. It may have
        // become active since the index was read; from then on the register stands still.
        let failed = cons.err() != cerror::NONE && self.error_is_active(hardware);
        if failed {
            cons = hardware.read32(offset::CMDQ_CONS).into();
        }
        let backlog = published.wrapping_sub(cons.rd().into()) & self.mask;
        let reserved = u32::from(cons) & CmdqCons::RESERVED;
        let beyond = u64::from(cons.rd()) > self.mask || backlog > published - known;
        if reserved != 0 || beyond {
            self.set_condition(state, Condition::Broken);
            return Err(Error::new(
                ErrorKind::Hardware,
                "the queue's consumer is where it cannot be",
            )
            .of(Culprit::Register {
                name: "SMMU_CMDQ_CONS",
                value: u32::from(cons).into(),
            }));
        }
        let reached = published - backlog;
        self.consumed.store(reached, Ordering::Release);
        if failed {
            self.recover(hardware, state, reached, cons.err())?;
        }
        Ok(reached)
    }

    fn error_is_active<P: Platform>(&self, hardware: &Hardware<P>) -> bool {
        let error = hardware.read32(offset::GERROR) ^ hardware.read32(offset::GERRORN);
        Gerror::from(error).cmdq()
    }

    /// Gets the hardware over the command at position `at`, which failed like that.
    fn recover<P>(&self, hardware: &Hardware<P>, state: &mut State, at: u64, how: u8) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        match how {
            cerror::ABT => {
                // The hardware cannot read the queue, and trying again would not change that.
                self.set_condition(state, Condition::Broken);
                return Err(
                    Error::new(ErrorKind::Hardware, "the SMMU cannot read its commands")
                        .of(self.culprit(at)),
                );
            }
            cerror::ATC_INV_SYNC => {
                let silent =
                    Error::new(ErrorKind::DeviceTimedOut, "a device's ATC does not answer")
                        .of(self.culprit(at));
                self.note(state, at, silent);
            }
            _ => {
                let refused = Error::new(ErrorKind::Hardware, "the SMMU refuses the command")
                    .of(self.culprit(at));
                log::error!("{refused}");
                if state.failures.within(at..at + 1).is_err() {
                    // What was put in its place is refused as well.
                    self.set_condition(state, Condition::Broken);
                    return Err(refused);
                }
                self.note(state, at, refused);
                self.doubt_posted(at);
                // The hardware starts again with the same slot: a command that cannot fail.
                self.put(at, Command::sync());
                self.clean(Part {
                    first: at,
                    end: at + 1,
                });
            }
        }
        self.entries.memory().write_barrier();
        let acknowledged = Gerror::from(hardware.read32(offset::GERRORN));
        let toggled = acknowledged.with_cmdq(!acknowledged.cmdq());
        hardware.write32(offset::GERRORN, toggled.into());
        Ok(())
    }

    /// Remembers a failure, before the hardware gets over it.
    fn note(&self, state: &mut State, at: u64, error: Error) {
        state.failures.push(at, error);
        self.failed.store(at + 1, Ordering::Relaxed);
    }

    pub(super) fn culprit(&self, position: u64) -> Culprit {
        #[expect(clippy::cast_possible_truncation, reason = "at most 19 bits")]
        let index = self.slot(position) as u32;
        Culprit::Command {
            queue: QUEUE,
            command: self.kind(position).name(),
            index,
        }
    }
}
