//! Planning and storing in one go, for one entry.

use core::fmt;

use super::plan::{Differences, widen};
use super::round::{merge, put, put_unit};
use super::{Detour, EntryError, Layout, Plan, Rules, Step, Store, Target};
use crate::platform::Atomicity;

/// Where one entry is written to.
pub trait Device {
    /// What can go wrong when something is confirmed.
    type Error;

    /// Stores to the entry, as one single-copy-atomic access.
    fn store(&mut self, store: Store);

    /// Invalidates the entry in all caches, and waits until the hardware has let go of what it was.
    ///
    /// # Errors
    ///
    /// Where the hardware does not confirm it.
    fn confirm(&mut self) -> Result<(), Self::Error>;
}

/// Why an entry is not its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError<E> {
    /// It cannot be changed; nothing was stored.
    Entry(EntryError),
    /// The device did not confirm a round. The rounds after it are left out.
    Unconfirmed(Step, E),
}

impl<E: fmt::Display> fmt::Display for WriteError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(error) => error.fmt(f),
            Self::Unconfirmed(step, error) => write!(f, "{error}, in {step}"),
        }
    }
}

impl<E: core::error::Error> core::error::Error for WriteError<E> {}

/// Makes one entry its target: what carrying out the [`Plan`] does, and no more. `entry` is what is
/// there, all of it confirmed, and becomes what was stored.
///
/// # Errors
///
/// As [`Plan::new`], and what the device returns.
#[inline(always)]
pub fn write<F: Layout<N>, D: Device, const N: usize>(
    entry: &mut [u64; N],
    target: &Target<F, N>,
    rules: Rules,
    device: &mut D,
) -> Result<(), WriteError<D::Error>> {
    let switches = (entry[0] ^ target.words[0]) & target.used[0] != 0;
    if switches && target.refuses {
        return swing_first(entry, target, rules, device, (1, 1));
    }
    if switches && F::refuses(entry) {
        return write_refusing(entry, target, rules, device);
    }
    let differences = Differences::between(entry, target);
    if !differences.are_plain() {
        return write_planned(entry, target, rules, device);
    }
    if differences.are_none() {
        return Ok(());
    }
    let Some((fill, swing)) = differences.simple(rules) else {
        return write_conflicting(entry, target, rules, device, differences.needed(rules));
    };
    let of = u8::from(fill != 0) + u8::from(swing != 0);
    if fill != 0 {
        let used = F::used(entry);
        let value =
            |entry: &[u64; N], word: usize| merge(entry[word], target.words[word], !used[word]);
        put(
            rules.atomicity,
            fill,
            entry,
            |store| device.store(store),
            value,
        );
        confirm(device, 1, of)?;
    }
    if swing != 0 {
        let value = |_: &[u64; N], word: usize| target.words[word];
        put_unit(
            rules.atomicity,
            swing,
            entry,
            |store| device.store(store),
            value,
        );
        confirm(device, of, of)?;
    }
    Ok(())
}

/// Makes the first unit the target's, and lets that be confirmed as this round of so many.
#[inline(always)]
fn swing_first<F: Layout<N>, D: Device, const N: usize>(
    entry: &mut [u64; N],
    target: &Target<F, N>,
    rules: Rules,
    device: &mut D,
    (round, of): (u8, u8),
) -> Result<(), WriteError<D::Error>> {
    let value = |_: &[u64; N], word: usize| target.words[word];
    let store = |store| device.store(store);
    put_unit(rules.atomicity, 1, entry, store, value);
    confirm(device, round, of)
}

/// The live entry refuses: all but the first unit is filled, whatever was there.
#[inline(always)]
fn write_refusing<F: Layout<N>, D: Device, const N: usize>(
    entry: &mut [u64; N],
    target: &Target<F, N>,
    rules: Rules,
    device: &mut D,
) -> Result<(), WriteError<D::Error>> {
    let (size, first) = match rules.atomicity {
        Atomicity::Word => (1, 1),
        Atomicity::Pair => (2, 2),
    };
    // Bits that nobody defined are rare: they are cleared by the general way.
    let odd = (0..N).filter(|word| F::DEFINED[*word] == 0);
    if odd.fold(0, |odd, word| odd | entry[word]) != 0 {
        return write_planned(entry, target, rules, device);
    }
    let mut filled = false;
    for word in (first..N).step_by(size) {
        let last = word + size - 1;
        if F::DEFINED[word] | F::DEFINED[last] == 0 {
            continue;
        }
        let change = |word: usize| (entry[word] ^ target.words[word]) & target.used[word];
        if change(word) | change(last) != 0 {
            let value = |_: &[u64; N], word: usize| target.words[word];
            let store = |store| device.store(store);
            put_unit(rules.atomicity, 1 << word, entry, store, value);
            filled = true;
        }
    }
    if filled {
        confirm(device, 1, 2)?;
        return swing_first(entry, target, rules, device, (2, 2));
    }
    swing_first(entry, target, rules, device, (1, 1))
}

#[inline(always)]
fn confirm<D: Device>(device: &mut D, round: u8, of: u8) -> Result<(), WriteError<D::Error>> {
    let step = Step { round, of };
    device
        .confirm()
        .map_err(|error| WriteError::Unconfirmed(step, error))
}

#[cold]
#[inline(never)]
fn write_planned<F: Layout<N>, D: Device, const N: usize>(
    entry: &mut [u64; N],
    target: &Target<F, N>,
    rules: Rules,
    device: &mut D,
) -> Result<(), WriteError<D::Error>> {
    let plan = Plan::new(entry, target, rules).map_err(WriteError::Entry)?;
    let of = plan.rounds().fold(0, |rounds, _| rounds + 1);
    for (number, round) in (1..).zip(plan.rounds()) {
        round.apply(entry, target, |store| device.store(store));
        confirm(device, number, of)?;
    }
    Ok(())
}

/// More than one word is in conflict. Without a detour, what [`Plan::breaking`] plans.
#[cold]
#[inline(never)]
fn write_conflicting<F: Layout<N>, D: Device, const N: usize>(
    entry: &mut [u64; N],
    target: &Target<F, N>,
    rules: Rules,
    device: &mut D,
    needed: u8,
) -> Result<(), WriteError<D::Error>> {
    if rules.atomicity != Atomicity::Word || Detour::may_exist(entry, target, rules) {
        return write_planned(entry, target, rules, device);
    }
    let first = widen(1, rules);
    let others = needed & !first;
    let of = 2 + u8::from(others != 0);
    let new = |_: &[u64; N], word: usize| target.words[word];
    let refusing = |_: &[u64; N], word: usize| match word {
        0 => F::refusing(&target.words),
        word => target.words[word],
    };
    put_unit(
        rules.atomicity,
        first,
        entry,
        |store| device.store(store),
        refusing,
    );
    confirm(device, 1, of)?;
    if others != 0 {
        put(
            rules.atomicity,
            others,
            entry,
            |store| device.store(store),
            new,
        );
        confirm(device, 2, of)?;
    }
    put_unit(
        rules.atomicity,
        first,
        entry,
        |store| device.store(store),
        new,
    );
    confirm(device, of, of)
}
