//! What tests want to know about a model, and to break in it.

use super::registers::AckRegister;
use super::{CommandHook, Order, Outcome, SmmuModel};
use crate::chance::Chance;

impl SmmuModel {
    /// The commands consumed since [`clear_commands`](Self::clear_commands).
    #[must_use]
    pub fn commands(&self) -> Vec<[u64; 2]> {
        self.state().commands.log.clone()
    }

    /// Forgets the commands, the number of CMD_SYNC and the largest batch.
    pub fn clear_commands(&self) {
        let commands = &mut self.state().commands;
        commands.log.clear();
        (commands.syncs, commands.max_batch) = (0, 0);
    }

    /// The number of CMD_SYNC completed since [`clear_commands`](Self::clear_commands).
    #[must_use]
    pub fn syncs(&self) -> usize {
        self.state().commands.syncs
    }

    /// The largest number of commands consumed at one go since
    /// [`clear_commands`](Self::clear_commands).
    #[must_use]
    pub fn max_batch(&self) -> usize {
        self.state().commands.max_batch
    }

    /// Withholds an acknowledgement, and with it the effect of what is written; or no more.
    pub fn stick_ack(&self, register: AckRegister, stuck: bool) {
        let mut state = self.state();
        state.regs.stuck[register as usize] = stuck;
        if !stuck {
            state.acknowledge(register);
        }
        self.consume(state);
    }

    /// Lets an acknowledgement, and the effect of what is written, come after this many reads of it
    /// that see nothing of the change;
    /// [`ModelConfig::slow_acks`](super::ModelConfig::slow_acks) until then: one or none.
    pub fn delay_ack(&self, register: AckRegister, reads: usize) {
        self.state().regs.delay[register as usize] = reads;
    }

    /// Stops consuming commands, or consumes those that have piled up.
    pub fn freeze_commands(&self, frozen: bool) {
        let mut state = self.state();
        state.commands.frozen = frozen;
        self.consume(state);
    }

    /// Takes one command for illegal: the `n`-th from this call on, counting from 0.
    pub fn fail_command(&self, n: usize) {
        self.state().commands.fail_in = Some(n);
    }

    /// Consumes commands whose opcode `ignore` picks without invalidating anything. `ignore` must not
    /// use the model.
    pub fn ignore_command(&self, ignore: Box<dyn Fn(u8) -> bool + Send>) {
        self.state().commands.ignore = Some(ignore);
    }

    /// Lets a stream's device answer no ATC invalidation: the next CMD_SYNC after one fails with
    /// CERROR_ATC_INV_SYNC, and what other devices were asked for since the last CMD_SYNC is lost
    /// with it, as it may be (4.7.3). Or lets it answer again.
    pub fn kill_atc(&self, stream: u32, dead: bool) {
        let dead_atcs = &mut self.state().commands.dead_atcs;
        if dead {
            dead_atcs.insert(stream);
        } else {
            dead_atcs.remove(&stream);
        }
    }

    /// Puts a record of any content into the event queue, if that is writable.
    pub fn post_raw_event(&self, event: [u64; 4]) {
        self.state().record(event);
    }

    /// Activates the global errors of these bits of `SMMU_GERROR`.
    pub fn set_gerror(&self, bits: u32) {
        let regs = &mut self.state().regs;
        for bit in (0..32).map(|at| 1 << at).filter(|bit| bits & bit != 0) {
            regs.activate(bit);
        }
    }

    /// What became of the stalled transaction of this tag; `None` while it waits. Told once.
    #[must_use]
    pub fn resumed(&self, tag: u16) -> Option<Outcome> {
        self.state().stalls.done.remove(&tag)
    }

    /// Sets when invalidations are done; [`ModelConfig::order`](super::ModelConfig::order) until then.
    pub fn set_order(&self, order: Order) {
        let mut state = self.state();
        state.drain();
        state.config.order = order;
        self.consume(state);
    }

    /// Begins a new sequence of chance; [`ModelConfig::seed`](super::ModelConfig::seed) until then.
    pub fn set_seed(&self, seed: u64) {
        self.state().chance = Chance::new(seed);
    }

    /// Sets whether words of entries are cached one by one;
    /// [`ModelConfig::partial`](super::ModelConfig::partial) until then.
    pub fn set_partial(&self, partial: bool) {
        self.state().config.partial = partial;
    }

    /// Sets how long commands lie in the queue; [`ModelConfig::lag`](super::ModelConfig::lag) until
    /// then. What lies there is consumed after the old lag.
    pub fn set_lag(&self, reads: usize) {
        self.state().config.lag = reads;
    }

    /// Lets the hardware fetch one thing that was of use before, a translation or the configuration
    /// of a stream, as it may at any time. The seed decides which.
    ///
    /// Called from a store hook of the memory, it fetches between any two stores of software.
    pub fn prefetch(&self) {
        self.state().prefetch();
    }

    /// Sets what is called after each command that was consumed: CMDQ_CONS has passed it, and the
    /// next one was not looked at. With the store hook of the memory, which is called after each
    /// store, a test can so look at every state that hardware and software go through.
    ///
    /// The hook may use the model in any way, access registers among them; commands that it
    /// submits are consumed after it has returned. While it runs, accesses of other threads to
    /// registers return without waiting for commands to be consumed.
    pub fn set_command_hook(&self, hook: Option<CommandHook>) {
        self.state().hook = hook;
    }

    /// How often software waited for commands since [`clear_waits`](Self::clear_waits).
    ///
    /// A wait is a run of reads of `SMMU_CMDQ_CONS`, with no write of a register between them, that
    /// begins while there is a CMD_SYNC that `SMMU_CMDQ_CONS` has not shown as consumed. One read is
    /// enough, also where the queue is consumed at once: software had to look. A wait whose CMD_SYNC
    /// is never consumed counts too. Waiting for several CMD_SYNCs in one run counts once, and so
    /// does a look for free room after a CMD_SYNC that nobody has waited for.
    ///
    /// What software reads in memory is not seen: the CMD_SYNCs that signal by message count as one
    /// wait for each write of `SMMU_CMDQ_PROD` that published any, when the first message is sent.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.state().waits.count
    }

    /// Counts waits from 0 again. To look whether a CMD_SYNC is done that is done by now is none.
    pub fn clear_waits(&self) {
        self.state().clear_waits();
    }
}
