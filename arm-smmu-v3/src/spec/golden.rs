//! Bits against literals from other sources, never against the accessors themselves.
//!
//! Sources: the masks of Linux (`arm-smmu-v3.h`), the field macros of QEMU (`smmuv3-internal.h`)
//! and the masks of FreeBSD (`smmureg.h`). A field that none of them has is marked "text" and
//! comes from the section of the specification that is named.

use super::cd;
use super::registers::{
    Aidr, CmdqCons, Cr0, Cr1, Cr2, Gbpa, Gerror, Idr0, Idr1, Idr3, Idr5, IrqCtrl, QueueBase,
    StrtabBase, StrtabBaseCfg, cerror, offset,
};
use super::ste::{self, Config, L1Std};

mod records;

/// For each field: its largest value encodes to the mask, the mask decodes to that value, and all
/// bits outside the mask leave the field empty.
macro_rules! fields {
    ($type:ty { $($get:ident $with:ident $largest:expr => $mask:literal;)+ }) => {$(
        let name = concat!(stringify!($type), ".", stringify!($get));
        assert_eq!(<$type>::new().$with($largest).into_bits(), $mask, "{name}");
        assert_eq!(<$type>::from_bits($mask).$get(), $largest, "{name}");
        assert_eq!(<$type>::from_bits(!$mask).$get(), <$type>::new().$get(), "{name}");
    )+};
}

#[test]
fn registers_are_where_others_find_them() {
    // Linux ARM_SMMU_*; the event queue's indexes as in FreeBSD, which counts page 1 in.
    let offsets = [
        (offset::IDR0, 0x0),
        (offset::IDR1, 0x4),
        (offset::IDR3, 0xc),
        (offset::IDR5, 0x14),
        (offset::AIDR, 0x1c),
        (offset::CR0, 0x20),
        (offset::CR0ACK, 0x24),
        (offset::CR1, 0x28),
        (offset::CR2, 0x2c),
        (offset::GBPA, 0x44),
        (offset::IRQ_CTRL, 0x50),
        (offset::IRQ_CTRLACK, 0x54),
        (offset::GERROR, 0x60),
        (offset::GERRORN, 0x64),
        (offset::GERROR_IRQ_CFG0, 0x68),
        (offset::STRTAB_BASE, 0x80),
        (offset::STRTAB_BASE_CFG, 0x88),
        (offset::CMDQ_BASE, 0x90),
        (offset::CMDQ_PROD, 0x98),
        (offset::CMDQ_CONS, 0x9c),
        (offset::EVENTQ_BASE, 0xa0),
        (offset::EVENTQ_IRQ_CFG0, 0xb0),
        (offset::EVENTQ_PROD, 0x100a8),
        (offset::EVENTQ_CONS, 0x100ac),
    ];
    for (ours, theirs) in offsets {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn identification_registers_have_the_fields_of_others() {
    // FreeBSD IDR0_*, of which Linux and QEMU have a part; text: ATSRECERR, RME_IMPL (6.3.1).
    fields!(Idr0 {
        s2p with_s2p true => 0x0000_0001;
        s1p with_s1p true => 0x0000_0002;
        ttf with_ttf 3 => 0x0000_000c;
        cohacc with_cohacc true => 0x0000_0010;
        btm with_btm true => 0x0000_0020;
        httu with_httu 3 => 0x0000_00c0;
        dormhint with_dormhint true => 0x0000_0100;
        hyp with_hyp true => 0x0000_0200;
        ats with_ats true => 0x0000_0400;
        ns1ats with_ns1ats true => 0x0000_0800;
        asid16 with_asid16 true => 0x0000_1000;
        msi with_msi true => 0x0000_2000;
        sev with_sev true => 0x0000_4000;
        atos with_atos true => 0x0000_8000;
        pri with_pri true => 0x0001_0000;
        vmw with_vmw true => 0x0002_0000;
        vmid16 with_vmid16 true => 0x0004_0000;
        cd2l with_cd2l true => 0x0008_0000;
        vatos with_vatos true => 0x0010_0000;
        ttendian with_ttendian 3 => 0x0060_0000;
        atsrecerr with_atsrecerr true => 0x0080_0000;
        stall_model with_stall_model 3 => 0x0300_0000;
        term_model with_term_model true => 0x0400_0000;
        st_level with_st_level 3 => 0x1800_0000;
        rme_impl with_rme_impl true => 0x4000_0000;
    });
    // Linux and FreeBSD IDR1_*; text: ECMDQ (6.3.2).
    fields!(Idr1 {
        sidsize with_sidsize 0x3f => 0x0000_003f;
        ssidsize with_ssidsize 0x1f => 0x0000_07c0;
        priqs with_priqs 0x1f => 0x0000_f800;
        eventqs with_eventqs 0x1f => 0x001f_0000;
        cmdqs with_cmdqs 0x1f => 0x03e0_0000;
        attr_perms_ovr with_attr_perms_ovr true => 0x0400_0000;
        attr_types_ovr with_attr_types_ovr true => 0x0800_0000;
        rel with_rel true => 0x1000_0000;
        queues_preset with_queues_preset true => 0x2000_0000;
        tables_preset with_tables_preset true => 0x4000_0000;
        ecmdq with_ecmdq true => 0x8000_0000;
    });
    // Linux IDR3_RIL; text: FWB, STT, BBML (6.3.4).
    fields!(Idr3 {
        fwb with_fwb true => 0x0000_0100;
        stt with_stt true => 0x0000_0200;
        ril with_ril true => 0x0000_0400;
        bbml with_bbml 3 => 0x0000_1800;
    });
    // Linux IDR5_*; text: DS, D128 (6.3.6).
    fields!(Idr5 {
        oas with_oas 7 => 0x0000_0007;
        gran4k with_gran4k true => 0x0000_0010;
        gran16k with_gran16k true => 0x0000_0020;
        gran64k with_gran64k true => 0x0000_0040;
        ds with_ds true => 0x0000_0080;
        d128 with_d128 true => 0x0000_0100;
        vax with_vax 3 => 0x0000_0c00;
        stall_max with_stall_max 0xffff => 0xffff_0000;
    });
    // Text: 6.3.8.
    fields!(Aidr {
        minor with_minor 0xf => 0x0000_000f;
        major with_major 0xf => 0x0000_00f0;
    });
}

#[test]
fn output_sizes_are_those_of_linux() {
    // Linux IDR5_OAS_*_BIT.
    let sizes = [
        (0x10, Some(32)),
        (0x11, Some(36)),
        (0x12, Some(40)),
        (0x13, Some(42)),
        (0x14, Some(44)),
        (0x15, Some(48)),
        (0x16, Some(52)),
        (0x17, None),
    ];
    for (raw, bits) in sizes {
        assert_eq!(Idr5::from_bits(raw).output_bits(), bits);
    }
}

#[test]
fn control_registers_have_the_fields_of_others() {
    // Linux CR0_*, FreeBSD CR0_VMW; text: DPT_WALK_EN (6.3.9).
    fields!(Cr0 {
        smmuen with_smmuen true => 0x0000_0001;
        priqen with_priqen true => 0x0000_0002;
        eventqen with_eventqen true => 0x0000_0004;
        cmdqen with_cmdqen true => 0x0000_0008;
        atschk with_atschk true => 0x0000_0010;
        vmw with_vmw 7 => 0x0000_01c0;
        dpt_walk_en with_dpt_walk_en true => 0x0000_0400;
    });
    // Linux CR1_*.
    fields!(Cr1 {
        queue_ic with_queue_ic 3 => 0x0000_0003;
        queue_oc with_queue_oc 3 => 0x0000_000c;
        queue_sh with_queue_sh 3 => 0x0000_0030;
        table_ic with_table_ic 3 => 0x0000_00c0;
        table_oc with_table_oc 3 => 0x0000_0300;
        table_sh with_table_sh 3 => 0x0000_0c00;
    });
    // Linux CR2_*; text: REC_CFG_ATS (6.3.12).
    fields!(Cr2 {
        e2h with_e2h true => 0x0000_0001;
        recinvsid with_recinvsid true => 0x0000_0002;
        ptm with_ptm true => 0x0000_0004;
        rec_cfg_ats with_rec_cfg_ats true => 0x0000_0008;
    });
    // Linux GBPA_*. What firmware left in bits 19:0 is written back as it was.
    fields!(Gbpa {
        abort with_abort true => 0x0010_0000;
        update with_update true => 0x8000_0000;
    });
    let firmware = Gbpa::from_bits(0x000f_3f1f);
    let aborting = firmware.with_abort(true).with_update(true);
    assert_eq!(aborting.into_bits(), 0x801f_3f1f);
    // Linux IRQ_CTRL_*.
    fields!(IrqCtrl {
        gerror with_gerror true => 0x0000_0001;
        priq with_priq true => 0x0000_0002;
        eventq with_eventq true => 0x0000_0004;
    });
    // Linux GERROR_*; text: CMDQP_ERR, DPT_ERR (6.3.19).
    fields!(Gerror {
        cmdq with_cmdq true => 0x0000_0001;
        eventq_abt with_eventq_abt true => 0x0000_0004;
        priq_abt with_priq_abt true => 0x0000_0008;
        msi_cmdq_abt with_msi_cmdq_abt true => 0x0000_0010;
        msi_eventq_abt with_msi_eventq_abt true => 0x0000_0020;
        msi_priq_abt with_msi_priq_abt true => 0x0000_0040;
        msi_gerror_abt with_msi_gerror_abt true => 0x0000_0080;
        sfm with_sfm true => 0x0000_0100;
        cmdqp with_cmdqp true => 0x0000_0200;
        dpt with_dpt true => 0x0000_0400;
    });
}

#[test]
fn table_and_queue_registers_have_the_fields_of_others() {
    // Linux STRTAB_BASE_*, Q_BASE_*, CMDQ_CONS_ERR. Linux stops addresses at bit 51; bits 55:52
    // are text (6.3.24, 6.3.26, 6.3.29).
    fields!(StrtabBase {
        addr with_addr 0x3_ffff_ffff_ffff => 0x00ff_ffff_ffff_ffc0;
        ra with_ra true => 0x4000_0000_0000_0000;
    });
    fields!(StrtabBaseCfg {
        log2size with_log2size 0x3f => 0x0000_003f;
        split with_split 0x1f => 0x0000_07c0;
        fmt with_fmt 3 => 0x0003_0000;
    });
    fields!(QueueBase {
        log2size with_log2size 0x1f => 0x0000_0000_0000_001f;
        addr with_addr 0x7_ffff_ffff_ffff => 0x00ff_ffff_ffff_ffe0;
        allocate with_allocate true => 0x4000_0000_0000_0000;
    });
    fields!(CmdqCons {
        rd with_rd 0xf_ffff => 0x000f_ffff;
        err with_err 0x7f => 0x7f00_0000;
    });
    // Linux CMDQ_ERR_CERROR_*_IDX, QEMU SMMU_CERROR_*.
    let reasons = [cerror::NONE, cerror::ILL, cerror::ABT, cerror::ATC_INV_SYNC];
    assert_eq!(reasons, [0, 1, 2, 3]);
}

#[test]
fn stream_table_entries_have_the_fields_of_others() {
    // Linux STRTAB_STE_*, FreeBSD STE*; QEMU agrees but for S2S, which its older header has at
    // S2R's place. Linux stops addresses at bit 51; bits 55:52 are text (5.1, 5.2).
    fields!(ste::Word0 {
        valid with_valid true => 0x0000_0000_0000_0001;
        config with_config Config(7) => 0x0000_0000_0000_000e;
        s1_fmt with_s1_fmt 3 => 0x0000_0000_0000_0030;
        s1_context_ptr with_s1_context_ptr 0x3_ffff_ffff_ffff => 0x00ff_ffff_ffff_ffc0;
        s1_cd_max with_s1_cd_max 0x1f => 0xf800_0000_0000_0000;
    });
    fields!(ste::Word1 {
        s1_dss with_s1_dss 3 => 0x0000_0000_0000_0003;
        s1_cir with_s1_cir 3 => 0x0000_0000_0000_000c;
        s1_cor with_s1_cor 3 => 0x0000_0000_0000_0030;
        s1_csh with_s1_csh 3 => 0x0000_0000_0000_00c0;
        mev with_mev true => 0x0000_0000_0008_0000;
        s1_stalld with_s1_stalld true => 0x0000_0000_0800_0000;
        eats with_eats 3 => 0x0000_0000_3000_0000;
        strw with_strw 3 => 0x0000_0000_c000_0000;
        shcfg with_shcfg 3 => 0x0000_3000_0000_0000;
    });
    fields!(ste::Word2 {
        s2_vmid with_s2_vmid 0xffff => 0x0000_0000_0000_ffff;
        s2_t0sz with_s2_t0sz 0x3f => 0x0000_003f_0000_0000;
        s2_sl0 with_s2_sl0 3 => 0x0000_00c0_0000_0000;
        s2_ir0 with_s2_ir0 3 => 0x0000_0300_0000_0000;
        s2_or0 with_s2_or0 3 => 0x0000_0c00_0000_0000;
        s2_sh0 with_s2_sh0 3 => 0x0000_3000_0000_0000;
        s2_tg with_s2_tg 3 => 0x0000_c000_0000_0000;
        s2_ps with_s2_ps 7 => 0x0007_0000_0000_0000;
        s2_aa64 with_s2_aa64 true => 0x0008_0000_0000_0000;
        s2_endi with_s2_endi true => 0x0010_0000_0000_0000;
        s2_affd with_s2_affd true => 0x0020_0000_0000_0000;
        s2_ptw with_s2_ptw true => 0x0040_0000_0000_0000;
        s2_s with_s2_s true => 0x0200_0000_0000_0000;
        s2_r with_s2_r true => 0x0400_0000_0000_0000;
    });
    fields!(ste::Word3 {
        s2_ttb with_s2_ttb 0xf_ffff_ffff_ffff => 0x00ff_ffff_ffff_fff0;
    });
    fields!(L1Std {
        span with_span 0x1f => 0x0000_0000_0000_001f;
        l2_ptr with_l2_ptr 0x3_ffff_ffff_ffff => 0x00ff_ffff_ffff_ffc0;
    });
    // Linux STRTAB_STE_0_CFG_*, FreeBSD STE0_CONFIG_ALL_TRANS, QEMU STE_CFG_ABORT.
    let configs = [
        (Config::ABORT, 0, true),
        (Config::BYPASS, 4, false),
        (Config::STAGE1, 5, false),
        (Config::STAGE2, 6, false),
        (Config::NESTED, 7, false),
        (Config(3), 3, true),
    ];
    for (config, raw, aborts) in configs {
        assert_eq!((config.0, config.aborts()), (raw, aborts));
    }
}

#[test]
fn context_descriptors_have_the_fields_of_others() {
    // Linux CTXDESC_CD_*, FreeBSD CD0_*, QEMU CD_*; TTB0 bits 55:52 are text (5.4).
    fields!(cd::Word0 {
        t0sz with_t0sz 0x3f => 0x0000_0000_0000_003f;
        tg0 with_tg0 3 => 0x0000_0000_0000_00c0;
        ir0 with_ir0 3 => 0x0000_0000_0000_0300;
        or0 with_or0 3 => 0x0000_0000_0000_0c00;
        sh0 with_sh0 3 => 0x0000_0000_0000_3000;
        epd0 with_epd0 true => 0x0000_0000_0000_4000;
        endi with_endi true => 0x0000_0000_0000_8000;
        epd1 with_epd1 true => 0x0000_0000_4000_0000;
        valid with_valid true => 0x0000_0000_8000_0000;
        ips with_ips 7 => 0x0000_0007_0000_0000;
        affd with_affd true => 0x0000_0008_0000_0000;
        aa64 with_aa64 true => 0x0000_0200_0000_0000;
        s with_s true => 0x0000_1000_0000_0000;
        r with_r true => 0x0000_2000_0000_0000;
        a with_a true => 0x0000_4000_0000_0000;
        aset with_aset true => 0x0000_8000_0000_0000;
        asid with_asid 0xffff => 0xffff_0000_0000_0000;
    });
    fields!(cd::Word1 {
        ttb0 with_ttb0 0xf_ffff_ffff_ffff => 0x00ff_ffff_ffff_fff0;
    });
}
