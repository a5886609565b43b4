//! Scalable mode: context entries, directories, PASID entries, second level and pass-through.

use super::*;

/// The context tables of functions below 0x80, and of the others.
const LOWER: u64 = 0x4003_0000;
const UPPER: u64 = 0x4003_1000;
/// A directory of 128 entries, its first table, and one for PASIDs from 0x100 on.
pub(super) const DIRECTORY: u64 = 0x4003_2000;
pub(super) const PASIDS: u64 = 0x4003_3000;
pub(super) const MORE_PASIDS: u64 = 0x4003_4000;

pub(super) const PASID_ALL: [u64; 2] = [0x37, 0];

pub(super) const fn pasid_domain(did: u64) -> [u64; 2] {
    [0x07 | did << 16, 0]
}

pub(super) const fn pasid_one(did: u64, pasid: u64) -> [u64; 2] {
    [0x17 | did << 16 | pasid << 32, 0]
}

pub(super) const fn piotlb(did: u64, pasid: u64) -> [u64; 2] {
    [0x26 | did << 16 | pasid << 32, 0]
}

pub(super) const fn piotlb_page(did: u64, pasid: u64, addr: u64) -> [u64; 2] {
    [0x36 | did << 16 | pasid << 32, addr]
}

impl Rig {
    /// A model that translates in scalable mode. Source 8 may use PASIDs, of which none is present.
    pub(super) fn scalable(config: VtdConfig) -> Self {
        let rig = Self::new(config);
        rig.poke(ROOT, &[LOWER | 1, UPPER | 1]);
        rig.poke(LOWER + 8 * 32, &[DIRECTORY | 9, 0, 0, 0]);
        rig.poke(DIRECTORY, &[PASIDS | 1]);
        rig.poke(DIRECTORY + 4 * 8, &[MORE_PASIDS | 1]);
        rig.queue();
        rig.root(ROOT | 1 << 10);
        rig.submit(&[CONTEXT_ALL, FENCE, PASID_ALL, FENCE, IOTLB_ALL, WAIT]);
        rig.command(QIE | TE);
        rig
    }

    /// With the tables of [`Rig::tables`] for the requests without PASID of source 8.
    fn second() -> Self {
        let rig = Self::scalable(VtdConfig::scalable());
        rig.tables();
        rig.pasid(0, [SECOND, 5, 0]);
        rig
    }

    /// Writes a PASID entry, of a PASID below 0x40 or from 0x100 to 0x13f.
    pub(super) fn pasid(&self, pasid: u64, words: [u64; 3]) {
        let table = if pasid < 0x100 { PASIDS } else { MORE_PASIDS };
        self.poke(table + (pasid & 0x3f) * 64, &words);
    }

    pub(super) fn read_as(&self, pasid: u32, iova: u64) -> Outcome {
        self.model.transact(8, Some(pasid), iova, Access::Read)
    }
}

/// P, AW 1, PGTT 2, the tables.
const SECOND: u64 = S2 | 0x85;
/// P, AW 2, PGTT 4.
const PASS: u64 = 0x109;

#[test]
fn second_level_tables_translate() {
    let rig = Rig::second();
    assert_eq!(rig.read(8, 0x20_3123), to(DATA + 0x123));
    assert_eq!(rig.write(8, 0x5f_f456), to(DATA + 0x1f_f456));
    rig.refuses(8, 0x20_4000, 0x79);
    rig.refuses(8, 1 << 39, 0x84);
    let rid = PasidConfig::SecondLevel {
        root: PhysAddr(S2),
        levels: 3,
        did: 5,
    };
    assert_eq!(
        rig.model.source_config(8),
        SourceConfig::Scalable {
            directory: PhysAddr(DIRECTORY),
            pasid_bits: 13,
            pasids: true,
            rid_pasid: 0,
            rid
        }
    );
    assert_eq!(rig.model.pasid_config(8, 0), rid);
    assert_eq!(rig.model.pasid_config(8, 1), PasidConfig::NotPresent);
    assert_eq!(rig.model.source_config(9), SourceConfig::NotPresent);
    rig.is_clean();
}

#[test]
fn upper_functions_have_their_own_context_table() {
    let rig = Rig::second();
    rig.poke(UPPER + 8 * 32, &[DIRECTORY | 1, 0, 0, 0]);
    assert_eq!(rig.read(0x88, 0x20_3000), to(DATA));
    rig.poke(ROOT, &[LOWER | 1, UPPER]);
    rig.flush(&[CONTEXT_ALL, PASID_ALL, IOTLB_ALL]);
    rig.refuses(0x88, 0x20_3000, 0x39);
    rig.poke(ROOT, &[LOWER | 1, UPPER | 3]);
    rig.refuses(0x88, 0x20_3000, 0x3a);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn pasids_have_entries_of_their_own() {
    let rig = Rig::second();
    rig.pasid(0x13f, [PASS, 1, 0]);
    assert_eq!(rig.read_as(0x13f, 0x20_3000), to(0x20_3000));
    assert_eq!(rig.read_as(0, 0x20_3000), to(DATA));
    assert_eq!(
        rig.model.pasid_config(8, 0x13f),
        PasidConfig::PassThrough { did: 1 }
    );
    let refused = |pasid: u32, reason: u64| {
        assert_eq!(rig.read_as(pasid, 0x1000), Outcome::Faulted);
        let high = rig.bank.read64(0x228);
        assert_eq!((high >> 32 & 0xff, high >> 31 & 1), (reason, 1));
        assert_eq!(high >> 40 & 0xf_ffff, u64::from(pasid));
        rig.fault();
    };
    refused(0x3f, 0x59);
    refused(0x40, 0x51);
    refused(0x2000, 0x46);
    rig.poke(LOWER + 9 * 32, &[DIRECTORY | 1, 0, 0, 0]);
    let outcome = rig.model.transact(9, Some(0), 0x20_3000, Access::Read);
    assert_eq!(outcome, Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x45, 9, 0x20_3000)));
    assert_eq!(rig.read(9, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn requests_without_pasid_have_one_where_the_unit_can() {
    let rig = Rig::second();
    rig.poke(LOWER + 9 * 32, &[DIRECTORY | 1, 0x13f, 0, 0]);
    rig.refuses(9, 0x20_3000, 0x42);
    let mut config = VtdConfig::scalable();
    config.ecap |= 1 << 49;
    let rig = Rig::scalable(config);
    rig.poke(LOWER + 9 * 32, &[DIRECTORY | 1, 0x13f, 0, 0]);
    rig.pasid(0x13f, [PASS, 1, 0]);
    assert_eq!(rig.read(9, 0x20_3000), to(0x20_3000));
    rig.poke(LOWER + 10 * 32, &[DIRECTORY | 1, 0x2000, 0, 0]);
    rig.refuses(10, 0x20_3000, 0x48);
    rig.is_clean();
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let rig = Rig::second();
    let context = |words: [u64; 4], reason: u64| {
        rig.poke(LOWER + 10 * 32, &words);
        rig.refuses(10, 0x20_3000, reason);
    };
    context([DIRECTORY, 0, 0, 0], 0x41);
    for low in [1 << 2, 1 << 4, 1 << 5, 1 << 8, 1 << 48] {
        context([DIRECTORY | 1 | low, 0, 0, 0], 0x42);
    }
    context([DIRECTORY | 1, 1 << 20, 0, 0], 0x42);
    context([DIRECTORY | 1, 1 << 21, 0, 0], 0x42);
    context([DIRECTORY | 1, 0, 1, 0], 0x42);
    context([DIRECTORY | 1, 0, 0, 1], 0x42);
    rig.poke(LOWER + 10 * 32, &[DIRECTORY | 1, 0, 0, 0]);
    for (entry, reason) in [
        (PASIDS, 0x51),
        (PASIDS | 5, 0x52),
        (PASIDS | 1 << 48 | 1, 0x52),
    ] {
        rig.poke(DIRECTORY, &[entry]);
        rig.refuses(10, 0x20_3000, reason);
    }
    rig.poke(DIRECTORY, &[PASIDS | 1]);
    let entry = |words: [u64; 3], reason: u64| {
        rig.pasid(0, words);
        rig.refuses(10, 0x20_3000, reason);
    };
    entry([SECOND & !1, 5, 0], 0x59);
    for low in [1 << 5, 1 << 9, 1 << 10, 1 << 11, 1 << 48] {
        entry([SECOND | low, 5, 0], 0x5a);
    }
    for high in [
        1 << 16,
        1 << 22,
        1 << 23,
        1 << 24,
        1 << 25,
        1 << 30,
        1 << 32,
    ] {
        entry([SECOND, 5 | high, 0], 0x5a);
    }
    for upper in [1 << 1, 1 << 7, 1 << 8] {
        entry([SECOND, 5, upper], 0x5a);
    }
    // Widths 0 and 3, no type, first level, nested, and types that there are not.
    for word in [S2 | 0x81, S2 | 0x8d, S2 | 5, 0x45, S2 | 0xc5, S2 | 0x145] {
        entry([word, 5, 0], 0x5b);
    }
    rig.is_clean();
    // Memory that nobody has.
    rig.pasid(0, [0x10_0000_0085, 5, 0]);
    rig.refuses(10, 0x20_3000, 0x7b);
    rig.poke(DIRECTORY, &[0x10_0000_0001]);
    rig.flush(&[CONTEXT_ALL, PASID_ALL, IOTLB_ALL]);
    rig.refuses(10, 0x20_3000, 0x58);
    rig.poke(LOWER + 10 * 32, &[0x10_0000_0001, 0, 0, 0]);
    rig.flush(&[CONTEXT_ALL, PASID_ALL, IOTLB_ALL]);
    rig.refuses(10, 0x20_3000, 0x50);
    rig.poke(ROOT, &[0x10_0000_0001, 0]);
    rig.flush(&[CONTEXT_ALL]);
    rig.refuses(10, 0x20_3000, 0x40);
}

#[test]
fn table_entries_that_make_no_sense_are_refused() {
    let rig = Rig::second();
    rig.poke(S2 + 0x2018, &[DATA | RW | 1 << 11]);
    rig.refuses(8, 0x20_3000, 0x7a);
    rig.poke(S2 + 0x2018, &[0xfee0_0000 | RW]);
    rig.refuses(8, 0x20_3000, 0x87);
    assert_eq!(rig.model.violations(), [""; 0]);
    rig.poke(S2 + 0x1010, &[0x10_0000_0000 | RW]);
    rig.refuses(8, 0x40_0000, 0x78);
    assert_eq!(rig.model.violations(), [""; 0]);
}

#[test]
fn interrupts_of_a_pasid_are_memory_that_nothing_passes_to() {
    let rig = Rig::second();
    rig.pasid(1, [PASS, 1, 0]);
    assert_eq!(rig.read_as(1, 0xfee0_0000), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x87, 8, 0xfee0_0000)));
    assert_eq!(rig.read_as(1, 1 << 48), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x83, 8, 1 << 48)));
    rig.is_clean();
}

#[test]
fn fpd_of_any_entry_keeps_faults_from_being_recorded() {
    let silent = |context: u64, directory: u64, entry: u64| {
        let rig = Rig::second();
        rig.poke(LOWER + 8 * 32, &[DIRECTORY | 9 | context]);
        rig.poke(DIRECTORY, &[PASIDS | 1 | directory]);
        rig.pasid(0, [SECOND | entry, 5, 0]);
        assert_eq!(rig.read(8, 0x20_4000), Outcome::Aborted);
        assert_eq!(rig.bank.read32(FSTS), 0);
        rig.is_clean();
    };
    silent(2, 0, 0);
    silent(0, 2, 0);
    silent(0, 0, 2);
}

#[test]
fn descriptors_have_256_bits() {
    let rig = Rig::new(VtdConfig::scalable());
    rig.bank.write64(0x90, QUEUE);
    rig.command(QIE);
    rig.root(ROOT | 1 << 10);
    rig.poke(QUEUE, &CONTEXT_ALL);
    rig.bank.write64(IQT, 16);
    assert_eq!(rig.bank.read32(FSTS), 0x10);
    let rig = Rig::second();
    let tail = rig.bank.read64(IQT);
    rig.poke(QUEUE + tail, &[0x12, 0, 0, 1]);
    rig.bank.write64(IQT, tail + 32);
    assert_eq!(rig.bank.read32(FSTS), 0x10, "a reserved bit");
    rig.bank.write32(FSTS, 0x10);
    rig.bank.write64(IQT, tail + 16);
    assert_eq!(rig.bank.read32(FSTS), 0x10, "half a descriptor");
    rig.is_clean();
}

#[test]
fn domains_of_context_entries_are_a_matter_of_legacy_mode() {
    let rig = Rig::second();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.poke(LOWER + 8 * 32, &[DIRECTORY | 8]);
    // Any domain id will do.
    rig.flush(&[context_device(8, 77), PASID_ALL, iotlb_domain(5)]);
    rig.refuses(8, 0x20_3000, 0x41);
    rig.is_clean();
    rig.flush(&[[0x21, 0]]);
    rig.noted("context entries were invalidated by domain id");
}

#[test]
fn pasid_entries_are_stale_until_invalidated() {
    let stale = |descriptors: &[[u64; 2]], is_stale: bool| {
        let rig = Rig::second();
        rig.pasid(0x101, [SECOND, 5, 0]);
        assert_eq!(rig.read_as(0x101, 0x20_3000), to(DATA));
        rig.pasid(0x101, [SECOND & !1, 5, 0]);
        rig.flush(descriptors);
        match is_stale {
            true => assert_eq!(rig.read_as(0x101, 0x5f_f000), to(DATA + 0x1f_f000)),
            false => {
                assert_eq!(rig.read_as(0x101, 0x20_3000), Outcome::Faulted);
                assert_eq!(rig.fault(), Some((0x59, 8, 0x20_3000)));
            }
        }
        rig.is_clean();
    };
    let iotlb = iotlb_domain(5);
    stale(&[iotlb], true);
    stale(&[CONTEXT_ALL, iotlb], true);
    stale(&[pasid_one(5, 0x100), iotlb], true);
    stale(&[pasid_one(6, 0x101), iotlb], true);
    stale(&[pasid_domain(6), iotlb], true);
    stale(&[pasid_one(5, 0x101), iotlb], false);
    stale(&[pasid_domain(5), iotlb], false);
    stale(&[PASID_ALL, iotlb], false);
}

#[test]
fn second_level_translations_are_not_invalidated_by_pasid() {
    let rig = Rig::second();
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.pasid(0, [SECOND & !1, 5, 0]);
    rig.flush(&[pasid_one(5, 0), piotlb(5, 0)]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    rig.flush(&[iotlb_domain(5)]);
    rig.refuses(8, 0x20_3000, 0x59);
    // Those that pass are.
    rig.pasid(1, [PASS, 1, 0]);
    assert_eq!(rig.read_as(1, 0x1000), to(0x1000));
    rig.pasid(1, [PASS & !1, 1, 0]);
    rig.flush(&[pasid_one(1, 1), piotlb(1, 1)]);
    assert_eq!(rig.read_as(1, 0x1000), Outcome::Faulted);
    rig.is_clean();
}

#[test]
fn directory_entries_are_cached_too() {
    let rig = Rig::second();
    rig.pasid(0x101, [SECOND, 5, 0]);
    assert_eq!(rig.read_as(0x101, 0x20_3000), to(DATA));
    rig.poke(DIRECTORY + 4 * 8, &[0]);
    // Through the old directory entry.
    rig.pasid(0x102, [PASS, 1, 0]);
    assert_eq!(rig.read_as(0x102, 0x1000), to(0x1000));
    // It is tagged with the domain ids of all that was found through it.
    rig.flush(&[pasid_domain(1), IOTLB_ALL]);
    assert_eq!(rig.read_as(0x101, 0x20_3000), to(DATA));
    assert_eq!(rig.read_as(0x102, 0x1000), Outcome::Faulted);
    assert_eq!(rig.fault(), Some((0x51, 8, 0x1000)));
    rig.is_clean();
}

#[test]
fn in_caching_mode_absent_entries_are_cached_under_domain_id_0() {
    let rig = Rig::scalable(VtdConfig::scalable().with_caching_mode(true));
    rig.tables();
    rig.refuses(8, 0x20_3000, 0x59);
    rig.pasid(0, [SECOND, 5, 0]);
    rig.refuses(8, 0x20_3000, 0x59);
    rig.flush(&[pasid_one(5, 0)]);
    rig.refuses(8, 0x20_3000, 0x59);
    rig.flush(&[pasid_one(0, 0)]);
    assert_eq!(rig.read(8, 0x20_3000), to(DATA));
    let outcome = rig.read_as(0x40, 0x20_3000);
    assert_eq!(outcome, Outcome::Faulted);
    rig.fault();
    rig.poke(DIRECTORY + 8, &[MORE_PASIDS | 1]);
    rig.pasid(0x100, [SECOND, 5, 0]);
    assert_eq!(rig.read_as(0x40, 0x20_3000), Outcome::Faulted);
    rig.fault();
    rig.flush(&[pasid_one(0, 0x40)]);
    assert_eq!(rig.read_as(0x40, 0x20_3000), to(DATA));
    rig.is_clean();
}

#[test]
fn a_present_pasid_entry_does_not_change_while_it_is_cached() {
    let rig = Rig::second();
    rig.read(8, 0x20_3000);
    rig.pasid(0, [PASS, 1, 0]);
    rig.flush(&[pasid_one(5, 0), iotlb_domain(5)]);
    rig.noted("the entry of PASID 0x0 of 0x8 was changed from");
    let rig = Rig::second();
    rig.read(8, 0x20_3000);
    rig.pasid(0, [SECOND & !1, 5, 0]);
    rig.flush(&[pasid_one(5, 0), iotlb_domain(5)]);
    rig.pasid(0, [PASS, 1, 0]);
    assert_eq!(rig.read(8, 0x20_3000), to(0x20_3000));
    rig.is_clean();
}

#[test]
fn pasid_entries_are_torn() {
    let torn = |partial| {
        let mut seen = 0;
        for seed in 0..64 {
            let rig = Rig::scalable(VtdConfig {
                order: Order::InOrder,
                partial,
                seed,
                ..VtdConfig::scalable()
            });
            rig.tables();
            rig.pasid(0, [SECOND, 5, 0]);
            rig.read(8, 0x20_3000);
            // All at once, without clearing P first.
            rig.pasid(0, [PASS, 1, 0]);
            rig.flush(&[IOTLB_ALL]);
            rig.read(8, 0x20_3000);
            // What was translated by the old tables under the new domain id.
            rig.flush(&[iotlb_domain(5)]);
            rig.pasid(0, [0, 0, 0]);
            rig.flush(&[PASID_ALL]);
            seen += usize::from(rig.read(8, 0x20_3000) == to(DATA));
        }
        seen
    };
    assert_eq!(torn(false), 0);
    assert!(torn(true) > 0);
}

#[test]
fn pasid_entries_are_invalidated_between_context_entries_and_translations() {
    let rig = Rig::new(VtdConfig::scalable());
    rig.queue();
    rig.root(ROOT | 1 << 10);
    rig.flush(&[PASID_ALL, CONTEXT_ALL, IOTLB_ALL]);
    rig.command(QIE | TE);
    rig.noted("translation is enabled before all caches were invalidated");
}
