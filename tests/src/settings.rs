//! What whoever runs random cases decides.

/// The number that the environment variable `name` has, in decimal or with `0x`; `default` where
/// there is none.
///
/// # Panics
///
/// Where it is not a number.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|_| panic!("{name} = {text} is not a number"))
}
