//! What Linux takes: figures of Linux 6.12, measured by running its own functions.

/// What becomes of a device's DMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It meets the old entry or the new one.
    Hitless,
    /// It meets an entry that is not valid in between, and is refused and reported.
    Breaks,
    /// It is refused before or afterwards anyway, or nothing is known.
    Unknown,
}

/// How often Linux waits for the hardware, and what becomes of DMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Linux {
    /// How often it waits.
    pub waits: usize,
    /// What becomes of DMA.
    pub way: Way,
}

impl Linux {
    /// As many entries, one after the other.
    pub(super) const fn times(self, entries: u32) -> Self {
        Self {
            waits: self.waits * entries as usize,
            ..self
        }
    }
}

/// Stream table entries, from the kind of a row to that of a column: how often Linux waits, and h
/// for hitless, B for broken, i where the entry was not valid before.
const ENTRIES: [&str; 12] = [
    "from\\to  abort bypass S1/term S1/bypass S1 S1+stall S2 S2+stall S1' S2'",
    "invalid   1i    2i     2i      2i        2i 2i       2i 2i       2i  2i",
    "abort     0     2h     2h      2h        2h 2h       2h 2h       2h  2h",
    "bypass    2h    0      3h      2h        3h 3h       2h 2h       3h  2h",
    "S1/term   2h    3h     0       1h        1h 1h       3h 3B       3B  3B",
    "S1/bypass 2h    2h     1h      0         1h 1h       3h 3B       3B  3B",
    "S1        2h    3h     1h      1h        0  1h       3h 3B       1h  3B",
    "S1+stall  2h    3h     1h      1h        1h 0        3B 3h       3B  3B",
    "S2        2h    2h     3h      3h        3h 3B       0  3B       3h  3B",
    "S2+stall  2h    2h     3B      3B        3B 3h       3B 0        3B  3B",
    "S1'       2h    3h     3B      3B        1h 3B       3h 3B       0   3B",
    "S2'       2h    2h     3B      3B        3B 3B       3B 3B       3B  0",
];

/// Context descriptors; what concerns validity or the ASID alone as Linux' own unit tests demand it.
const CONTEXTS: [(&str, &str, &str); 10] = [
    ("invalid", "domain", "2i"),
    ("domain", "invalid", "2i"),
    ("domain", "other table", "1h"),
    ("domain", "other ASID", "1h"),
    ("domain", "other domain", "3B"),
    ("invalid", "process", "2i"),
    ("process", "invalid", "2i"),
    ("domain", "process", "3B"),
    ("process", "released", "2h"),
    ("released", "process", "2h"),
];

/// Whole attaches of a device with [`STREAMS`](super::STREAMS). Between the stages it was not noted
/// what DMA meets; by the entries alone it is as with [`ENTRIES`]' S2', which has a VMID.
const ATTACHES: [(&str, &str, [usize; 3], Way); 9] = [
    ("blocked", "S1", [4, 10, 34], Way::Hitless),
    ("S1", "blocked", [4, 10, 34], Way::Hitless),
    ("S1", "S1'", [3, 3, 3], Way::Breaks),
    ("S1", "S2", [5, 14, 50], Way::Unknown),
    ("S2", "S1", [5, 14, 50], Way::Unknown),
    ("S1", "identity", [5, 14, 50], Way::Hitless),
    ("blocked", "S2", [2, 8, 32], Way::Hitless),
    ("S2", "blocked", [2, 8, 32], Way::Hitless),
    ("S2", "S2'", [3, 12, 48], Way::Breaks),
];

fn figure(text: &str) -> Option<Linux> {
    let way = match text.trim_start_matches(|c: char| c.is_ascii_digit()) {
        "" | "h" => Way::Hitless,
        "B" => Way::Breaks,
        "i" => Way::Unknown,
        _ => return None,
    };
    let waits = text.trim_end_matches(char::is_alphabetic).parse().ok()?;
    Some(Linux { waits, way })
}

/// A transition of one stream table entry.
pub(super) fn entry(from: &str, to: &str) -> Option<Linux> {
    let [head, rows @ ..] = &ENTRIES;
    let column = head.split_whitespace().position(|name| name == to)?;
    let mut rows = rows.iter().map(|row| row.split_whitespace());
    rows.find_map(|mut row| (row.next() == Some(from)).then(|| row.nth(column - 1))?)
        .and_then(figure)
}

/// A transition of a context descriptor, that all streams of a device share.
pub(super) fn context(from: &str, to: &str) -> Option<Linux> {
    let mut all = CONTEXTS.iter();
    let (.., text) = all.find(|(old, new, _)| (*old, *new) == (from, to))?;
    figure(text)
}

/// An attach of a device with the number of streams at this place of
/// [`STREAMS`](super::STREAMS). What stands in brackets behind the name of a domain does not count.
pub(super) fn attach(from: &str, to: &str, streams: usize) -> Option<Linux> {
    let is = |name: &str, full: &str| full.split(" (").next() == Some(name);
    let mut all = ATTACHES.iter();
    let (.., waits, way) = all.find(|(old, new, ..)| is(old, from) && is(new, to))?;
    Some(Linux {
        waits: *waits.get(streams)?,
        way: *way,
    })
}
