//! Changes of leaves in place.

use super::case::{Config, LeafEdit, Tree};
use super::encode::{LARGE, PRESENT, first, mask, second, shift};
use super::image::{Place, leaf_word};
use super::layout;

/// What a leaf becomes.
pub(super) fn edited(place: &Place, tree: &Tree, old: u64, at_start: u64, how: LeafEdit) -> u64 {
    let size = shift(place.level);
    let output = old & mask(48) & !mask(size);
    let rights = match tree.first_level {
        true => PRESENT | first::WRITE | first::USER,
        false => second::READ | second::WRITE,
    };
    let flags = match tree.first_level {
        true => first::ACCESSED | first::DIRTY,
        false => 0,
    };
    let is_table = place.level > 1 && at_start & LARGE == 0;
    // Mask: QEMU looks at rights before reserved bits, so what has those keeps its rights.
    let is_clean = (at_start ^ leaf_word(tree, place.level, output)) & !(rights | flags) == 0
        || how == LeafEdit::Invalidate;
    let to_data = (layout::DATA..layout::DATA + layout::DATA_SIZE).contains(&output);
    match how {
        // It leads to nothing that could be changed.
        _ if is_table => old,
        LeafEdit::Restore => at_start,
        _ if !is_clean => old,
        LeafEdit::Invalidate if tree.first_level => old & !PRESENT,
        LeafEdit::Invalidate => old & !rights,
        LeafEdit::Move(by) if to_data && place.level == 1 => {
            let moved = (output - layout::DATA + by * 0x1000) % layout::DATA_SIZE;
            old & !(mask(48) & !mask(12)) | (layout::DATA + moved)
        }
        LeafEdit::Move(_) => old,
        LeafEdit::ToggleWrite => old ^ 1 << 1,
        LeafEdit::ToggleRead if tree.first_level => old ^ first::USER,
        LeafEdit::ToggleRead => old ^ second::READ,
    }
}

/// Whether a unit that caches only what is there may cache what this leaf says.
pub(super) fn is_present(tree: &Tree, word: u64) -> bool {
    match tree.first_level {
        true => word & PRESENT != 0,
        false => word & (second::READ | second::WRITE) != 0,
    }
}

/// How a configuration translates.
pub(super) fn mode(config: &Config) -> &'static str {
    match &config.tree {
        None => "pass-through",
        Some(tree) if tree.first_level => "first level",
        Some(tree) if tree.levels == 3 => "second level, three levels",
        Some(_) => "second level, four levels",
    }
}
