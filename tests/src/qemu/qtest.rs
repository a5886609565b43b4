//! The qtest protocol: lines of text by which another process accesses a machine's physical
//! addresses.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::error::QemuError;
use super::process::Process;

/// How long one command may take: far longer than any does on a busy host.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// One access to a physical address of the machine, or to an I/O port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads 32 bits.
    ReadL(u64),
    /// Reads 64 bits.
    ReadQ(u64),
    /// Writes 32 bits.
    WriteL(u64, u32),
    /// Writes 64 bits.
    WriteQ(u64, u64),
    /// Reads 32 bits from an I/O port, where the machine has those.
    InL(u16),
    /// Writes 32 bits to an I/O port.
    OutL(u16, u32),
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ReadL(addr) => write!(f, "readl {addr:#x}"),
            Self::ReadQ(addr) => write!(f, "readq {addr:#x}"),
            Self::WriteL(addr, value) => write!(f, "writel {addr:#x} {value:#x}"),
            Self::WriteQ(addr, value) => write!(f, "writeq {addr:#x} {value:#x}"),
            Self::InL(port) => write!(f, "inl {port:#x}"),
            Self::OutL(port, value) => write!(f, "outl {port:#x} {value:#x}"),
        }
    }
}

/// The conversation with one QEMU, which runs for as long as any clone of this is alive.
///
/// The methods here panic when QEMU does not answer (it died, or hangs for half a minute), with
/// what QEMU printed: they serve callers that cannot return errors. While the thread unwinds from
/// another panic they read all ones instead, as from a device that was unplugged.
#[derive(Clone, Debug)]
pub struct Qtest {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    wire: Mutex<Wire>,
    process: Process,
}

impl Qtest {
    pub(super) fn new(process: Process, stream: UnixStream) -> Result<Self, QemuError> {
        let wire = Wire::new(stream).map_err(QemuError::host("setting up QEMU's connection"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                wire: Mutex::new(wire),
                process,
            }),
        })
    }

    /// QEMU's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.shared.process
    }

    /// Keeps everybody else from the machine's registers until the result is dropped.
    pub fn session(&self) -> Session<'_> {
        // A panic elsewhere leaves no half-told command behind: `Wire` keeps track of that itself.
        let wire = self
            .shared
            .wire
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Session {
            wire,
            process: &self.shared.process,
        }
    }

    /// Makes one access; the value is zero for a write.
    ///
    /// # Panics
    ///
    /// When QEMU does not answer; see the type.
    #[track_caller]
    pub fn access(&self, access: Access) -> u64 {
        or_panic(self.session().access(access)).unwrap_or(u64::MAX)
    }

    /// Reads 32 bits.
    ///
    /// # Panics
    ///
    /// When QEMU does not answer; see the type.
    #[must_use]
    #[track_caller]
    pub fn readl(&self, addr: u64) -> u32 {
        low(self.access(Access::ReadL(addr)))
    }

    /// Reads 64 bits.
    ///
    /// # Panics
    ///
    /// When QEMU does not answer; see the type.
    #[must_use]
    #[track_caller]
    pub fn readq(&self, addr: u64) -> u64 {
        self.access(Access::ReadQ(addr))
    }

    /// Writes 32 bits.
    ///
    /// # Panics
    ///
    /// When QEMU does not answer; see the type.
    #[track_caller]
    pub fn writel(&self, addr: u64, value: u32) {
        self.access(Access::WriteL(addr, value));
    }

    /// Writes 64 bits.
    ///
    /// # Panics
    ///
    /// When QEMU does not answer; see the type.
    #[track_caller]
    pub fn writeq(&self, addr: u64, value: u64) {
        self.access(Access::WriteQ(addr, value));
    }
}

/// The result, or a panic with the error; `None` where a panic would end the process, because
/// there is one already.
#[track_caller]
pub(super) fn or_panic<T>(result: Result<T, QemuError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(_) if thread::panicking() => None,
        Err(error) => panic!("{error}"),
    }
}

/// The low 32 bits of what a 32-bit read returned.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the upper half of a 32-bit read means nothing"
)]
pub(super) fn low(value: u64) -> u32 {
    value as u32
}

/// Exclusive use of a machine's registers: nobody else's access comes in between.
#[derive(Debug)]
pub struct Session<'a> {
    wire: MutexGuard<'a, Wire>,
    process: &'a Process,
}

impl Session<'_> {
    /// Makes one access; the value is zero for a write.
    ///
    /// # Errors
    ///
    /// [`QemuError::Command`].
    pub fn access(&mut self, access: Access) -> Result<u64, QemuError> {
        Ok(self.batch([access])?[0])
    }

    /// Makes several accesses in order, in one message: no timer of the machine runs in between.
    /// The values come back in order too, zero for each write.
    ///
    /// # Errors
    ///
    /// [`QemuError::Command`], naming the access that failed. Later ones may have been made.
    pub fn batch<const N: usize>(&mut self, accesses: [Access; N]) -> Result<[u64; N], QemuError> {
        self.wire
            .batch(accesses)
            .map_err(|failure| QemuError::Command {
                command: failure.access.to_string(),
                problem: failure.problem,
                log: self.process.log(),
            })
    }
}

/// One side of the protocol. After a failure it stays silent, because the answers would no longer
/// fit the commands.
#[derive(Debug)]
struct Wire {
    stream: BufReader<UnixStream>,
    failed: bool,
}

#[derive(Debug)]
struct Failure {
    access: Access,
    problem: String,
}

impl Wire {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        Ok(Self {
            stream: BufReader::new(stream),
            failed: false,
        })
    }

    fn batch<const N: usize>(&mut self, accesses: [Access; N]) -> Result<[u64; N], Failure> {
        let mut values = [0; N];
        let Some(&first) = accesses.first() else {
            return Ok(values);
        };
        if self.failed {
            let problem = "an earlier command failed".to_owned();
            return Err(Failure {
                access: first,
                problem,
            });
        }
        let message: String = accesses
            .iter()
            .map(|access| format!("{access}\n"))
            .collect();
        let sent = self.stream.get_mut().write_all(message.as_bytes());
        let mut answer = || match &sent {
            Ok(()) => read_answer(&mut self.stream),
            Err(error) => Err(describe(error)),
        };
        for (value, access) in values.iter_mut().zip(accesses) {
            match answer() {
                Ok(read) => *value = read,
                Err(problem) => {
                    self.failed = true;
                    return Err(Failure { access, problem });
                }
            }
        }
        Ok(values)
    }
}

/// The value in the next answer, zero where it has none.
fn read_answer(stream: &mut impl BufRead) -> Result<u64, String> {
    let mut line = String::new();
    loop {
        line.clear();
        match stream.read_line(&mut line) {
            Ok(0) => return Err("it closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(describe(&error)),
        }
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            // A change of an interrupt line, told at any time.
            (Some("IRQ"), _) => {}
            (Some("OK"), None) => return Ok(0),
            (Some("OK"), Some(value)) => {
                let digits = value.strip_prefix("0x").unwrap_or(value);
                return u64::from_str_radix(digits, 16)
                    .map_err(|_| format!("it answered {:?}", line.trim_end()));
            }
            _ => return Err(format!("it answered {:?}", line.trim_end())),
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("it did not answer within {ANSWER_BOUND:?}")
        }
        _ => format!("the connection broke ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// What a client sees and says when its peer says `answers` and closes.
    fn talk<const N: usize>(
        answers: &str,
        accesses: [Access; N],
    ) -> (Result<[u64; N], Failure>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answers.as_bytes()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut wire = Wire::new(ours).unwrap();
        let result = wire.batch(accesses);
        drop(wire);
        let mut said = String::new();
        theirs.read_to_string(&mut said).unwrap();
        (result, said)
    }

    #[test]
    fn answers_belong_to_commands_in_order_and_interrupts_to_none() {
        let (values, said) = talk(
            "OK\nIRQ raise 0x4a\nOK 0x000000000000001b\nIRQ lower 0x4a\nOK ffffffffffffffff\n",
            [
                Access::WriteL(0x20, 13),
                Access::ReadL(0x1000),
                Access::ReadQ(8),
            ],
        );
        assert_eq!(values.unwrap(), [0, 0x1b, u64::MAX]);
        assert_eq!(said, "writel 0x20 0xd\nreadl 0x1000\nreadq 0x8\n");
    }

    #[test]
    fn a_refusal_names_the_command() {
        let (values, _) = talk(
            "OK\nFAIL Unknown command\n",
            [Access::WriteQ(8, 1), Access::ReadQ(8)],
        );
        let failure = values.unwrap_err();
        assert_eq!(failure.access, Access::ReadQ(8));
        assert!(
            failure.problem.contains("FAIL Unknown command"),
            "{}",
            failure.problem
        );
    }

    #[test]
    fn after_a_failure_nothing_is_believed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"nonsense\nOK 0x1\n").unwrap();
        let mut wire = Wire::new(ours).unwrap();
        assert!(wire.batch([Access::ReadL(0)]).is_err());
        let failure = wire.batch([Access::ReadL(4)]).unwrap_err();
        assert_eq!(failure.problem, "an earlier command failed");
    }

    #[test]
    fn the_end_of_the_connection_is_said_so() {
        let (values, _) = talk("", [Access::ReadL(0)]);
        assert_eq!(values.unwrap_err().problem, "it closed the connection");
    }
}
