//! Changes of leaves in place.

use super::case::{Config, LeafEdit};
use super::encode::{mask, pte};
use super::image::Place;
use super::layout;

/// What a leaf becomes.
pub(super) fn edited(
    place: &Place,
    config: &Config,
    old: u64,
    at_start: u64,
    how: LeafEdit,
) -> u64 {
    let output = old & mask(48) & !mask(place.leaf.size_bits);
    let to_data = (layout::DATA..layout::DATA + layout::DATA_SIZE).contains(&output)
        || place.leaf.size_bits >= 19 && output == layout::DATA & !mask(place.leaf.size_bits);
    let is_table = place.leaf.level < 3 && at_start & pte::TABLE_OR_PAGE != 0;
    let records = config.stage2.as_ref().is_some_and(|stage2| stage2.record);
    let nested1 = !place.stage2 && config.stage2.is_some();
    match how {
        // It leads to nothing that could be changed.
        _ if is_table => old,
        LeafEdit::Invalidate => old & !pte::VALID,
        LeafEdit::Restore => at_start,
        LeafEdit::Move(by) if to_data && !nested1 && place.leaf.level == 3 => {
            let size = 1 << place.leaf.size_bits;
            let moved = (output - layout::DATA + by * size) % layout::DATA_SIZE;
            old & !(mask(48) & !mask(place.leaf.size_bits)) | (layout::DATA + moved)
        }
        LeafEdit::Move(_) => old,
        // Mask: QEMU looks at the size of an address after access flag and permissions, so a leaf
        // that leads too far keeps those.
        _ if !to_data && !nested1 => old,
        // Mask: what stage 2 refuses because a page is for writes only needs its event; see there.
        LeafEdit::ToggleWrite if place.stage2 && !records && old & pte::S2AP_READ == 0 => old,
        LeafEdit::ToggleWrite => old ^ 1 << 7,
        LeafEdit::ToggleAccessFlag => old ^ pte::AF,
    }
}

/// Whether a TLB may hold what this leaf says.
pub(super) fn is_cacheable(place: &Place, config: &Config, word: u64) -> bool {
    let no_flag_needed = if place.stage2 {
        config.stage2.as_ref().is_some_and(|s| s.ignore_access_flag)
    } else {
        config.stage1.as_ref().is_some_and(|s| s.ignore_access_flag)
    };
    // An address that is too large counts as one that fits: the caution costs nothing.
    word & pte::VALID != 0 && (no_flag_needed || word & pte::AF != 0)
}

/// How a configuration translates.
pub(super) fn mode(config: &Config) -> &'static str {
    match (&config.stage1, &config.stage2) {
        (Some(_), Some(_)) => "nested",
        (Some(_), None) => "stage 1",
        _ => "stage 2",
    }
}
