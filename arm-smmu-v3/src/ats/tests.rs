use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use iommu_core::entry::Target;
use iommu_core::{BasicPlatform, DeviceControl, DeviceInfo, PhysAddr, RawLock, SpinLock};
use mock_hw::smmuv3::{ModelBank, ModelConfig, SmmuModel};
use mock_hw::{MockClock, MockMemory};

use super::*;
use crate::{ArmSmmuV3, Config};

type Set = AtcSet<SpinLock>;

const SYNC: [u64; 2] = [0x46, 0];
/// ASID 1, the page at 0x5000.
const TLBI: [u64; 2] = [0x0001_0000_0000_0012, 0x5000];
const PAGE: AddrRange = match AddrRange::new(0x5000, 0x1000) {
    Some(range) => range,
    None => AddrRange::EVERYTHING,
};

/// The page at 0x5000, at the device of a stream.
fn atc(stream: u64) -> [u64; 2] {
    [stream << 32 | 0x40, 0x5000]
}

fn words(commands: impl Iterator<Item = Command>) -> Vec<[u64; 2]> {
    commands.map(|command| command.0).collect()
}

fn set(streams: &[u32]) -> Set {
    let set = Set::new();
    set.add(&ids(streams), false).unwrap();
    set
}

fn ids(streams: &[u32]) -> Vec<StreamId> {
    streams.iter().copied().map(StreamId).collect()
}

fn unmapped<L: RawLock>(set: &AtcSet<L>) -> Vec<[u64; 2]> {
    words(set.unmap([Command(TLBI)], PAGE))
}

#[test]
fn a_range_is_rounded_to_the_smallest_power_of_two_of_pages_that_covers_it() {
    // First and last byte; what the command says (4.5.1): address and size.
    let cases = [
        (0, 0xfff, 0),
        (0x5000, 0x5fff, 0x5000),
        (0x5678, 0x5679, 0x5000),
        (0x4000, 0x5fff, 0x4001),
        // Two pages that no two-page span holds both.
        (0x5000, 0x6fff, 0x4002),
        (0x7fff, 0x8000, 4),
        (0x20_0000, 0x3f_ffff, 0x20_0009),
        (0x1f_f000, 0x3f_ffff, 0xa),
        (
            0xffff_8000_0000_0000,
            0xffff_ffff_ffff_ffff,
            0xffff_8000_0000_0023,
        ),
        (
            0xffff_ffff_ffff_f000,
            0xffff_ffff_ffff_ffff,
            0xffff_ffff_ffff_f000,
        ),
        (0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000, 0x34),
        (0, u64::MAX, 0x34),
    ];
    for (first, last, word) in cases {
        let range = AddrRange::inclusive(first, last).unwrap();
        let command = Span::covering(range).invalidate(StreamId(0x42));
        assert_eq!(command.0, [0x42_0000_0040, word], "{range:?}");
    }
    let all = words(invalidate_everything(ids(&[3, 0xffff_ffff])));
    assert_eq!(all, [[0x3_0000_0040, 52], [0xffff_ffff_0000_0040, 52]]);
}

#[test]
fn the_devices_follow_a_synchronisation_after_the_tlb() {
    assert_eq!(unmapped(&Set::new()), [TLBI]);
    let set = set(&[7, 0, 0xffff_ffff]);
    assert_eq!(
        unmapped(&set),
        [TLBI, SYNC, atc(0), atc(7), atc(0xffff_ffff)]
    );
}

#[test]
fn a_stream_leaves_when_it_was_removed_as_often_as_added() {
    let set = set(&[4, 9, 4]);
    set.add(&ids(&[9, 1]), false).unwrap();
    set.remove(&ids(&[4, 1, 5]));
    assert_eq!(unmapped(&set), [TLBI, SYNC, atc(4), atc(9)]);
    set.remove(&ids(&[9]));
    assert_eq!(unmapped(&set), [TLBI, SYNC, atc(4), atc(9)]);
    set.remove(&ids(&[9, 4]));
    assert_eq!(unmapped(&set), [TLBI]);
    assert!(set.is_empty());
}

#[test]
fn whoever_unmaps_sees_who_came_while_its_commands_went_into_the_queue() {
    let set = set(&[4, 9]);
    let came = core::iter::once(Command(TLBI)).inspect(|_| {
        set.add(&ids(&[2, 6]), false).unwrap();
        set.remove(&ids(&[4]));
    });
    let mut commands = set.unmap(came, PAGE).map(|command| command.0);
    let so_far: Vec<_> = commands.by_ref().take(4).collect();
    assert_eq!(so_far, [TLBI, SYNC, atc(2), atc(6)]);
    // Others who come and go hide nobody who stays.
    set.remove(&ids(&[2, 6]));
    set.add(&ids(&[1, 3, 5, 7]), false).unwrap();
    assert_eq!(commands.next(), Some(atc(7)));
    assert_eq!(commands.next(), Some(atc(9)));
    assert_eq!(commands.next(), None);
    set.add(&ids(&[20]), false).unwrap();
    assert_eq!(commands.next(), None, "it ended");
}

#[test]
fn a_device_that_is_refused_is_not_asked() {
    let set = set(&[4, 9]);
    set.refuse(&ids(&[4, 5]));
    assert_eq!(
        unmapped(&set),
        [TLBI, SYNC, [0x4_0000_0003, 1], atc(9)],
        "CMD_CFGI_STE, Leaf"
    );
    // That it comes once more changes nothing until somebody says so.
    set.add(&ids(&[4]), false).unwrap();
    set.add(&ids(&[9, 12]), true).unwrap();
    let cfgi = |stream: u64| [stream << 32 | 3, 1];
    assert_eq!(unmapped(&set), [TLBI, SYNC, cfgi(4), atc(9), cfgi(12)]);
    set.ask(&ids(&[4, 12]));
    assert_eq!(unmapped(&set), [TLBI, SYNC, atc(4), atc(9), atc(12)]);
}

type Smmu = ArmSmmuV3<BasicPlatform<ModelBank, MockMemory, MockClock>>;

/// An SMMU with ATS.
fn smmu() -> (SmmuModel, Smmu) {
    let memory = MockMemory::new(PhysAddr(0x4000_0000), 0x40_0000);
    let config = ModelConfig {
        idr0: 0x0d44_141b,
        ..ModelConfig::default()
    };
    let model = SmmuModel::new(memory.clone(), config);
    let platform = BasicPlatform {
        bank: model.bank(),
        memory,
        clock: MockClock::new(),
    };
    let smmu = ArmSmmuV3::probe(platform, Config::default()).unwrap();
    model.clear_commands();
    model.clear_waits();
    (model, smmu)
}

#[test]
fn translations_end_everywhere_with_one_wait() {
    let (model, smmu) = smmu();
    let set = Set::new();
    let end = || smmu.inner.end_translations(&set, [Command(TLBI)], PAGE);
    end().unwrap();
    assert_eq!((model.commands(), model.waits()), (vec![TLBI, SYNC], 1));
    set.add(&ids(&[4, 9]), false).unwrap();
    model.clear_commands();
    end().unwrap();
    let expected = vec![TLBI, SYNC, atc(4), atc(9), SYNC];
    assert_eq!((model.commands(), model.waits()), (expected, 2));
    // A device that does not answer is an error of its own kind.
    model.kill_atc(9, true);
    let error = end().unwrap_err();
    assert_eq!(error.kind(), iommu_core::ErrorKind::DeviceTimedOut);
    set.refuse(&ids(&[9]));
    end().unwrap();
    assert_eq!(model.violations(), [""; 0]);
}

#[test]
fn the_first_device_may_come_while_translations_end() {
    let (model, smmu) = smmu();
    let set = Set::new();
    let came = core::iter::once(Command(TLBI)).inspect(|_| set.add(&ids(&[4]), false).unwrap());
    smmu.inner.end_translations(&set, came, PAGE).unwrap();
    assert_eq!(model.commands(), [TLBI, SYNC, SYNC, atc(4), SYNC]);
}

#[test]
fn nobody_holds_the_set_while_the_hardware_works() {
    let (model, smmu) = smmu();
    let set = Arc::new(set(&[4, 9]));
    let seen = set.clone();
    model.set_command_hook(Some(Arc::new(move |_, _| {
        assert!(seen.streams.try_lock().is_some());
    })));
    smmu.inner
        .end_translations(&set, [Command(TLBI)], PAGE)
        .unwrap();
    model.set_command_hook(None);
    assert_eq!(model.syncs(), 2);
}

/// A device that can be switched.
struct Switchable;

impl DeviceControl for Switchable {
    fn has_ats(&self) -> bool {
        true
    }

    fn set_ats(&self, _on: bool) -> Result {
        Ok(())
    }
}

#[test]
fn nobody_waits_for_a_device_that_was_refused_before_it_has_answered() {
    let cfgi = [0x4_0000_0003, 1];
    let streams = ids(&[4]);
    let info = DeviceInfo::new("gpu").streams([4_u32]);
    let mut gpu = Ats::new(Arc::new(Endpoint::new(&info, Arc::new(Switchable))));
    let sets = [(); 2].map(|()| Arc::new(Set::new()));
    let asks = || sets.each_ref().map(|set| unmapped(&**set));
    let target = Target::new(crate::entries::abort().to_words()).unwrap();
    for moved in [false, true] {
        gpu.prepare(&target, &sets[0], &streams).unwrap();
        assert_eq!(gpu.finish(moved).unwrap(), moved);
        assert_eq!(asks()[0], [TLBI, SYNC, atc(4)]);
    }

    gpu.refuse(&streams);
    assert_eq!(asks()[0], [TLBI, SYNC, cfgi]);
    // An attempt that comes to nothing changes nothing.
    for set in &sets {
        gpu.prepare(&target, set, &streams).unwrap();
        assert_eq!(asks()[0], [TLBI, SYNC, cfgi]);
        gpu.renounce();
        assert_eq!(asks(), [vec![TLBI, SYNC, cfgi], vec![TLBI]]);
    }
    // One that fails is another domain that may be in use; once more is not.
    for _ in 0..2 {
        gpu.prepare(&target, &sets[1], &streams).unwrap();
        assert!(!gpu.finish(false).unwrap());
        assert_eq!(asks(), [[TLBI, SYNC, cfgi], [TLBI, SYNC, cfgi]]);
    }
    sets[1].remove(&streams);
    assert_eq!(asks()[1], [TLBI], "it was in there once");
    sets[1].add(&streams, true).unwrap();
    // One that is to succeed has it answer first.
    gpu.prepare(&target, &sets[1], &streams).unwrap();
    assert!(!gpu.leave(false) && gpu.flushes());
    assert!(!gpu.answered(true));
    assert_eq!(asks(), [[TLBI, SYNC, atc(4)], [TLBI, SYNC, atc(4)]]);
    assert!(gpu.finish(true).unwrap());
    assert_eq!(asks(), [vec![TLBI], vec![TLBI, SYNC, atc(4)]]);
}
