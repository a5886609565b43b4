//! Transitions of one entry: planned, and carried out for all streams of a device at once.

use arm_smmu_v3::spec::cd::Cd;
use arm_smmu_v3::spec::commands::Command;
use arm_smmu_v3::spec::ste::{Ste, Word2};
use iommu_core::entry::{Plan, Rules, Target};
use iommu_core::{Atomicity, StreamId};

use super::bare::{Bare, Scope};
use super::kinds::{self, INVALID, Kind, Words};
use super::why::{Named, why};
use super::{Failure, Line, Linux, STREAMS, Subject, linux, widths};

/// All transitions, for each width of a store and each number of streams: between ten kinds of
/// stream table entry, from one that is not valid, and of context descriptors. Where a plan relies
/// on the VMID changing by itself, further lines say what becomes of it where it may not.
///
/// # Errors
///
/// Where an entry does not become what it was to become, or the model saw something forbidden.
pub fn transitions() -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for &atomicity in widths() {
        let mut bare = Bare::new(atomicity)?;
        for from in kinds::entries().into_iter().chain([INVALID]) {
            for to in kinds::entries() {
                if from.name != to.name {
                    lines.extend(entry(&mut bare, from, to, atomicity)?);
                }
            }
        }
        for (from, to) in kinds::contexts() {
            lines.extend(context(&mut bare, from, to, atomicity)?);
        }
    }
    Ok(lines)
}

/// One transition under one set of rules.
struct Case<F> {
    subject: Subject,
    from: Kind,
    to: Kind,
    target: Target<F, 8>,
    rules: Rules,
    /// Whether all streams of a device share the entry.
    shared: bool,
    invalidate: fn(StreamId) -> Command,
    /// A VMID that changes by itself.
    retag: Option<u16>,
    through_abort: Option<String>,
    /// What Linux takes for one entry; it writes one after the other.
    linux: Option<Linux>,
}

impl<F: Named> Case<F> {
    /// A line for each number of streams.
    fn lines(&self, bare: &mut Bare) -> Result<Vec<Line>, Failure> {
        let (from, to) = (&self.from, &self.to);
        let plan = Plan::new(&from.words, &self.target, self.rules)?;
        let reason = why::<F>(&from.words, &to.words, self.rules);
        if plan.breaks() != reason.is_some() {
            let (from, to) = (from.name, to.name);
            return Err(format!("{from} to {to}: {plan}, but in the way is {reason:?}").into());
        }
        let line = |streams| {
            let entries = if self.shared { 1 } else { streams };
            let scope = Scope {
                entries,
                streams,
                invalidate: self.invalidate,
                retag: self.retag,
            };
            Ok(Line {
                subject: self.subject,
                from: from.name,
                to: to.name,
                streams,
                atomicity: self.rules.atomicity,
                retag: self.rules.retag,
                plan: plan.to_string(),
                through_abort: self.through_abort.clone(),
                counts: bare.carry_out(&from.words, &self.target, self.rules, &scope)?,
                breaks: reason.clone(),
                linux: self.linux.map(|one| one.times(entries)),
            })
        };
        STREAMS.into_iter().map(line).collect()
    }
}

fn entry(
    bare: &mut Bare,
    from: Kind,
    to: Kind,
    atomicity: Atomicity,
) -> Result<Vec<Line>, Failure> {
    let target = Target::<Ste, 8>::new(to.words)?;
    let [free, bound] = [true, false].map(|retag| Rules { atomicity, retag });
    let plan = |rules| Plan::new(&from.words, &target, rules).map(|plan| plan.to_string());
    let retags = plan(free)? != plan(bound)?;
    let subject = match from {
        _ if from.name == INVALID.name => Subject::Invalid,
        Kind { stalls: true, .. } => Subject::Stalling,
        _ => Subject::Entry,
    };
    let through_abort = (from.stalls && to.name != kinds::ABORT)
        .then(|| through_abort(&from.words, &target, bound))
        .transpose()?;
    let mut case = Case {
        subject,
        from,
        to,
        target,
        rules: free,
        shared: false,
        invalidate: |stream| Command::cfgi_ste(stream, true),
        retag: retags.then(|| vmid(&from.words).max(vmid(&to.words))),
        through_abort,
        linux: linux::entry(from.name, to.name),
    };
    let mut lines = case.lines(bare)?;
    if retags {
        (case.rules, case.retag) = (bound, None);
        lines.extend(case.lines(bare)?);
    }
    Ok(lines)
}

fn context(
    bare: &mut Bare,
    from: Kind,
    to: Kind,
    atomicity: Atomicity,
) -> Result<Vec<Line>, Failure> {
    let case = Case {
        subject: Subject::Context,
        from,
        to,
        target: Target::<Cd, 8>::new(to.words)?,
        rules: Rules {
            atomicity,
            retag: true,
        },
        shared: true,
        invalidate: cfgi_cd,
        retag: None,
        through_abort: None,
        linux: linux::context(from.name, to.name),
    };
    case.lines(bare)
}

/// The plans to an aborting entry, and from there on.
fn through_abort(live: &Words, target: &Target<Ste, 8>, rules: Rules) -> Result<String, Failure> {
    let abort = Target::<Ste, 8>::new(kinds::abort().to_words())?;
    let out = Plan::new(live, &abort, rules)?;
    let mut entry = *live;
    for round in out.rounds() {
        round.apply(&mut entry, &abort, |_| ());
    }
    let on = Plan::new(&entry, target, rules)?;
    Ok(format!("{out} | {on}"))
}

/// `CMD_CFGI_CD` of SubstreamID 0, leaf only (4.3.3).
fn cfgi_cd(stream: StreamId) -> Command {
    Command([0x05 | u64::from(stream.0) << 32, 1])
}

fn vmid(words: &Words) -> u16 {
    Word2::from_bits(words[2]).s2_vmid()
}
