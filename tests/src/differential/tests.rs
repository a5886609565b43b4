//! The comparison itself, on two models: it is silent where there is nothing to tell, and finds
//! what it is there to find.

use super::case::Environment;
use super::{Counts, compare, model_config};
use crate::model::ModelMachine;
use crate::qemu::Stage;

const NESTED: Environment = super::environment(Stage::Nested, true);

/// Compares a model with one that consumes a command, by its opcode, without doing anything.
fn ignoring(opcode: Option<u8>, cases: u64) -> Result<Counts, String> {
    let [model, other] = [(); 2].map(|()| ModelMachine::new(model_config(NESTED), 2));
    if let Some(opcode) = opcode {
        // Each case starts with nothing in the caches.
        other
            .model()
            .ignore_command(Box::new(move |command| command == opcode));
    }
    compare(&model, "another model", &other, 1, 0..cases, NESTED)
}

#[test]
fn two_models_agree_without_masks() {
    let counts = ignoring(None, 300).unwrap();
    assert_eq!(counts.cases, 300);
    assert!(!counts.to_string().contains("mask:"), "{counts}");
    assert!(counts.of("stale seen on the model") > 0);
}

#[test]
fn each_invalidation_that_does_nothing_is_found() {
    for opcode in [
        0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x28, 0x2a, 0x30,
    ] {
        let found = ignoring(Some(opcode), 3000);
        let story = found.expect_err(&format!("opcode {opcode:#x} goes unnoticed"));
        assert!(story.contains("another model: NOT ALLOWED"), "{story}");
    }
}
