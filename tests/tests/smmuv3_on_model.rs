//! The SMMUv3 driver on this workspace's model of an SMMUv3: every case, each on a machine of its own.

macro_rules! on_model {
    ($($subject:ident { $($case:ident: $($setup:ident),+;)* })*) => {
        $(mod $subject {
            $(mod $case {
                use tests::cases::{$subject::$case as case, run, setups};
                $(
                    #[test]
                    fn $setup() {
                        run::<tests::model::ModelMachine>(setups::$setup(), case);
                    }
                )+
            })*
        })*
    };
}

mod model {
    tests::every_case!(on_model);
}

mod model_alone {
    tests::every_case_of_models!(on_model);
}
