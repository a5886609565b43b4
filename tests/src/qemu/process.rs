//! QEMU as a child process, with its files.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::error::QemuError;

/// How long QEMU may take from its start to its connection.
const START_BOUND: Duration = Duration::from_secs(30);

/// A directory for one QEMU: its socket, the file behind the machine's RAM, and what QEMU printed.
/// Removed when dropped.
#[derive(Debug)]
pub(super) struct Files {
    dir: TempDir,
}

impl Files {
    /// Makes the directory, in memory where the host has a file system for that.
    pub(super) fn new() -> Result<Self, QemuError> {
        let shm = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("iommu-qemu-");
        let dir = if shm.is_dir() {
            builder.tempdir_in(shm)
        } else {
            builder.tempdir()
        };
        Ok(Self {
            dir: dir.map_err(QemuError::host("making a directory for QEMU"))?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn ram(&self) -> PathBuf {
        self.path().join("ram")
    }

    fn socket(&self) -> PathBuf {
        self.path().join("qtest")
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("log")
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A QEMU that runs, and its files. When dropped, QEMU is killed and waited for, and the files are
/// removed.
///
/// Where the host has a shell, a second small process does the same should this one end without
/// dropping its values (`abort`, a signal).
#[derive(Debug)]
pub struct Process {
    child: Child,
    guardian: Option<Guardian>,
    files: Files,
}

impl Process {
    /// Starts `binary` with `args` and the options that make it connect, and waits for that.
    pub(super) fn start(
        binary: &OsStr,
        args: &[String],
        files: Files,
    ) -> Result<(Self, UnixStream), QemuError> {
        let listener =
            UnixListener::bind(files.socket()).map_err(QemuError::host("listening for QEMU"))?;
        let log = File::create(files.log_path())
            .map_err(QemuError::host("creating the file for QEMU's messages"))?;
        let stdout = log
            .try_clone()
            .map_err(QemuError::host("sharing that file"))?;
        let child = Command::new(binary)
            .args(args)
            .arg("-qtest")
            .arg(format!("unix:{}", files.socket().display()))
            .args(["-qtest-log", "none"])
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .map_err(|error| not_started(binary, error))?;
        let guardian = Guardian::watch(child.id(), files.path());
        let mut process = Self {
            child,
            guardian,
            files,
        };
        let stream = process.accept(&listener)?;
        Ok((process, stream))
    }

    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream, QemuError> {
        const DOING: &str = "waiting for QEMU's connection";
        listener
            .set_nonblocking(true)
            .map_err(QemuError::host(DOING))?;
        let deadline = Instant::now() + START_BOUND;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream
                        .set_nonblocking(false)
                        .map_err(QemuError::host(DOING))?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(QemuError::host(DOING)(error)),
            }
            let problem = match self.child.try_wait().map_err(QemuError::host(DOING))? {
                Some(status) => format!("it ended with {status}"),
                None if Instant::now() >= deadline => {
                    format!("it did not connect within {START_BOUND:?}")
                }
                None => {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
            };
            return Err(QemuError::Start {
                problem,
                log: self.log(),
            });
        }
    }

    /// QEMU's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The directory with QEMU's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.files.path()
    }

    /// What QEMU printed so far, errors and all.
    #[must_use]
    pub fn log(&self) -> String {
        self.files.log()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guardian goes first: later, the process id may be somebody else's.
        self.guardian = None;
        // Both fail only for a child that was waited for already: it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that kills a process and removes its files when the pipe to the shell closes.
#[derive(Debug)]
struct Guardian {
    shell: Child,
    /// Closed by the host when this process ends, however it ends.
    _pipe: Option<ChildStdin>,
}

impl Guardian {
    fn watch(pid: u32, dir: &Path) -> Option<Self> {
        let mut shell = Command::new("sh")
            .args([
                "-c",
                "read -r _; kill -9 \"$1\"; rm -rf -- \"$2\"",
                "guardian",
            ])
            .arg(pid.to_string())
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not of the group that a terminal interrupts: it is needed after that.
            .process_group(0)
            .spawn()
            .ok()?;
        let pipe = shell.stdin.take();
        Some(Self { shell, _pipe: pipe })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // The pipe is open until the shell is gone, so that the shell does nothing. Both calls fail
        // only for a shell that is gone already.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn not_started(binary: &OsStr, error: io::Error) -> QemuError {
    match error.kind() {
        ErrorKind::NotFound => QemuError::Missing {
            binary: binary.to_owned(),
        },
        _ => QemuError::Host {
            doing: "starting QEMU",
            source: error,
        },
    }
}

/// Checks that `binary` exists and is at least this old: major and minor version.
pub(super) fn check_version(binary: &OsStr, oldest: (u32, u32)) -> Result<(), QemuError> {
    let output = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(binary, error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().next().unwrap_or("no version").to_owned();
    match parse_version(&found) {
        Some(version) if version >= oldest => Ok(()),
        _ => Err(QemuError::TooOld {
            binary: binary.to_owned(),
            found,
            oldest,
        }),
    }
}

/// The major and minor version in the first line of `qemu-system-… --version`.
fn parse_version(line: &str) -> Option<(u32, u32)> {
    let version = line.strip_prefix("QEMU emulator version ")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)";
        assert_eq!(parse_version(debian), Some((10, 0)));
        assert_eq!(parse_version("QEMU emulator version 9.1.50"), Some((9, 1)));
        assert_eq!(parse_version("QEMU emulator version 7"), None);
        assert_eq!(parse_version("cat (GNU coreutils) 9.1"), None);
    }

    #[test]
    fn a_missing_binary_says_how_to_get_it() {
        let error = check_version(OsStr::new("/nowhere/qemu-system-aarch64"), (9, 1)).unwrap_err();
        assert!(matches!(error, QemuError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains("apt-get install"), "{error}");
    }

    #[test]
    fn a_binary_that_is_not_qemu_is_too_old() {
        let error = check_version(OsStr::new("true"), (9, 1)).unwrap_err();
        assert!(matches!(error, QemuError::TooOld { .. }), "{error:?}");
    }

    #[test]
    fn a_start_that_fails_shows_what_was_printed_and_leaves_no_files() {
        let files = Files::new().unwrap();
        let dir = files.path().to_owned();
        let args = ["-c", "echo no such machine >&2; exit 3"].map(String::from);
        let error = Process::start(OsStr::new("sh"), &args, files).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit status: 3") && text.contains("no such machine"),
            "{text}"
        );
        assert!(!dir.exists());
    }
}
