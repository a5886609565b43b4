//! The command queue (3.5, chapter 4): what the driver asks of the hardware.
//!
//! Positions count commands since the queue was made and never wrap, so that waiting for one needs
//! no care about indexes. The lock is held for a few register accesses at a time and never while
//! waiting: a waiter looks, lets go, and looks again.

use iommu_core::{Culprit, DmaBlock, DmaMemory, Error, ErrorKind, Platform, RawLock, Result};
use lock_api::Mutex;

use crate::hardware::Hardware;
use crate::spec::commands::{Command, SIZE};
use crate::spec::registers::{CmdqCons, Gerror, QueueBase, cerror, offset};

const QUEUE: &str = "command queue";

/// How many failed commands are remembered by position.
const REMEMBERED: usize = 16;

pub(crate) struct CommandQueue<M: DmaMemory, L: RawLock> {
    entries: DmaBlock<M>,
    log2: u32,
    state: Mutex<L, State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Off by [`CommandQueue::close`], with translation: there is nothing to invalidate.
    Closed,
    Running,
    /// Stopped in a way that nothing here can mend.
    Broken,
}

struct State {
    condition: Condition,
    produced: u64,
    consumed: u64,
    failures: Failures,
}

/// The latest failed commands, and from where on they are known.
struct Failures {
    latest: [Option<(u64, Error)>; REMEMBERED],
    next: usize,
    /// Failures at positions below this may have been forgotten.
    known_from: u64,
}

impl Failures {
    fn push(&mut self, position: u64, error: Error) {
        let forgotten = self.latest[self.next].replace((position, error));
        if let Some((position, _)) = forgotten {
            self.known_from = position + 1;
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    fn within(&self, from: u64, to: u64) -> Option<Error> {
        if from < self.known_from {
            return Some(Error::new(
                ErrorKind::Hardware,
                "more commands failed than could be kept apart; one of these may be among them",
            ));
        }
        let found = self
            .latest
            .iter()
            .flatten()
            .find(|(at, _)| (from..to).contains(at));
        found.map(|(_, error)| error.clone())
    }
}

impl<M: DmaMemory, L: RawLock> CommandQueue<M, L> {
    /// A queue of 2^`log2` commands (1 to 19), not enabled.
    pub(crate) fn new(memory: &M, log2: u8, output_bits: u32) -> Result<Self> {
        let size = SIZE << log2;
        let entries = DmaBlock::new(memory, size, size.max(32), QUEUE)?.below(output_bits)?;
        let failures = Failures {
            latest: [const { None }; REMEMBERED],
            next: 0,
            known_from: 0,
        };
        let state = State {
            condition: Condition::Closed,
            produced: 0,
            consumed: 0,
            failures,
        };
        Ok(Self {
            entries,
            log2: log2.into(),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn base(&self) -> QueueBase {
        #[expect(clippy::cast_possible_truncation, reason = "at most 19")]
        let log2 = self.log2 as u8;
        QueueBase::new()
            .with_log2size(log2)
            .with_addr((self.entries.addr().0 >> 5) & ((1 << 51) - 1))
            .with_allocate(true)
    }

    /// Lets commands be submitted: the hardware takes them from index 0 on.
    pub(crate) fn open(&self) {
        let mut state = self.state.lock();
        *state = State {
            condition: Condition::Running,
            produced: 0,
            consumed: 0,
            failures: Failures {
                latest: [const { None }; REMEMBERED],
                next: 0,
                known_from: 0,
            },
        };
    }

    /// From here on there is nothing to invalidate: translation is off, and that is confirmed.
    /// Commands succeed without reaching the hardware.
    pub(crate) fn close(&self) {
        self.state.lock().condition = Condition::Closed;
    }

    /// The memory stays allocated for good.
    pub(crate) fn leak(&self) {
        self.entries.leak();
    }

    /// Submits `commands`, a `CMD_SYNC` behind them, and waits until that has completed: every
    /// command then has, and the hardware acts on nothing that they invalidated.
    ///
    /// Commands beyond what the queue holds are submitted as room comes up.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::IommuTimedOut`]: no end within the bound; names the command it hangs at;
    /// - [`ErrorKind::DeviceTimedOut`]: a device's cache did not answer; the rest was done;
    /// - [`ErrorKind::Hardware`]: the hardware refused one of the commands, could not read the
    ///   queue, or reports a position that cannot be.
    pub(crate) fn run<P>(
        &self,
        hardware: &Hardware<P>,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let mut commands = commands.into_iter().chain([Command::sync()]).peekable();
        let mut first = None;
        let mut end = 0;
        while commands.peek().is_some() {
            let room = self.wait(hardware, |state| self.room(state) > 0)?;
            let Some(mut state) = room else { return Ok(()) };
            first.get_or_insert(state.produced);
            for _ in 0..self.room(&state) {
                let Some(command) = commands.next() else {
                    break;
                };
                self.put(state.produced, command);
                state.produced += 1;
            }
            end = state.produced;
            self.entries.memory().write_barrier();
            hardware.write32(offset::CMDQ_PROD, self.register(state.produced));
        }
        let Some(state) = self.wait(hardware, |state| state.consumed >= end)? else {
            return Ok(());
        };
        match state.failures.within(first.unwrap_or(end), end) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

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

    /// Waits until `done`, and returns the state still locked; `None` where the queue is closed.
    fn wait<P>(
        &self,
        hardware: &Hardware<P>,
        done: impl Fn(&State) -> bool,
    ) -> Result<Option<lock_api::MutexGuard<'_, L, State>>>
    where
        P: Platform<Memory = M, IrqLock = L>,
    {
        let seen = hardware.poll(|| {
            let mut state = self.state.lock();
            match state.condition {
                Condition::Closed => return Some(Ok(None)),
                Condition::Broken => return Some(Err(broken())),
                Condition::Running => {}
            }
            if !done(&state)
                && let Err(error) = self.refresh(hardware, &mut state)
            {
                return Some(Err(error));
            }
            done(&state).then_some(Ok(Some(state)))
        });
        seen.unwrap_or_else(|| {
            let at = self.state.lock().consumed;
            Err(Error::new(
                ErrorKind::IommuTimedOut,
                "the SMMU does not get past this command",
            )
            .of(self.culprit(at)))
        })
    }

    /// Reads how far the hardware is, and recovers it from commands it refused (7.1).
    fn refresh<P>(&self, hardware: &Hardware<P>, state: &mut State) -> Result
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
        let mask = (2 << self.log2) - 1;
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
                if state.failures.within(at, at + 1).is_some() {
                    // What was put in its place is refused as well.
                    state.condition = Condition::Broken;
                    return Err(refused);
                }
                state.failures.push(at, refused);
                // The hardware starts again with the same slot: a command that cannot fail.
                self.put(at, Command::sync());
                self.entries.memory().write_barrier();
            }
        }
        let acknowledged = Gerror::from(hardware.read32(offset::GERRORN));
        let toggled = acknowledged.with_cmdq(!acknowledged.cmdq());
        hardware.write32(offset::GERRORN, toggled.into());
        Ok(())
    }

    fn room(&self, state: &State) -> u64 {
        (1 << self.log2) - (state.produced - state.consumed)
    }

    /// Index and wrap bit of a position, as the registers have them.
    fn register(&self, position: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 20 bits")]
        let register = (position & ((2 << self.log2) - 1)) as u32;
        register
    }

    fn slot(&self, position: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 19 bits")]
        let slot = (position & ((1 << self.log2) - 1)) as usize;
        slot
    }

    fn put(&self, position: u64, Command(words): Command) {
        let at = self.slot(position) * 2;
        self.entries.store(at, words[0]);
        self.entries.store(at + 1, words[1]);
    }

    fn culprit(&self, position: u64) -> Culprit {
        let slot = self.slot(position);
        let command = Command([self.entries.load(slot * 2), 0]).name();
        #[expect(clippy::cast_possible_truncation, reason = "at most 19 bits")]
        let index = slot as u32;
        Culprit::Command {
            queue: QUEUE,
            command,
            index,
        }
    }
}

fn broken() -> Error {
    Error::new(
        ErrorKind::IommuTimedOut,
        "the command queue has stopped for good",
    )
}
