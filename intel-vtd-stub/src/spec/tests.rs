//! Bit positions against numbers worked out by hand from the masks in Linux's, QEMU's and
//! VirtualBox's headers, and against registers that QEMU's model shows.

use super::*;
use iommu_core::{ErrorKind, PhysAddr, StreamId};
use std::format;

#[test]
fn commands() {
    let bits = [
        (Gcmd::new().with_te(true), 0x8000_0000),
        (Gcmd::new().with_srtp(true), 0x4000_0000),
        (Gcmd::new().with_sfl(true), 0x2000_0000),
        (Gcmd::new().with_eafl(true), 0x1000_0000),
        (Gcmd::new().with_wbf(true), 0x0800_0000),
        (Gcmd::new().with_qie(true), 0x0400_0000),
        (Gcmd::new().with_ire(true), 0x0200_0000),
        (Gcmd::new().with_sirtp(true), 0x0100_0000),
        (Gcmd::new().with_cfi(true), 0x0080_0000),
    ];
    for (command, expected) in bits {
        assert_eq!(command.into_bits(), expected, "{command:?}");
    }
}

#[test]
fn statuses() {
    assert!(Gsts::from_bits(0x8000_0000).tes());
    assert!(Gsts::from_bits(0x4000_0000).rtps());
    assert!(Gsts::from_bits(0x2000_0000).fls());
    assert!(Gsts::from_bits(0x1000_0000).afls());
    assert!(Gsts::from_bits(0x0800_0000).wbfs());
    assert!(Gsts::from_bits(0x0400_0000).qies());
    assert!(Gsts::from_bits(0x0200_0000).ires());
    assert!(Gsts::from_bits(0x0100_0000).irtps());
    assert!(Gsts::from_bits(0x0080_0000).cfis());
}

#[test]
fn capabilities_of_qemu() {
    let cap = Cap::from_bits(0x00d2_008c_222f_0606);
    assert_eq!((cap.nd(), cap.sagaw(), cap.mgaw()), (6, 0b00110, 47));
    assert_eq!((cap.fro(), cap.nfr(), cap.sslps()), (0x22, 0, 0b11));
    assert_eq!((cap.psi(), cap.mamv()), (true, 18));
    assert!(cap.drd() && cap.dwd());
    assert!(!cap.afl() && !cap.rwbf() && !cap.plmr() && !cap.phmr() && !cap.cm());
    assert!(Cap::from_bits(0x00d2_008c_222f_0686).cm());
    assert_eq!(Cap::from_bits(0x00d2_008c_2226_0206).sagaw(), 0b00010);
    assert!(Cap::from_bits(0x01d2_008c_222f_0606).fs1gp() && !cap.fs1gp());

    let ecap = Ecap::from_bits(0xf42);
    assert!(ecap.qi() && ecap.pt());
    assert!(!ecap.c() && !ecap.dt() && !ecap.ir() && !ecap.sc() && !ecap.smts());
    assert!(!Ecap::from_bits(0xf02).pt());
    assert!(Ecap::from_bits(0xf46).dt());
    assert!(Ecap::from_bits(0xfc2).sc());
    let second = Ecap::from_bits(0x4800_8000_0f42);
    assert!(second.smts() && second.ssts() && !second.fsts() && !second.pasid());
    let first = Ecap::from_bits(0x8800_0000_0f42);
    assert!(first.smts() && first.fsts() && !first.ssts());
    // ecap_smpwc, ecap_pasid and ecap_pss of Linux.
    let pasids = Ecap::from_bits(1 << 48 | 1 << 40 | 19 << 35);
    assert!(pasids.smpwc() && pasids.pasid());
    assert_eq!(pasids.pss(), 19);
}

/// CAP_REG and VER_REG as the data sheet of the 4 Series chipset lists them.
#[test]
fn capabilities_of_a_chipset() {
    let cap = Cap::from_bits(0x00c9_0080_20e3_0272);
    assert!(cap.rwbf() && cap.plmr() && cap.phmr());
    assert!(!cap.afl() && !cap.cm());
    assert_eq!((cap.nd(), cap.sagaw(), cap.mgaw()), (2, 0b00010, 35));
    assert_eq!((cap.fro(), cap.sslps(), cap.mamv()), (0x20, 0, 9));
    let ver = Ver::from_bits(0x10);
    assert_eq!((ver.major(), ver.minor()), (1, 0));
}

#[test]
fn descriptors() {
    let source: SourceId = StreamId(0x1234).try_into().unwrap();
    let drain = Drain {
        reads: true,
        writes: true,
    };
    let pages = Pages::around(0x5000, 0x1000);
    let block = Pages::around(0x20_0000, 0x20_0000);
    // By QI_CC_*, QI_IOTLB_*, QI_PC_*, QI_EIOTLB_* and QI_IWD_* of Linux.
    let cases = [
        (Descriptor::contexts(), 0x11, 0),
        (Descriptor::contexts_domain(0xabcd), 0xabcd_0021, 0),
        (Descriptor::context(source, 0xabcd), 0x1234_abcd_0031, 0),
        (Descriptor::pasids(), 0x37, 0),
        (Descriptor::pasids_domain(0xabcd), 0xabcd_0007, 0),
        (Descriptor::pasid(0xf_1234, 0xabcd), 0xf_1234_abcd_0017, 0),
        (Descriptor::iotlb(Drain::default()), 0x12, 0),
        (Descriptor::iotlb(drain), 0xd2, 0),
        (Descriptor::iotlb_domain(0xabcd, drain), 0xabcd_00e2, 0),
        (Descriptor::iotlb_pages(3, pages, drain), 0x3_00f2, 0x5000),
        (
            Descriptor::iotlb_pages(3, block, drain),
            0x3_00f2,
            0x20_0009,
        ),
        (Descriptor::pasid_iotlb(3, 0xf_1234), 0xf_1234_0003_0026, 0),
        (
            Descriptor::pasid_iotlb_pages(3, 5, block),
            0x5_0003_0036,
            0x20_0009,
        ),
        (
            Descriptor::wait(PhysAddr(0x1000), 0xcafe),
            0xcafe_0000_0025,
            0x1000,
        ),
        (Descriptor::fence(PhysAddr(0x1000), 0), 0x65, 0x1000),
    ];
    for (descriptor, low, high) in cases {
        assert_eq!(descriptor.0, [low, high, 0, 0], "{descriptor:?}");
        assert_ne!(descriptor.name(), "an unknown descriptor");
    }
    assert_eq!(Descriptor([0x205, 0, 0, 0]).name(), "an unknown descriptor");
}

#[test]
fn a_block_of_pages_covers_its_bytes() {
    let cases = [
        (0, 0x1000, 0, 0),
        (0x1000, 1, 0x1000, 0),
        (0x1fff, 2, 0, 2),
        (0x3000, 0x2000, 0, 3),
        (0x4000_0000, 0x4000_0000, 0x4000_0000, 18),
        (0, 1 << 48, 0, 36),
        (0x7fff_ffff_f000, 0x2000, 0, 36),
        (0, u64::MAX, 0, 52),
    ];
    for (start, len, address, order) in cases {
        assert_eq!(Pages::around(start, len), Pages { address, order });
    }
}

#[test]
fn addresses_and_faults() {
    assert_eq!(
        Rtaddr::new().with_rta(0x1_2345).into_bits(),
        0x0000_0000_1234_5000
    );
    assert_eq!(Rtaddr::from_bits(0x1234_5400).ttm(), 1);
    assert_eq!(Rtaddr::from_bits(0x1234_5800).ttm(), 2);
    let queue = Iqa::new().with_iqa(0x1_2345).with_dw(true).with_qs(7);
    assert_eq!(queue.into_bits(), 0x1234_5807);
    let faults = Fsts::from_bits(0x0000_2a73);
    assert!(faults.pfo() && faults.ppf() && faults.iqe() && faults.ice() && faults.ite());
    assert_eq!(faults.fri(), 0x2a);
    assert!(Pmen::from_bits(0x8000_0000).epm() && Pmen::from_bits(1).prs());
    // DMAR_IQER_REG_* of Linux.
    let record = Iqercd::from_bits(0x1234_abcd_0000_0004);
    assert_eq!(
        (record.iqei(), record.itesid(), record.icesid()),
        (4, 0xabcd, 0x1234)
    );
}

#[test]
fn entries() {
    let root = RootWord::pointing_to(PhysAddr(0xf_ffff_ffff_f000));
    assert_eq!(root.into_bits(), 0x000f_ffff_ffff_f001);
    for (aw, high) in [
        (AddressWidth::BITS_39, 0x0101),
        (AddressWidth::BITS_48, 0x0102),
        (AddressWidth::BITS_57, 0x0103),
    ] {
        let entry = ContextEntry::pass_through(aw, 1);
        assert_eq!(entry.to_words(), [0x9, high], "{entry:?}");
    }
    let top = ContextEntry::translating(PhysAddr(0x5000), AddressWidth::BITS_48, 0xffff);
    assert_eq!(top.to_words(), [0x5001, 0x00ff_ff02]);
    let low = ContextLow::from_bits(0x1234_5007);
    assert!(low.p() && low.fpd());
    assert_eq!(
        (low.tt(), low.asr()),
        (TranslationType::TRANSLATE_ATS, 0x1_2345)
    );
}

#[test]
fn entries_of_scalable_mode() {
    let table = PhysAddr(0xf_ffff_ffff_f000);
    // pasid_set_* and PASID_ENTRY_PGTT_* of Linux, VTD_BF_*_SM_PASID_TBL_ENTRY_* of VirtualBox.
    let cases = [
        (
            PasidEntry::pass_through(AddressWidth::BITS_57, 1),
            [0x10d, 1, 0],
        ),
        (
            PasidEntry::second_stage(table, AddressWidth::BITS_39, 0xabcd),
            [0x000f_ffff_ffff_f085, 0xabcd, 0],
        ),
        (
            PasidEntry::first_stage(table, 0xabcd),
            [0x49, 0xabcd, 0x000f_ffff_ffff_f000],
        ),
    ];
    for (entry, words) in cases {
        assert_eq!(entry.to_words()[..3], words, "{entry:?}");
        assert_eq!(entry.to_words()[3..], [0; 5]);
    }
    let word1 = PasidWord1::new().with_pwsnp(true).with_pgsnp(true);
    assert_eq!(word1.into_bits(), 0x0180_0000);
    let word2 = PasidWord2::new().with_sre(true).with_fspm(1).with_wpe(true);
    assert_eq!(word2.into_bits(), 0b1_0101);
    assert_eq!(PasidWord0::new().with_ssade(true).into_bits(), 0x200);
    assert_eq!(
        scalable_context(table, true),
        [0x000f_ffff_ffff_f009, 0, 0, 0]
    );
    let context = ScalableContextLow::new()
        .with_dte(true)
        .with_pre(true)
        .with_pdts(7);
    assert_eq!(context.into_bits(), 0xe14);
    let high = ScalableContextHigh::new()
        .with_rid_pasid(0xf_ffff)
        .with_rid_priv(true);
    assert_eq!(high.into_bits(), 0x1f_ffff);
    assert_eq!(
        DirectoryEntry::pointing_to(PhysAddr(0x5000)).into_bits(),
        0x5001
    );
}

#[test]
fn no_value_panics() {
    for bits in [u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa] {
        let low = u32::try_from(bits >> 32).unwrap();
        let printed = [
            format!("{:?}{:?}", Cap::from_bits(bits), Ecap::from_bits(bits)),
            format!("{:?}{:?}", Iqa::from_bits(bits), Iqercd::from_bits(bits)),
            format!(
                "{:?}{:?}",
                Rtaddr::from_bits(bits),
                RootWord::from_bits(bits)
            ),
            format!("{:?}", ContextLow::from_bits(bits)),
            format!("{:?}", ContextHigh::from_bits(bits)),
            format!(
                "{:?}{:?}",
                PasidWord0::from_bits(bits),
                PasidWord1::from_bits(bits)
            ),
            format!("{:?}", PasidWord2::from_bits(bits)),
            format!("{:?}", ScalableContextLow::from_bits(bits)),
            format!("{:?}", DirectoryEntry::from_bits(bits)),
            format!("{:?}", Descriptor([bits; 4])),
            format!("{:?}{:?}", Gcmd::from_bits(low), Gsts::from_bits(low)),
            format!("{:?}{:?}", Fsts::from_bits(low), Pmen::from_bits(low)),
            format!("{:?}", Ver::from_bits(low)),
        ];
        assert!(printed.iter().all(|text| !text.is_empty()));
        assert_eq!(ContextHigh::from_bits(bits).into_bits(), bits);
        for reason in 0..=0xff {
            let high = bits & !(0xff << 32) | reason << 32;
            assert!(!format!("{}", Fault::from_words(bits, high)).is_empty());
        }
    }
}

#[test]
fn a_source_id_has_sixteen_bits() {
    let id = SourceId::try_from(StreamId(0x12ab)).unwrap();
    assert_eq!((id.bus(), id.devfn(), id.bits()), (0x12, 0xab, 0x12ab));
    assert!(SourceId::try_from(StreamId(0xffff)).is_ok());
    let error = SourceId::try_from(StreamId(0x1_0000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}
