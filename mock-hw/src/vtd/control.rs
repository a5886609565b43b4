//! What tests want to know about a model, and to break in it.

use super::faults::ICE;
use super::{DescriptorHook, Handshake, Order, VtdModel};
use crate::chance::Chance;

impl VtdModel {
    /// The descriptors consumed since [`clear_descriptors`](Self::clear_descriptors). Those of 128
    /// bits end in two words that are 0.
    #[must_use]
    pub fn descriptors(&self) -> Vec<[u64; 4]> {
        self.state().queue.log.clone()
    }

    /// Forgets the descriptors, and the number of wait descriptors.
    pub fn clear_descriptors(&self) {
        let queue = &mut self.state().queue;
        queue.log.clear();
        queue.waits = 0;
    }

    /// The number of wait descriptors completed since
    /// [`clear_descriptors`](Self::clear_descriptors).
    #[must_use]
    pub fn waits(&self) -> usize {
        self.state().queue.waits
    }

    /// The messages that fault events and wait descriptors sent: address and data.
    #[must_use]
    pub fn messages(&self) -> Vec<(u64, u32)> {
        self.state().faults.messages.clone()
    }

    /// Sets what is called after each descriptor that was consumed: IQH has passed it, and the next
    /// one was not looked at. With the store hook of the memory, which is called after each store,
    /// a test can so look at every state that hardware and software go through.
    ///
    /// The hook may use the model in any way, access registers among them; descriptors that it
    /// submits are consumed after it has returned.
    pub fn on_descriptor(&self, hook: Option<DescriptorHook>) {
        self.state().hook = hook;
    }

    /// Withholds an acknowledgement, and with it the effect of what is commanded; or no more.
    pub fn stick(&self, handshake: Handshake, stuck: bool) {
        let mut state = self.state();
        let all = &mut state.global.stuck;
        all.retain(|of| *of != handshake);
        if stuck {
            all.push(handshake);
        } else {
            state.acknowledge();
            state.complete_registers();
            state.settle_pmen();
        }
        self.consume(state);
    }

    /// Stops consuming descriptors, or consumes those that have piled up.
    pub fn freeze_queue(&self, frozen: bool) {
        let mut state = self.state();
        state.queue.frozen = frozen;
        self.consume(state);
    }

    /// Lets wait descriptors complete without writing their status, or no more.
    pub fn drop_status_writes(&self, dropped: bool) {
        self.state().queue.drops_status = dropped;
    }

    /// Takes one descriptor for one of a type that there is not: the `n`-th from this call on,
    /// counting from 0.
    pub fn fail_descriptor(&self, n: usize) {
        self.state().queue.fail_in = Some(n);
    }

    /// Consumes descriptors whose type `ignore` picks without invalidating anything. `ignore` must
    /// not use the model.
    pub fn ignore_descriptor(&self, ignore: Box<dyn Fn(u64) -> bool + Send>) {
        self.state().queue.ignore = Some(ignore);
    }

    /// Lets a source answer no invalidation of its translation cache: the next wait descriptor
    /// after one is aborted with `FSTS.ITE`, and the queue stops. Or lets it answer again.
    pub fn kill_device_tlb(&self, source: u16, dead: bool) {
        let devices = &mut self.state().queue.dead_devices;
        if dead {
            devices.insert(source);
        } else {
            devices.remove(&source);
        }
    }

    /// Lets a source answer an invalidation that nobody asked for: `FSTS.ICE`, and the queue stops.
    pub fn raise_completion_error(&self, source: u16) {
        let mut state = self.state();
        state.queue.error = u64::from(source) << 48;
        state.faults.raise_error(ICE);
    }

    /// Sets when invalidations are done; [`VtdConfig::order`](super::VtdConfig::order) until then.
    pub fn set_order(&self, order: Order) {
        let mut state = self.state();
        state.drain();
        state.config.order = order;
        self.consume(state);
    }

    /// Begins a new sequence of chance; [`VtdConfig::seed`](super::VtdConfig::seed) until then.
    pub fn set_seed(&self, seed: u64) {
        self.state().chance = Chance::new(seed);
    }

    /// Sets whether words of entries are cached one by one;
    /// [`VtdConfig::partial`](super::VtdConfig::partial) until then.
    pub fn set_partial(&self, partial: bool) {
        self.state().config.partial = partial;
    }

    /// Sets how long descriptors lie in the queue; [`VtdConfig::lag`](super::VtdConfig::lag) until
    /// then. What lies there is consumed after the old lag.
    pub fn set_lag(&self, reads: usize) {
        self.state().config.lag = reads;
    }

    /// Lets the hardware translate one page once more that was asked for before, as it may at any
    /// time. The seed decides which.
    ///
    /// Called from a store hook of the memory, it fetches between any two stores of software.
    pub fn prefetch(&self) {
        self.state().prefetch();
    }
}
