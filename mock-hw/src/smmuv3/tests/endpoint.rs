//! Devices with a cache of their own, and what software must do about it (3.9.2, 4.5.1).

use iommu_core::{DeviceControl, ErrorKind};

use super::ats::{ATSCHK, FULL};
use super::*;

const CFGI_5: [u64; 2] = [0x0005_0000_0003, 1];
/// VMID 2, ASID 7, the page at 0x20_3000.
const TLBI_PAGE: [u64; 2] = [0x0007_0002_0000_0012, 0x20_3000];
/// Everything of stream 5.
const ATC_ALL: [u64; 2] = [0x0005_0000_0040, 52];
const ATC_ALL_6: [u64; 2] = [0x0006_0000_0040, 52];
const ATC_ALL_7: [u64; 2] = [0x0007_0000_0040, 52];
/// The page at 0x20_3000.
const ATC_PAGE: [u64; 2] = [0x0005_0000_0040, 0x20_3000];
const TRANSLATING: [u64; 3] = [STE_S1, FULL, 2];

fn config(order: Order, seed: u64) -> ModelConfig {
    ModelConfig {
        idr0: 0x0d44_141b,
        order,
        seed,
        ..Default::default()
    }
}

impl Rig {
    fn settled(&self, commands: &[[u64; 2]]) {
        self.submit(commands);
        while self.bank.read32(0x9c) & 0xf_ffff != self.bank.read32(0x98) & 0xf_ffff {
            assert_eq!(self.bank.read32(0x60), self.bank.read32(0x64));
        }
    }
}

/// Stream 5 at stage 1, with ATS on at the device; its page was read.
fn on(order: Order, seed: u64) -> (Rig, AtsDevice) {
    let rig = Rig::with_ats(config(order, seed), 0, ATSCHK);
    rig.stage1();
    rig.ste(5, &TRANSLATING);
    let device = AtsDevice::new(&rig.model, [5]);
    rig.settled(&[CFGI_5, SYNC, ATC_ALL, SYNC]);
    device.set_ats(true).unwrap();
    assert_eq!(read(&device), to(DATA));
    (rig, device)
}

fn read(device: &AtsDevice) -> Outcome {
    read_from(device, 5)
}

fn read_from(device: &AtsDevice, stream: u32) -> Outcome {
    DmaDevice::new(device, stream).read(0x20_3000, &mut [0])
}

fn write(device: &AtsDevice) -> Outcome {
    DmaDevice::new(device, 5).write(0x20_3000, &[1])
}

const EVERY: [Order; 3] = [Order::Adverse, Order::InOrder, Order::Random];

#[test]
fn a_device_translates_for_itself_while_ats_is_on() {
    let rig = Rig::with_ats(config(Order::Adverse, 0), 0, ATSCHK);
    rig.stage1();
    rig.ste(5, &TRANSLATING);
    let device = AtsDevice::new(&rig.model, [5]);
    // Off: as any other device.
    assert_eq!(read(&device), to(DATA));
    assert!(device.has_ats());
    assert_eq!((device.cached(5, 0x20_3000), device.is_on()), (None, false));
    rig.submit(&[ATC_ALL, SYNC]);
    device.set_ats(true).unwrap();
    assert_eq!(read(&device), to(DATA));
    assert_eq!(device.cached(5, 0x20_3fff), Some(PhysAddr(DATA)));
    // Its own cache is what it uses, whatever became of all others.
    rig.poke(S1 + 0x2018, &[0]);
    rig.submit(&[CFGI_ALL, SYNC, TLBI_ALL, SYNC]);
    assert_eq!(read(&device), to(DATA));
    // It had asked to read only.
    assert_eq!(write(&device), Outcome::Aborted);
    // Refused, it tells nobody.
    assert!(rig.events().is_empty());
    rig.submit(&[ATC_PAGE, SYNC]);
    assert_eq!(read(&device), Outcome::Aborted);
    device.set_ats(false).unwrap();
    assert_eq!(read(&device), Outcome::Faulted);
    let page = AtsEvent::Invalidated {
        pasid: None,
        first: 0x20_3000,
        last: 0x20_3fff,
    };
    let expected = [AtsEvent::EVERYTHING, AtsEvent::On, page, AtsEvent::Off];
    assert_eq!(device.events(5), expected);
    rig.is_clean();
}

#[test]
fn an_invalidation_has_the_range_and_the_pasid_that_it_names() {
    // 5 bits of SubstreamID.
    let config = ModelConfig {
        idr1: 0x0273_0150,
        ..config(Order::InOrder, 0)
    };
    let rig = Rig::with_ats(config, 0, ATSCHK);
    rig.stage1();
    rig.ste(5, &[STE_S1 | 2 << 59, FULL | 2, 2]);
    for pasid in 1..4 {
        rig.poke(CD + pasid * 64, &[CD_39, S1, 0, 0xff]);
    }
    let device = AtsDevice::new(&rig.model, [5]);
    rig.submit(&[ATC_ALL, SYNC]);
    device.set_ats(true).unwrap();
    let dma = DmaDevice::new(&device, 5);
    // Both pages of each PASID, and what has none.
    let places = [(None, 0x40_0000), (None, 0x40_1000)]
        .into_iter()
        .chain((1..4).flat_map(|pasid| [(Some(pasid), 0x40_0000), (Some(pasid), 0x40_1000)]));
    let places: Vec<(Option<u32>, u64)> = places.collect();
    let left_by = |command: [u64; 2]| {
        for (pasid, iova) in &places {
            let outcome = dma.with_substream(*pasid).read(*iova, &mut [0]);
            assert!(matches!(outcome, Outcome::Translated(_)));
        }
        rig.submit(&[command, SYNC]);
        let state = rig.model.state();
        let endpoint = state.endpoints.get(&5).unwrap();
        let kept = |place: &&(Option<u32>, u64)| endpoint.pages.contains_key(place);
        places.iter().filter(kept).copied().collect::<Vec<_>>()
    };
    let without = |gone: &[(Option<u32>, u64)]| {
        let kept = |place: &&(Option<u32>, u64)| !gone.contains(place);
        places.iter().filter(kept).copied().collect::<Vec<_>>()
    };
    let pages = |iova: u64| (0..4).map(move |p: u32| ((p != 0).then_some(p), iova));
    // SSV, PASID 2: that page of that PASID. 8 KiB: both, from the middle too.
    let pasid_2 = 0x0005_0000_2840;
    assert_eq!(
        left_by([pasid_2, 0x40_1000]),
        without(&[(Some(2), 0x40_1000)])
    );
    let both = [(Some(2), 0x40_0000), (Some(2), 0x40_1000)];
    assert_eq!(left_by([pasid_2, 0x40_1001]), without(&both));
    // Global: whatever the PASID, where there is one.
    let global: Vec<_> = pages(0x40_0000).skip(1).collect();
    assert_eq!(left_by([pasid_2 | 1 << 9, 0x40_0000]), without(&global));
    // Without SSV: everybody's; Global is ignored.
    let all: Vec<_> = pages(0x40_1000).collect();
    assert_eq!(left_by([0x0005_0000_0240, 0x40_1000]), without(&all));
    assert_eq!(left_by(ATC_ALL), []);
    // Another stream's.
    assert_eq!(left_by([0x0006_0000_0040, 52]), places);
    rig.is_clean();
}

#[test]
fn without_substreams_a_command_must_name_none() {
    let (rig, device) = on(Order::InOrder, 0);
    device.clear_events();
    rig.submit(&[[0x0005_0000_0840, 52], SYNC]);
    assert_eq!(device.events(5), []);
    rig.noted("CMD_ATC_INV has SSV set");
}

/// What becomes of the device's page when it is unmapped with these commands.
fn unmapped(order: Order, seed: u64, batch: &[[u64; 2]]) -> (Outcome, Vec<String>) {
    let (rig, device) = on(order, seed);
    rig.poke(S1 + 0x2018, &[0]);
    rig.settled(batch);
    (read(&device), rig.model.violations())
}

#[test]
fn an_unmapped_page_is_gone_after_the_translations_and_then_the_device_were_invalidated() {
    for order in EVERY {
        for seed in 0..20 {
            let right = unmapped(order, seed, &[TLBI_PAGE, SYNC, ATC_PAGE, SYNC]);
            assert_eq!(right, (Outcome::Aborted, vec![]), "{order:?} {seed}");
        }
    }
    // Without a CMD_SYNC between them, the device may have asked once more.
    for batch in [[TLBI_PAGE, ATC_PAGE, SYNC], [ATC_PAGE, TLBI_PAGE, SYNC]] {
        let (outcome, violations) = unmapped(Order::Adverse, 0, &batch);
        assert_eq!((outcome, violations.len()), (to(DATA), 1));
        assert!(violations[0].starts_with("stream 0x5 still uses 0x40400000 for 0x203000"));
        let outcomes: Vec<Outcome> = (0..60)
            .map(|seed| unmapped(Order::Random, seed, &batch).0)
            .collect();
        assert!(outcomes.contains(&to(DATA)) && outcomes.contains(&Outcome::Aborted));
    }
    // Nobody said that it is gone: no violation, but it is not.
    let forgotten = unmapped(Order::Adverse, 0, &[TLBI_PAGE, SYNC]);
    assert_eq!(forgotten, (to(DATA), vec![]));
    // So it is where the device asked again before.
    let (rig, device) = on(Order::Adverse, 0);
    rig.submit(&[ATC_ALL, SYNC]);
    assert_eq!(device.cached(5, 0x20_3000), Some(PhysAddr(DATA)));
    rig.poke(S1 + 0x2018, &[0]);
    assert_eq!(read(&device), to(DATA));
    rig.is_clean();
}

/// Where the device's page goes when its stream moves to other tables with these commands.
fn moved(order: Order, seed: u64, batch: &[[u64; 2]]) -> (Outcome, usize) {
    let (rig, device) = on(order, seed);
    rig.poke(CD + 0x1000, &[CD_39 + (1 << 48), S1 + 0x8000, 0, 0xff]);
    rig.poke(S1 + 0x8000, &[0x4000_0000 | BLOCK]);
    rig.ste(5, &[STE_S1 + 0x1000, FULL, 2]);
    rig.settled(batch);
    (read(&device), rig.model.violations().len())
}

#[test]
fn a_device_follows_its_stream_to_other_tables_after_the_entry_and_then_it_were_invalidated() {
    let new = to(0x4020_3000);
    for order in EVERY {
        for seed in 0..20 {
            let right = moved(order, seed, &[CFGI_5, SYNC, ATC_ALL, SYNC]);
            assert_eq!(right, (new, 0), "{order:?} {seed}");
        }
    }
    let batch = [CFGI_5, ATC_ALL, SYNC];
    assert_eq!(moved(Order::Adverse, 0, &batch), (to(DATA), 1));
    let outcomes: Vec<_> = (0..60)
        .map(|seed| moved(Order::Random, seed, &batch).0)
        .collect();
    assert!(outcomes.contains(&to(DATA)) && outcomes.contains(&new));
}

#[test]
fn switched_on_too_early_is_noted() {
    let fresh = |commands: &[[u64; 2]], ste: &[u64]| {
        let rig = Rig::with_ats(config(Order::Adverse, 0), 0, ATSCHK);
        rig.stage1();
        rig.ste(5, &[STE_S1, 0, 2]);
        let device = AtsDevice::new(&rig.model, [5]);
        // The entry that forbids it is cached.
        assert_eq!(read(&device), to(DATA));
        rig.ste(5, ste);
        rig.submit(commands);
        device.set_ats(true).unwrap();
        (read(&device), rig)
    };
    let (outcome, rig) = fresh(&[CFGI_5, SYNC, ATC_ALL, SYNC], &TRANSLATING);
    assert_eq!(outcome, to(DATA));
    rig.is_clean();
    // Nothing was invalidated at the device; not all; not yet.
    for commands in [
        &[CFGI_5, SYNC][..],
        &[CFGI_5, SYNC, ATC_PAGE, SYNC],
        &[CFGI_5, SYNC, ATC_ALL],
    ] {
        let (outcome, rig) = fresh(commands, &TRANSLATING);
        assert_eq!(outcome, to(DATA));
        rig.noted("ATS of stream 0x5 was switched on before everything in its ATC");
    }
    // The hardware goes on with the entry that forbids it; the entry does; it aborts.
    for (commands, ste) in [
        (&[ATC_ALL, SYNC][..], &TRANSLATING[..]),
        (&[CFGI_5, SYNC, ATC_ALL, SYNC], &[STE_S1, 0, 2]),
        (&[CFGI_5, SYNC, ATC_ALL, SYNC], &[BYPASS, FULL]),
        (&[CFGI_5, SYNC, ATC_ALL, SYNC], &[ABORT]),
    ] {
        let (outcome, rig) = fresh(commands, ste);
        assert_eq!(outcome, Outcome::Aborted);
        rig.noted("stream 0x5 has ATS on, and its translation requests are refused");
    }
}

#[test]
fn what_a_device_had_cached_comes_back_where_nobody_invalidated_it() {
    let (rig, device) = on(Order::Adverse, 0);
    device.set_ats(false).unwrap();
    rig.poke(S1 + 0x2018, &[0]);
    rig.submit(&[TLBI_PAGE, SYNC]);
    assert_eq!(read(&device), Outcome::Faulted);
    device.set_ats(true).unwrap();
    assert_eq!(read(&device), to(DATA));
    rig.noted("ATS of stream 0x5 was switched on before");
}

#[test]
fn an_entry_that_changes_before_the_device_has_ended_its_transactions_is_noted() {
    for order in EVERY {
        for entry in [[STE_S1, 0, 2], [BYPASS, FULL, 0], [ABORT, 0, 0]] {
            let (rig, device) = on(order, 0);
            device.set_ats(false).unwrap();
            rig.settled(&[ATC_ALL, SYNC]);
            rig.ste(5, &entry);
            rig.settled(&[CFGI_5, SYNC]);
            rig.is_clean();
            // Not invalidated at all, or after the entry.
            for commands in [&[CFGI_5, SYNC][..], &[CFGI_5, SYNC, ATC_ALL, SYNC]] {
                let (rig, device) = on(order, 0);
                device.set_ats(false).unwrap();
                rig.ste(5, &entry);
                rig.settled(commands);
                rig.noted("stream 0x5: its entry changed before CMD_ATC_INV");
            }
            // Not even switched off.
            let (rig, device) = on(order, 0);
            rig.ste(5, &entry);
            rig.settled(&[CFGI_5, SYNC]);
            assert_ne!(read(&device), to(DATA));
            rig.noted("stream 0x5 has ATS on, and its translated transactions are refused");
        }
    }
    // In one batch with the entry there is no order.
    let (rig, device) = on(Order::Adverse, 0);
    device.set_ats(false).unwrap();
    rig.ste(5, &[ABORT]);
    rig.submit(&[ATC_ALL, CFGI_5, SYNC]);
    rig.noted("stream 0x5: its entry changed before CMD_ATC_INV");
}

#[test]
fn a_device_may_ask_again_at_any_time() {
    // Nobody uses the device while its entry aborts for a moment; yet some seed sees it.
    let seen = |seed| {
        let (rig, _device) = on(Order::Random, seed);
        rig.ste(5, &[ABORT]);
        rig.settled(&[CFGI_5, SYNC]);
        rig.ste(5, &TRANSLATING);
        rig.settled(&[CFGI_5, SYNC]);
        !rig.model.violations().is_empty()
    };
    let noticed = (0..40).filter(|seed| seen(*seed)).count();
    assert!((5..40).contains(&noticed), "{noticed}");
}

#[test]
fn translation_must_not_end_while_a_device_uses_it() {
    let (rig, device) = on(Order::Adverse, 0);
    device.set_ats(false).unwrap();
    rig.cr0(0);
    rig.is_clean();
    let (rig, _) = on(Order::Adverse, 0);
    rig.cr0(0);
    rig.noted("SMMUEN was cleared while stream 0x5 has ATS on");
}

#[test]
fn a_device_that_does_not_answer_fails_the_synchronisation_and_what_else_that_waits_for() {
    let rig = Rig::with_ats(config(Order::Adverse, 0), 0, ATSCHK);
    rig.stage1();
    for stream in [5, 7] {
        rig.ste(stream, &TRANSLATING);
    }
    let (device, other) = (
        AtsDevice::new(&rig.model, [5, 7]),
        AtsDevice::new(&rig.model, [6]),
    );
    rig.submit(&[ATC_ALL, ATC_ALL_7, SYNC]);
    device.set_ats(true).unwrap();
    assert_eq!([5, 7].map(|of| read_from(&device, of)), [to(DATA); 2]);
    device.clear_events();
    rig.model.kill_atc(5, true);
    rig.model.clear_commands();
    let start = rig.bank.read32(0x9c);
    rig.submit(&[ATC_ALL, ATC_ALL_6, SYNC]);
    // CERROR_ATC_INV_SYNC at the CMD_SYNC.
    assert_eq!(rig.bank.read32(0x9c), 0x0300_0000 | (start + 2));
    assert_eq!((rig.bank.read32(0x60), rig.model.syncs()), (1, 0));
    // Acknowledged, it completes; the invalidations are lost, that of the other device too.
    rig.bank.write32(0x64, 1);
    assert_eq!(rig.model.syncs(), 1);
    assert_eq!((device.events(5), other.events(6)), (vec![], vec![]));
    rig.submit(&[ATC_ALL_6, SYNC]);
    assert_eq!(other.events(6), [AtsEvent::EVERYTHING]);
    // What the dead device does is not software's fault, nor what is left of it.
    for stream in [5, 7] {
        rig.ste(stream, &[ABORT]);
    }
    rig.submit(&[CFGI_ALL, SYNC]);
    assert_eq!(
        [5, 7].map(|of| read_from(&device, of)),
        [Outcome::Aborted; 2]
    );
    device.set_ats(false).unwrap();
    rig.model.kill_atc(5, false);
    rig.submit(&[SYNC, ATC_ALL, ATC_ALL_7, SYNC]);
    for stream in [5, 7] {
        let expected = [AtsEvent::Off, AtsEvent::EVERYTHING];
        assert_eq!(device.events(stream), expected);
    }
    rig.is_clean();
}

#[test]
fn a_switch_may_fail_and_a_device_may_go_away() {
    // On, and it cannot be switched off: not software's fault.
    let (rig, device) = on(Order::Adverse, 0);
    device.fail_switch(true);
    let error = device.set_ats(false).unwrap_err();
    assert_eq!((error.kind(), device.is_on()), (ErrorKind::Hardware, true));
    rig.ste(5, &[ABORT]);
    rig.submit(&[CFGI_5, SYNC]);
    assert_eq!(read(&device), Outcome::Aborted);
    rig.is_clean();
    // Off, and it cannot be switched on.
    let (rig, device) = on(Order::Adverse, 0);
    device.set_ats(false).unwrap();
    device.fail_switch(true);
    let error = device.set_ats(true).unwrap_err();
    assert_eq!((error.kind(), device.is_on()), (ErrorKind::Hardware, false));
    assert_eq!((read(&device), device.is_reachable()), (to(DATA), true));
    device.fail_switch(false);
    rig.submit(&[ATC_ALL, SYNC]);
    device.set_ats(true).unwrap();
    device.unplug();
    assert!(!device.is_reachable() && device.set_ats(false).is_err());
    assert_eq!(read(&device), Outcome::Aborted);
    rig.ste(5, &[ABORT]);
    rig.submit(&[CFGI_5, SYNC]);
    assert_eq!(rig.bank.read32(0x60), 0);
    rig.submit(&[ATC_ALL, SYNC]);
    assert_eq!(rig.bank.read32(0x60), 1);
    rig.is_clean();
}

#[test]
fn an_ignored_command_reaches_no_device() {
    let (rig, device) = on(Order::Adverse, 0);
    device.clear_events();
    rig.model.ignore_command(Box::new(|opcode| opcode == 0x40));
    rig.poke(S1 + 0x2018, &[0]);
    rig.submit(&[TLBI_PAGE, SYNC, ATC_ALL, SYNC]);
    assert_eq!((read(&device), device.events(5)), (to(DATA), vec![]));
    rig.is_clean();
    // Nor does one while translation is off.
    let rig = Rig::with_ats(config(Order::Adverse, 0), 0, ATSCHK);
    let device = AtsDevice::new(&rig.model, [5]);
    rig.cr0(0xc);
    rig.submit(&[ATC_ALL, SYNC]);
    assert_eq!(device.events(5), []);
    rig.is_clean();
}
