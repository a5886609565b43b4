//! Faults, by type: each with its record, field by field.
//!
//! Tables are broken in memory behind the driver's back before the hardware has read them.

use iommu_core::Prot;

use super::lab::{Hardware, Lab, PAGE, Rig, contents};
use super::outsider::{Kind, Record};
use crate::machine::Machine;

const AT: u64 = 0x12_3456_7000;
/// An address where nothing answers, within the 44 bits that the hardware has.
const NOWHERE: u64 = 0x0800_0000_0000;

/// Lets the master write, then read, a word at `iova`; one record each, both alike.
#[track_caller]
fn provoke<M: Machine>(lab: &Lab<M>, rig: &Rig<'_, M>, iova: u64) -> [Record; 2] {
    rig.silent();
    lab.put(0, iova, &lab.fresh());
    let write = rig.event();
    assert_eq!(lab.get(0, iova), [0; 4]);
    let read = rig.event();
    for event in [write, read] {
        assert_eq!(event.stream(), u64::from(lab.stream(0).0), "{event:?}");
    }
    assert_eq!(write.number(), read.number());
    [write, read]
}

/// Checks what faults of translation have in common.
#[track_caller]
fn check<M: Machine>(lab: &Lab<M>, event: Record, kind: Kind, read: bool, iova: u64) {
    assert!(event.is(kind), "{kind:?}: {event:?}");
    assert_eq!(event.stream(), u64::from(lab.stream(0).0), "{event:?}");
    assert_eq!(event.is_read(), read, "{event:?}");
    assert_eq!(event.input(), iova, "{event:?}");
    assert_eq!(event.class(), 2, "{event:?}");
    assert_eq!(
        event.stage(),
        if lab.is_stage2() { 2 } else { 1 },
        "{event:?}"
    );
    if lab.is_stage2() {
        let low = match lab.hardware() {
            Hardware::Model => 0,
            // QEMU tells the offset in the page too, where the record has zeros.
            Hardware::Qemu => 0xfff,
        };
        assert_eq!(event.address() & !low, iova & !0xfff, "{event:?}");
    }
}

/// The same of a write and a read.
#[track_caller]
fn check_both<M: Machine>(lab: &Lab<M>, events: [Record; 2], kind: Kind, iova: u64) {
    check(lab, events[0], kind, false, iova);
    check(lab, events[1], kind, true, iova);
}

/// `F_TRANSLATION`: nothing is mapped.
pub fn nothing_mapped_is_a_translation_fault<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    check_both(
        lab,
        provoke(lab, &rig, AT + 0x678),
        Kind::Translation,
        AT + 0x678,
    );
    let page = lab.page(&device.domain().unwrap(), AT);
    lab.reaches(0, AT + 0x678, page.block(), 0x678);
    let behind = AT + PAGE + 4;
    check_both(lab, provoke(lab, &rig, behind), Kind::Translation, behind);
    device.release().unwrap();
}

/// `F_PERMISSION`: a write to what may only be read. Reads go on.
pub fn a_write_to_read_only_memory_is_a_permission_fault<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(PAGE);
    lab.map_as(&domain, AT, &block, 0, PAGE, Prot::READ)
        .unwrap();
    for cached in [false, true, true] {
        let kept = lab.fresh();
        block.write_at(8, &kept);
        lab.put(0, AT + 8, &lab.fresh());
        assert_eq!(contents(&block, 8), kept);
        check_permission(lab, &rig, cached, false);
        lab.reads(0, AT + 8, &block, 8);
        rig.silent();
    }
    device.release().unwrap();
}

/// `F_PERMISSION`: a read of what may only be written, which stage 2 can express. Writes go on.
pub fn a_read_of_write_only_memory_is_a_permission_fault<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let domain = device.domain().unwrap();
    let block = lab.block(PAGE);
    lab.map_as(&domain, AT, &block, 0, PAGE, Prot::WRITE)
        .unwrap();
    for cached in [false, true, true] {
        block.write_at(8, &lab.fresh());
        assert_eq!(lab.get(0, AT + 8), [0; 4]);
        check_permission(lab, &rig, cached, true);
        lab.writes(0, AT + 8, &block, 8);
        rig.silent();
    }
    device.release().unwrap();
}

#[track_caller]
fn check_permission<M: Machine>(lab: &Lab<M>, rig: &Rig<'_, M>, cached: bool, read: bool) {
    if cached && lab.is_stage2() && lab.hardware() == Hardware::Qemu {
        // QEMU takes a permission fault that it finds in its TLB for one of stage 1, and asks the
        // context descriptor, which there is none of, whether to record it.
        rig.silent();
    } else {
        check(lab, rig.event(), Kind::Permission, read, AT + 8);
    }
}

/// `F_ACCESS`: a page without its access flag.
pub fn a_page_without_access_flag_is_an_access_fault<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let leaf = outsider.walk(lab.stream(0), AT);
    let altered = outsider.alter(leaf.at, leaf.descriptor & !(1 << 10));
    check_both(lab, provoke(lab, &rig, AT + 4), Kind::Access, AT + 4);
    drop(altered);
    lab.reaches(0, AT + 4, page.block(), 4);
    rig.silent();
    device.release().unwrap();
}

/// `F_ADDR_SIZE`: a page beyond the physical addresses.
pub fn a_page_beyond_memory_is_an_address_size_fault<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let leaf = outsider.walk(lab.stream(0), AT);
    let altered = outsider.alter(leaf.at, leaf.descriptor | 1 << 46);
    check_both(lab, provoke(lab, &rig, AT), Kind::AddressSize, AT);
    drop(altered);
    lab.reaches(0, AT, page.block(), 0);
    device.release().unwrap();
}

/// `F_WALK_EABT`: a table where no memory answers.
pub fn a_table_that_is_not_there_is_a_walk_abort<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let above = outsider.walk(lab.stream(0), AT).above.unwrap();
    let altered = outsider.alter(above, NOWHERE | 0b11);
    let [write, read] = provoke(lab, &rig, AT + 4);
    for (event, is_read) in [(write, false), (read, true)] {
        assert!(event.is(Kind::WalkExternalAbort), "{event:?}");
        assert_eq!(event.input(), AT + 4, "{event:?}");
        assert_eq!(event.is_read(), is_read, "{event:?}");
        let entry = NOWHERE + (AT >> 12 & 0x1ff) * 8;
        match lab.hardware() {
            Hardware::Model => assert_eq!(event.address(), entry, "{event:?}"),
            // QEMU tells the table at best, not the entry in it.
            Hardware::Qemu => {}
        }
    }
    drop(altered);
    // The hardware may keep the way to a table, until the domain is gone: its tag is invalidated.
    drop(page.unmap().unwrap());
    device.release().unwrap();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    lab.reaches(0, AT + 4, page.block(), 4);
    device.release().unwrap();
}

/// `C_BAD_STE`: an entry that is not valid, and one of an illegal kind.
pub fn an_invalid_entry_is_a_bad_ste<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let at = outsider.ste(lab.stream(0), 0);
    let altered = outsider.alter(at, outsider.word(at) & !1);
    for event in provoke(lab, &rig, AT) {
        assert!(event.is(Kind::BadSte), "{event:?}");
    }
    drop(altered);
    // The hardware may keep an entry that it found invalid.
    let domain = device.domain().unwrap();
    device.attach(&rig.iommu.blocked_domain()).unwrap();
    device.attach(&domain).unwrap();
    lab.reaches(0, AT, page.block(), 0);
    rig.silent();
    device.release().unwrap();
}

/// `F_STE_FETCH`: the second level of the stream table where no memory answers.
pub fn a_stream_table_that_is_not_there_is_an_ste_fetch<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let level1 = outsider.level1(lab.stream(0)).unwrap();
    let span = outsider.word(level1) & 0x1f;
    let altered = outsider.alter(level1, NOWHERE | span);
    for event in provoke(lab, &rig, AT) {
        assert!(event.is(Kind::SteFetch), "{event:?}");
        let entry = NOWHERE + u64::from(lab.stream(0).0) * 64;
        assert_eq!(event.address(), entry, "{event:?}");
    }
    drop(altered);
    drop(page);
    device.release().unwrap();
}

/// `C_BAD_CD`: a context descriptor that is not valid.
pub fn an_invalid_context_is_a_bad_cd<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let cd = outsider.cd(lab.stream(0), 0);
    let altered = outsider.alter(cd, outsider.word(cd) & !(1 << 31));
    for event in provoke(lab, &rig, AT) {
        assert!(event.is(Kind::BadCd), "{event:?}");
    }
    drop(altered);
    drop(page);
    device.release().unwrap();
}

/// `F_CD_FETCH`: a context descriptor where no memory answers.
pub fn a_context_that_is_not_there_is_a_cd_fetch<M: Machine>(lab: &Lab<M>) {
    let rig = lab.rig();
    let device = rig.add(0);
    let page = lab.page(&device.domain().unwrap(), AT);
    let outsider = lab.outsider();
    let at = outsider.ste(lab.stream(0), 0);
    let low = outsider.word(at) & 0x3f;
    let altered = outsider.alter(at, NOWHERE | low);
    for event in provoke(lab, &rig, AT) {
        assert!(event.is(Kind::CdFetch), "{event:?}");
        let fetched = match lab.hardware() {
            Hardware::Model => event.address(),
            // QEMU puts it where other events have the input address.
            Hardware::Qemu => event.input(),
        };
        assert_eq!(fetched, NOWHERE, "{event:?}");
    }
    drop(altered);
    drop(page);
    device.release().unwrap();
}
