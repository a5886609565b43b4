//! The SMMUv3 driver on QEMU's SMMUv3: every case, each on a machine of its own.
#![cfg(feature = "qemu")]

macro_rules! on_qemu {
    ($($subject:ident { $($case:ident: $($setup:ident),+;)* })*) => {
        $(mod $subject {
            $(mod $case {
                use tests::cases::{$subject::$case as case, run, setups};
                $(
                    #[test]
                    fn $setup() {
                        run::<tests::qemu::Machine>(setups::$setup(), case);
                    }
                )+
            })*
        })*
    };
}

mod qemu {
    tests::every_case!(on_qemu);
}
