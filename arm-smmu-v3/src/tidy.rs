//! Entries that abort, made ready for the domain that comes next.

use iommu_core::entry::Store;
use iommu_core::{Atomicity, DmaMemory, Member, Platform};

use crate::smmu::Inner;
use crate::spec::commands::Command;
use crate::spec::ste::{Ste, WORDS, Word1};
use crate::stream_table::StreamEntry;
use crate::write::DeviceState;

impl<P: Platform> Inner<P> {
    /// Empties the entries of members that have landed on the blocked domain, where a stage-2 domain
    /// left its tag and its table in them: stage 1 uses the tag too, and the next attach would have
    /// to clear it, and wait, before anything else. An entry that aborts ignores all of that.
    ///
    /// Does not wait: whoever changes the entries next makes sure that it has been done with.
    pub(crate) fn tidy(&self, members: &mut [Member]) {
        let unused = self.streams.unused().to_words();
        let atomicity = self.hardware.platform.memory().atomicity();
        let at_rest = |member: &&mut Member| member.attached().is(&self.blocked);
        let states = members.iter_mut().filter(at_rest);
        let states = states.filter_map(Member::state_and_streams::<DeviceState<P>>);
        let entries = states.flat_map(|(state, streams)| state.entries(streams));
        let tidied = entries.filter(|entry| self.empty(entry, &unused, atomicity));
        let invalidations = tidied.map(|entry| Command::cfgi_ste(entry.id(), true));
        self.commands.post(&self.hardware, invalidations);
    }

    /// Empties one entry; returns whether there was something in it.
    fn empty(
        &self,
        entry: &StreamEntry<P::Memory>,
        unused: &[u64; WORDS],
        atomicity: Atomicity,
    ) -> bool {
        let live = entry.read();
        if live[2..] == unused[2..] || !self.abort.is(&live) {
            return false;
        }
        // A device that has had ATS will have it again.
        let eats = Ste::from_words(live).word1.eats();
        let word1 = Word1::from_bits(unused[1]).with_eats(eats).into_bits();
        match atomicity {
            Atomicity::Word => {
                for (word, value) in [(1, word1), (2, unused[2]), (3, unused[3])] {
                    entry.store(Store::Word { word, value });
                }
            }
            Atomicity::Pair => {
                for (pair, values) in [(0, [live[0], word1]), (1, [unused[2], unused[3]])] {
                    entry.store(Store::Pair { pair, values });
                }
            }
        }
        true
    }
}
