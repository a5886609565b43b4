//! Bit positions against numbers worked out by hand from the masks in Linux's and QEMU's headers,
//! and against registers that QEMU's model shows.

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
    assert!(cap.drd() && cap.dwd());
    assert!(!cap.afl() && !cap.rwbf() && !cap.plmr() && !cap.phmr() && !cap.cm());
    assert!(Cap::from_bits(0x00d2_008c_222f_0686).cm());
    assert_eq!(Cap::from_bits(0x00d2_008c_2226_0206).sagaw(), 0b00010);

    let ecap = Ecap::from_bits(0xf42);
    assert!(ecap.qi() && ecap.pt());
    assert!(!ecap.c() && !ecap.dt() && !ecap.ir() && !ecap.sc() && !ecap.smts());
    assert_eq!(usize::from(ecap.iro()) * 16 + IOTLB_OFFSET, 0xf8);
    assert!(!Ecap::from_bits(0xf02).pt());
    assert!(Ecap::from_bits(0xf46).dt());
    assert!(Ecap::from_bits(0xfc2).sc());
    assert!(Ecap::from_bits(0x4800_8000_0f42).smts());
}

/// CAP_REG and VER_REG as the data sheet of the 4 Series chipset lists them.
#[test]
fn capabilities_of_a_chipset() {
    let cap = Cap::from_bits(0x00c9_0080_20e3_0272);
    assert!(cap.rwbf() && cap.plmr() && cap.phmr());
    assert!(!cap.afl() && !cap.cm());
    assert_eq!((cap.nd(), cap.sagaw(), cap.mgaw()), (2, 0b00010, 35));
    let ver = Ver::from_bits(0x10);
    assert_eq!((ver.major(), ver.minor()), (1, 0));
}

#[test]
fn invalidations() {
    let contexts = Ccmd::new().with_icc(true).with_cirg(Granularity::GLOBAL);
    assert_eq!(contexts.into_bits(), 0xa000_0000_0000_0000);
    let one = contexts
        .with_cirg(Granularity::SELECTIVE)
        .with_fm(2)
        .with_sid(0x1234)
        .with_did(0xabcd);
    assert_eq!(one.into_bits(), 0xe000_0002_1234_abcd);
    assert_eq!(
        Ccmd::from_bits(0x1000_0000_0000_0000).caig(),
        Granularity::DOMAIN
    );

    let translations = Iotlb::new().with_ivt(true).with_iirg(Granularity::GLOBAL);
    assert_eq!(translations.into_bits(), 0x9000_0000_0000_0000);
    let domain = translations
        .with_iirg(Granularity::DOMAIN)
        .with_dr(true)
        .with_dw(true)
        .with_did(0xabcd);
    assert_eq!(domain.into_bits(), 0xa003_abcd_0000_0000);
    assert_eq!(
        Iotlb::from_bits(0x0200_0000_0000_0000).iaig(),
        Granularity::GLOBAL
    );
}

#[test]
fn addresses_and_faults() {
    assert_eq!(
        Rtaddr::new().with_rta(0x1_2345).into_bits(),
        0x0000_0000_1234_5000
    );
    assert_eq!(Rtaddr::from_bits(0x1234_5400).ttm(), 1);
    assert_eq!(Rtaddr::from_bits(0x1234_5800).ttm(), 2);
    let faults = Fsts::from_bits(0x0000_2a73);
    assert!(faults.pfo() && faults.ppf() && faults.iqe() && faults.ice() && faults.ite());
    assert_eq!(faults.fri(), 0x2a);
    assert!(Pmen::from_bits(0x8000_0000).epm() && Pmen::from_bits(1).prs());
}

#[test]
fn entries() {
    let root = RootLow::pointing_to(PhysAddr(0xf_ffff_ffff_f000));
    assert_eq!(root.into_bits(), 0x000f_ffff_ffff_f001);
    for (aw, high) in [
        (AddressWidth::BITS_39, 0x0101),
        (AddressWidth::BITS_48, 0x0102),
        (AddressWidth::BITS_57, 0x0103),
    ] {
        let entry = ContextEntry::pass_through(aw, 1);
        assert_eq!(
            (entry.low.into_bits(), entry.high.into_bits()),
            (0x9, high),
            "{entry:?}"
        );
    }
    let top = ContextEntry::pass_through(AddressWidth::BITS_48, 0xffff);
    assert_eq!(top.high.into_bits(), 0x00ff_ff02);
    let low = ContextLow::from_bits(0x1234_5007);
    assert!(low.p() && low.fpd());
    assert_eq!(
        (low.tt(), low.asr()),
        (TranslationType::TRANSLATE_ATS, 0x1_2345)
    );
}

#[test]
fn no_value_panics() {
    for bits in [u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa] {
        let low = u32::try_from(bits >> 32).unwrap();
        let printed = [
            format!("{:?}{:?}", Cap::from_bits(bits), Ecap::from_bits(bits)),
            format!("{:?}{:?}", Ccmd::from_bits(bits), Iotlb::from_bits(bits)),
            format!(
                "{:?}{:?}",
                Rtaddr::from_bits(bits),
                RootLow::from_bits(bits)
            ),
            format!("{:?}", ContextLow::from_bits(bits)),
            format!("{:?}", ContextHigh::from_bits(bits)),
            format!("{:?}{:?}", Gcmd::from_bits(low), Gsts::from_bits(low)),
            format!("{:?}{:?}", Fsts::from_bits(low), Pmen::from_bits(low)),
            format!("{:?}", Ver::from_bits(low)),
        ];
        assert!(printed.iter().all(|text| !text.is_empty()));
        assert_eq!(Ccmd::from_bits(bits).into_bits(), bits);
        assert_eq!(ContextHigh::from_bits(bits).into_bits(), bits);
    }
}

#[test]
fn a_source_id_has_sixteen_bits() {
    let id = SourceId::try_from(StreamId(0x12ab)).unwrap();
    assert_eq!((id.bus(), id.devfn()), (0x12, 0xab));
    assert!(SourceId::try_from(StreamId(0xffff)).is_ok());
    let error = SourceId::try_from(StreamId(0x1_0000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}
