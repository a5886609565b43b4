//! Stream table entries of all kinds, with the context descriptors that count for them: put together
//! by the bit numbers of the specification (5.2, 5.4).

use mock_hw::smmuv3::Image;
use proptest::prelude::*;

pub(crate) type Words = [u64; 8];

/// The table of context descriptors whose descriptors stall.
pub(crate) const STALLING: u8 = 3;
/// How many tables there are, of four descriptors each.
pub(crate) const TABLES: u8 = 4;
const DESCRIPTORS: u32 = 4;

/// Sets the bits `high` to `low` of an entry.
fn set(words: &mut Words, high: u32, low: u32, value: u64) {
    let word = &mut words[(low / 64) as usize];
    let mask = (u64::MAX >> (63 - (high - low))) << (low % 64);
    *word = *word & !mask | value << (low % 64) & mask;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stage1 {
    /// `S1DSS`.
    pub dss: u8,
    /// `S1STALLD`.
    pub forbids_stalls: bool,
    /// Which table of context descriptors.
    pub table: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stage2 {
    /// `S2S`.
    pub stalls: bool,
    /// Which translation tables, and so which VMID, from 1.
    pub tables: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Abort,
    /// `SHCFG`.
    Bypass {
        share: u8,
    },
    Stages {
        one: Option<Stage1>,
        two: Option<Stage2>,
        /// `EATS`.
        ats: u8,
        /// `SHCFG`.
        share: u8,
        /// `MEV`.
        merges: bool,
    },
}

impl Kind {
    pub(crate) fn stage1(one: Stage1) -> Self {
        Self::stages(Some(one), None)
    }

    pub(crate) fn stage2(two: Stage2) -> Self {
        Self::stages(None, Some(two))
    }

    pub(crate) fn nested(one: Stage1, two: Stage2) -> Self {
        Self::stages(Some(one), Some(two))
    }

    fn stages(one: Option<Stage1>, two: Option<Stage2>) -> Self {
        Self::Stages {
            one,
            two,
            ats: 0,
            share: 1,
            merges: false,
        }
    }

    pub(crate) fn with_ats(self, eats: u8) -> Self {
        match self {
            Self::Stages {
                one,
                two,
                share,
                merges,
                ..
            } => Self::Stages {
                one,
                two,
                ats: eats,
                share,
                merges,
            },
            other => other,
        }
    }

    pub(crate) fn vmid(&self) -> u64 {
        match self {
            Self::Stages { two: Some(two), .. } => two.tables.into(),
            _ => 0,
        }
    }

    pub(crate) fn is_stage1_only(&self) -> bool {
        matches!(
            self,
            Self::Stages {
                one: Some(_),
                two: None,
                ..
            }
        )
    }

    /// `V`, `Config`, and the fields that this uses, all others 0.
    pub(crate) fn words(&self) -> Words {
        let mut words = [1, 0, 0, 0, 0, 0, 0, 0];
        match *self {
            Self::Abort => {}
            Self::Bypass { share } => {
                set(&mut words, 3, 1, 0b100);
                set(&mut words, 109, 108, share.into());
            }
            Self::Stages {
                one,
                two,
                ats,
                share,
                merges,
            } => {
                let config = 0b100 | u64::from(two.is_some()) << 1 | u64::from(one.is_some());
                set(&mut words, 3, 1, config);
                set(&mut words, 93, 92, ats.into());
                set(&mut words, 83, 83, merges.into());
                set(&mut words, 109, 108, share.into());
                if let Some(one) = one {
                    set(&mut words, 55, 6, table(one.table) >> 6);
                    set(&mut words, 63, 59, DESCRIPTORS.ilog2().into());
                    set(&mut words, 65, 64, one.dss.into());
                    set(&mut words, 67, 66, 1);
                    set(&mut words, 69, 68, 1);
                    set(&mut words, 71, 70, 3);
                    set(&mut words, 91, 91, one.forbids_stalls.into());
                }
                if let Some(two) = two {
                    set(&mut words, 143, 128, two.tables.into());
                    set(&mut words, 165, 160, 25);
                    set(&mut words, 167, 166, 1);
                    set(&mut words, 169, 168, 1);
                    set(&mut words, 171, 170, 1);
                    set(&mut words, 173, 172, 3);
                    set(&mut words, 178, 176, 4);
                    set(&mut words, 179, 179, 1);
                    set(&mut words, 185, 185, two.stalls.into());
                    set(&mut words, 186, 186, 1);
                    set(
                        &mut words,
                        243,
                        196,
                        (0x4200_0000 + u64::from(two.tables) * 0x1_0000) >> 4,
                    );
                }
            }
        }
        words
    }

    pub(crate) fn image(&self) -> Image {
        self.image_of(self.words())
    }

    /// These words, with the descriptors of this kind.
    pub(crate) fn image_of(&self, words: Words) -> Image {
        let image = Image::new(words);
        match self {
            Self::Stages {
                one: Some(one),
                two: None,
                ..
            } => (0..DESCRIPTORS).fold(image, |image, id| {
                image.context(id, descriptor(one.table, id))
            }),
            _ => image,
        }
    }

    /// What the entry may be besides this, on the way from it to `other`: with the other's ATS,
    /// stalls, events and attributes; if `retag`, stage 1 with the other's VMID.
    pub(crate) fn waypoints(&self, other: &Self, retag: bool) -> Vec<Image> {
        let (own, others) = (self.words(), other.words());
        let mut all = vec![own];
        let fields: &[(u32, u32)] = match retag && self.is_stage1_only() {
            true => &[(93, 92), (185, 185), (83, 83), (109, 108), (143, 128)],
            false => &[(93, 92), (185, 185), (83, 83), (109, 108)],
        };
        for (high, low) in fields {
            let word = (low / 64) as usize;
            let value = others[word] >> (low % 64) & (u64::MAX >> (63 - (high - low)));
            for mut words in all.clone() {
                set(&mut words, *high, *low, value);
                if !all.contains(&words) {
                    all.push(words);
                }
                // ATS goes by way of none.
                if *low == 92 {
                    set(&mut words, *high, *low, 0);
                    all.push(words);
                }
            }
        }
        all.retain(|words| crate::rig::hardware().decode_stream(words).is_ok());
        let images = all.iter().map(|words| self.image_of(*words));
        let mixed = all
            .iter()
            .filter_map(|words| self.with_table_of(other, *words));
        images.chain(mixed).collect()
    }
}

impl Kind {
    /// Words of this with the descriptors of `other`, where the two treat traffic without substream
    /// differently, and this not by a descriptor. It tells only substream 0 from both of them: no
    /// PASID has that number, since traffic without one may be using it.
    fn with_table_of(&self, other: &Self, mut words: Words) -> Option<Image> {
        let (
            Self::Stages {
                one: Some(one),
                two,
                ..
            },
            Self::Stages {
                one: Some(from), ..
            },
        ) = (self, other)
        else {
            return None;
        };
        let table = from.table;
        let mixed = Self::stages(Some(Stage1 { table, ..*one }), *two);
        set(&mut words, 55, 6, self::table(table) >> 6);
        if table == STALLING {
            set(&mut words, 91, 91, 0);
        }
        (one.dss != from.dss && one.dss != 2).then(|| mixed.image_of(words))
    }
}

/// Where a table of context descriptors is.
pub(crate) fn table(number: u8) -> u64 {
    0x4003_0000 + u64::from(number) * 0x1000
}

/// A descriptor: each has an ASID and a translation table of its own.
pub(crate) fn descriptor(table: u8, substream: u32) -> Words {
    let asid = 1 + u64::from(table) * 4 + u64::from(substream);
    descriptor_of(asid, asid, table == STALLING)
}

pub(crate) fn descriptor_of(asid: u64, tables: u64, stalls: bool) -> Words {
    let mut words = [0; 8];
    set(&mut words, 5, 0, 25);
    set(&mut words, 9, 8, 1);
    set(&mut words, 11, 10, 1);
    set(&mut words, 13, 12, 3);
    set(&mut words, 30, 30, 1);
    set(&mut words, 31, 31, 1);
    set(&mut words, 34, 32, 4);
    set(&mut words, 41, 41, 1);
    set(&mut words, 44, 44, stalls.into());
    set(&mut words, 45, 45, 1);
    set(&mut words, 46, 46, 1);
    set(&mut words, 47, 47, 1);
    set(&mut words, 63, 48, asid);
    set(&mut words, 115, 68, (0x4100_0000 + tables * 0x1_0000) >> 4);
    set(&mut words, 255, 192, 0xff);
    words
}

/// Any legal entry.
pub(crate) fn any() -> impl Strategy<Value = Kind> {
    let one = (0..3u8, 0..TABLES).prop_map(|(dss, table)| Stage1 {
        dss,
        forbids_stalls: table != STALLING,
        table,
    });
    let two = (proptest::bool::ANY, 1..4u8).prop_map(|(stalls, tables)| Stage2 { stalls, tables });
    let stages = (one, two, 1..4u8, 0..3u8, 0..4u8, proptest::bool::ANY).prop_map(
        |(one, two, which, ats, share, merges)| {
            // Both stages have VMIDs of their own.
            let two = match which {
                3 => Stage2 {
                    tables: two.tables + 3,
                    ..two
                },
                _ => two,
            };
            let stalls = which != 1 && two.stalls;
            let ats = match (which, stalls) {
                (_, true) => 0,
                (3, false) => ats,
                (_, false) => ats % 2,
            };
            Kind::Stages {
                one: (which & 1 != 0).then_some(one),
                two: (which & 2 != 0).then_some(two),
                ats,
                share,
                merges,
            }
        },
    );
    prop_oneof![
        1 => Just(Kind::Abort),
        1 => (0..4u8).prop_map(|share| Kind::Bypass { share }),
        8 => stages,
    ]
}
