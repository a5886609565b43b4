//! What can go wrong between a test and QEMU.

use std::ffi::{OsStr, OsString};
use std::{fmt, io};

/// Why a [`Machine`](super::Machine) or [`Q35`](super::Q35) did not start, or stopped answering.
#[derive(Debug)]
#[non_exhaustive]
pub enum QemuError {
    /// There is no such program.
    Missing {
        /// The program that was looked for.
        binary: OsString,
    },
    /// The program is too old, or does not say how old it is.
    TooOld {
        /// The program that was asked.
        binary: OsString,
        /// The oldest version that will do: major and minor.
        oldest: (u32, u32),
        /// What it said about its version.
        found: String,
    },
    /// The host refused something that has nothing to do with QEMU's models.
    Host {
        /// What was being done.
        doing: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// QEMU ended while it was being started, or did not connect in time.
    Start {
        /// What happened.
        problem: String,
        /// What QEMU printed.
        log: String,
    },
    /// QEMU did not carry out a command.
    Command {
        /// The command, in words of the qtest protocol.
        command: String,
        /// What happened.
        problem: String,
        /// What QEMU printed.
        log: String,
    },
    /// The machine is not what it should be: a device is missing, or did not finish.
    Device {
        /// What is wrong.
        problem: String,
    },
}

impl QemuError {
    pub(super) fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { doing, source }
    }

    /// The same error, of commands that only find out whether QEMU started.
    pub(super) fn at_start(self) -> Self {
        match self {
            Self::Command { problem, log, .. } => Self::Start { problem, log },
            other => other,
        }
    }
}

impl fmt::Display for QemuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { binary } => {
                write!(f, "there is no {}; {}", binary.display(), HowToGet(binary))
            }
            Self::TooOld {
                binary,
                oldest: (major, minor),
                found,
            } => {
                write!(
                    f,
                    "{} is too old ({found}), {major}.{minor} is needed; {}",
                    binary.display(),
                    HowToGet(binary)
                )
            }
            Self::Host { doing, source } => write!(f, "{doing}: {source}"),
            Self::Start { problem, log } => {
                write!(
                    f,
                    "QEMU did not start: {problem}; it printed: {}",
                    Quoted(log)
                )
            }
            Self::Command {
                command,
                problem,
                log,
            } => {
                write!(
                    f,
                    "QEMU failed at `{command}`: {problem}; it printed: {}",
                    Quoted(log)
                )
            }
            Self::Device { problem } => write!(f, "the machine in QEMU is broken: {problem}"),
        }
    }
}

impl std::error::Error for QemuError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Host { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// How to get a program of QEMU.
struct HowToGet<'a>(&'a OsStr);

impl fmt::Display for HowToGet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (apt, dnf) = match self.0.to_string_lossy().ends_with("x86_64") {
            true => ("qemu-system-x86", "qemu-system-x86"),
            false => ("qemu-system-arm", "qemu-system-aarch64"),
        };
        write!(
            f,
            "install QEMU 10 or later: `apt-get install {apt}` (on Debian 12 with `-t \
             bookworm-backports`), `dnf install {dnf}` or `brew install qemu`"
        )
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => f.write_str("nothing"),
            text => f.write_str(text),
        }
    }
}
