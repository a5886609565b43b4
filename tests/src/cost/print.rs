//! The tables: one for a person, one for a machine.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use iommu_core::Atomicity;

use super::{Line, STREAMS, Subject, Totals, Way, bits, widths};

const LEGEND: &str = "\
What it costs to change what a device is on. A change takes rounds of stores, commands that invalidate,
and one wait for the hardware. A round fills words that nobody reads yet, or swings those that count.
  W waits   S stores   h hitless: a device meets the old entry or the new one
                       B breaks: in between it is refused, here silently, in Linux with an event
  Linux: how many CMD_SYNCs Linux 6.12 waits for (measured by running its own code), and h or B where
  something passes both before and after, as far as that is known";

const ENTRIES: &str = "\
S1: a table of context descriptors; /term, /bypass: what becomes of traffic without substream;
+stall: faults may stall; the others allow ATS. A prime: another table, of stage 2 another VMID too.
A device of n streams: n times the stores, n + 1 commands a round, and no more waits (in Linux n times).
Hitless or broken is what the plan says.";

const STALLING: &str = "\
The entry alone, as above. The device itself leaves its domain through abort: stalled transactions are
terminated before anything passes again (design 3.7; 4.7.2). Below each, the plans before that | after.";

const CONTEXTS: &str = "\
All streams of a device share it: one store for all, a command for each. process: memory types and ASID
of the CPUs; released: its memory is gone, nothing is walked.";

const ATTACHES: &str = "\
Through the core and the driver, counted by the model. Every stream reads after each store to its entry
and after each command, on tame and on adverse hardware: it is hitless where all that was ever seen is
what the old domain shows or the new one. Words: which ones each round stored. (shared): others use it.
(ATS): the device caches translations; turning that off is waited for before the entry changes. What a
stage 2 leaves in an entry that is blocked is cleared in a round that nobody waits for.";

/// How many transitions that break are named.
const FEW: usize = 4;

/// All of it for a person, at most 120 columns wide.
#[must_use]
pub fn table(transitions: &[Line], attaches: &[Line]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_table(&mut text, transitions, attaches);
    let lines = text.lines().map(str::trim_end);
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn write_table(out: &mut String, transitions: &[Line], attaches: &[Line]) -> fmt::Result {
    writeln!(out, "{LEGEND}")?;
    for (title, about, subject) in [
        ("One stream table entry", ENTRIES, Subject::Entry),
        ("One that lets faults stall", STALLING, Subject::Stalling),
        ("One that was not valid", "", Subject::Invalid),
        ("One context descriptor", CONTEXTS, Subject::Context),
    ] {
        writeln!(out, "\n== {title}")?;
        if !about.is_empty() {
            writeln!(out, "{about}")?;
        }
        write_transitions(out, transitions, subject)?;
    }
    writeln!(out, "\n== Whole attaches\n{ATTACHES}")?;
    write_attaches(out, attaches)?;
    writeln!(out, "\n== In all")?;
    write_totals(out, transitions)
}

/// Side by side what each width takes.
fn write_transitions(out: &mut String, all: &[Line], subject: Subject) -> fmt::Result {
    let columns: Vec<Column> = widths()
        .iter()
        .map(|width| Column::new(all, *width))
        .collect();
    write!(out, "\n{:<24}", "from -> to")?;
    for Column { atomicity, plan } in &columns {
        let head = format!("{} bits", bits(*atomicity));
        write!(out, "{head:<plan$} W  S    ")?;
    }
    writeln!(out, "Linux")?;
    let lines = all.iter().filter(|line| line.streams == 1);
    let lines: Vec<&Line> = lines.filter(|line| line.subject == subject).collect();
    let find = |pair, atomicity, retag| {
        let mut lines = lines.iter().copied();
        lines.find(|line| {
            (line.from, line.to) == pair && (line.atomicity, line.retag) == (atomicity, retag)
        })
    };
    let mut done = BTreeSet::new();
    for line in &lines {
        let pair = (line.from, line.to);
        if !done.insert(pair) {
            continue;
        }
        let free = columns
            .iter()
            .map(|column| find(pair, column.atomicity, true));
        let free: Vec<&Line> = free.flatten().collect();
        let name = format!("{} -> {}", line.from, line.to);
        write_transition(out, &name, &columns, &free)?;
        let bound = columns
            .iter()
            .map(|column| find(pair, column.atomicity, false));
        let bound: Vec<Option<&Line>> = bound.collect();
        if bound.iter().any(Option::is_some) {
            let both = bound.into_iter().zip(free);
            let lines: Vec<&Line> = both.map(|(bound, free)| bound.unwrap_or(free)).collect();
            write_transition(out, "  others use the VMID", &columns, &lines)?;
        }
    }
    Ok(())
}

/// What one width takes.
struct Column {
    atomicity: Atomicity,
    /// How many characters the longest plan has.
    plan: usize,
}

impl Column {
    fn new(lines: &[Line], atomicity: Atomicity) -> Self {
        let lines = lines.iter().filter(|line| line.atomicity == atomicity);
        let plan = lines.map(|line| line.plan.len()).max().unwrap_or(0);
        Self { atomicity, plan }
    }
}

/// One transition, with a line of measurements for each column.
fn write_transition(
    out: &mut String,
    name: &str,
    columns: &[Column],
    lines: &[&Line],
) -> fmt::Result {
    write!(out, "{name:<24}")?;
    for (line, Column { plan: width, .. }) in lines.iter().zip(columns) {
        let way = if line.breaks.is_some() { "B" } else { "h" };
        let (plan, waits, stores) = (&line.plan, line.counts.waits, line.counts.stores);
        write!(out, "{plan:<width$} {waits:>1} {stores:>2} {way}  ")?;
    }
    if let Some(linux) = lines.first().and_then(|line| line.linux) {
        write!(out, "{:>2} {}", linux.waits, letter(linux.way))?;
    }
    writeln!(out)?;
    write_through_abort(out, lines)?;
    write_reasons(out, lines)
}

fn write_through_abort(out: &mut String, lines: &[&Line]) -> fmt::Result {
    let plans = |line: &&Line| {
        let plans = line.through_abort.as_ref()?;
        Some(format!("{} bits: {plans}", bits(line.atomicity)))
    };
    let plans: Vec<String> = lines.iter().filter_map(plans).collect();
    if !plans.is_empty() {
        writeln!(out, "    through abort, {}", plans.join("; "))?;
    }
    Ok(())
}

/// Why it breaks, with the width where that makes a difference.
fn write_reasons(out: &mut String, lines: &[&Line]) -> fmt::Result {
    let all = |why| lines.iter().all(|line| line.breaks.as_ref() == Some(why));
    for line in lines {
        let Some(why) = &line.breaks else { continue };
        if all(why) {
            return writeln!(out, "    {why}");
        }
        writeln!(out, "    {} bits: {why}", bits(line.atomicity))?;
    }
    Ok(())
}

const fn letter(way: Way) -> &'static str {
    match way {
        Way::Hitless => "h",
        Way::Breaks => "B",
        Way::Unknown => "",
    }
}

fn write_attaches(out: &mut String, lines: &[Line]) -> fmt::Result {
    let streams = format!("{} streams", joined(&STREAMS));
    writeln!(out, "\n{:52}{streams}", "")?;
    writeln!(
        out,
        "{:<32}{:>4}  {:<14}{:<10}{:<10}{:<8}{:<10}Linux",
        "from -> to", "bits", "words", "stores", "commands", "waits", ""
    )?;
    let mut last = String::new();
    for lines in lines.chunks(STREAMS.len()) {
        let [first, ..] = lines else { continue };
        let name = format!("{} -> {}", first.from, first.to);
        let shown = if name == last { "" } else { &name };
        let of = |figure: fn(&Line) -> usize| joined(&lines.iter().map(figure).collect::<Vec<_>>());
        let way = match lines.iter().any(|line| line.breaks.is_some()) {
            true => "breaks",
            false => "hitless",
        };
        write!(
            out,
            "{shown:<32}{:>4}  {:<14}{:<10}{:<10}{:<8}{way:<10}",
            bits(first.atomicity),
            first.plan,
            of(|line| line.counts.stores),
            of(|line| line.counts.commands),
            of(|line| line.counts.waits),
        )?;
        if let Some(linux) = first.linux {
            let waits = of(|line| line.linux.map_or(0, |linux| linux.waits));
            write!(out, "{waits:<8} {}", letter(linux.way))?;
        }
        writeln!(out)?;
        if let Some(why) = &first.breaks {
            writeln!(out, "    {why}")?;
        }
        last = name;
    }
    Ok(())
}

/// "1/4/16".
fn joined<T: ToString>(figures: &[T]) -> String {
    let figures: Vec<String> = figures.iter().map(ToString::to_string).collect();
    figures.join("/")
}

fn write_totals(out: &mut String, transitions: &[Line]) -> fmt::Result {
    let linux = Totals::linux(transitions);
    writeln!(out, "{} transitions of one entry:", linux.transitions)?;
    let mut row = |name: &str, totals: &Totals| {
        let (broken, waits) = (totals.broken.len(), totals.waits);
        writeln!(out, "  {name:<32}{broken:>3} break, {waits:>3} waits")?;
        let few = totals.broken.iter().filter(|_| broken <= FEW);
        let names: Vec<String> = few.map(|[from, to]| format!("{from} -> {to}")).collect();
        match names.is_empty() {
            true => Ok(()),
            false => writeln!(out, "    {}", names.join(", ")),
        }
    };
    row("Linux", &linux)?;
    for &width in widths() {
        let name = format!("{} bits", bits(width));
        row(&name, &Totals::of(transitions, width, true))?;
        let name = format!("{name}, others use the VMIDs");
        row(&name, &Totals::of(transitions, width, false))?;
    }
    Ok(())
}

/// All of it for a machine: comma-separated, with a header.
#[must_use]
pub fn csv(lines: &[Line]) -> String {
    let mut text = String::from(
        "table,from,to,streams,bits,retag,plan,through_abort,rounds,stores,commands,waits,hitless,\
         why,linux_waits,linux_hitless\n",
    );
    for line in lines {
        let fields = [
            match line.subject {
                Subject::Entry => "entry",
                Subject::Stalling => "stalling",
                Subject::Invalid => "invalid",
                Subject::Context => "context",
                Subject::Attach => "attach",
            }
            .to_string(),
            line.from.into(),
            line.to.into(),
            line.streams.to_string(),
            bits(line.atomicity).to_string(),
            yes(line.retag).into(),
            line.plan.replace(", ", "; "),
            line.through_abort
                .as_deref()
                .unwrap_or_default()
                .replace(", ", "; "),
            line.counts.rounds.to_string(),
            line.counts.stores.to_string(),
            line.counts.commands.to_string(),
            line.counts.waits.to_string(),
            yes(line.breaks.is_none()).into(),
            line.breaks.clone().unwrap_or_default(),
            line.linux
                .map_or(String::new(), |linux| linux.waits.to_string()),
            match line.linux.map(|linux| linux.way) {
                Some(Way::Hitless) => "yes".into(),
                Some(Way::Breaks) => "no".into(),
                Some(Way::Unknown) | None => String::new(),
            },
        ];
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text
}

const fn yes(condition: bool) -> &'static str {
    if condition { "yes" } else { "no" }
}
