//! One error type for the whole framework: what kind of failure, whose, and why.

use alloc::sync::Arc;
use core::fmt;

use crate::addr::{AddrRange, Iova, Pasid, PhysAddr, StreamId};
use crate::entry::Step;

/// The result of everything here that can fail.
pub type Result<T = ()> = core::result::Result<T, Error>;

/// What kind of failure it is: what a caller decides by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is wrong, or this domain does not fit this device. Another one may.
    InvalidArgument,
    /// An address, length or id lies outside what the hardware or the domain covers.
    OutOfRange,
    /// Memory is exhausted.
    OutOfMemory,
    /// Ids (ASID, VMID, domain id) or IOVAs are exhausted.
    NoSpace,
    /// The range or the id is already taken.
    AlreadyExists,
    /// Nothing is there: no mapping, no such stream.
    NotFound,
    /// It is in use in a way that excludes this call for now.
    Busy,
    /// Somebody else owns it.
    NotPermitted,
    /// This hardware or this backend cannot do it. The hardware was not touched.
    Unsupported,
    /// This would have to wait, in a context that may not.
    WouldBlock,
    /// The IOMMU did not answer within its bound. What it was asked to do may or may not have
    /// happened.
    IommuTimedOut,
    /// A device did not answer an invalidation of its own cache within its bound. The IOMMU works.
    DeviceTimedOut,
    /// The hardware answered with an error, or with something the architecture does not allow.
    Hardware,
    /// A rule of this framework was broken inside it. Please report it.
    Internal,
}

impl ErrorKind {
    /// The number that POSIX-like systems use for this kind, positive.
    ///
    /// ```
    /// # use iommu_core::ErrorKind;
    /// assert_eq!(ErrorKind::InvalidArgument.errno(), 22); // EINVAL
    /// ```
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotPermitted => 1,
            Self::NotFound => 2,
            Self::Hardware => 5,
            Self::WouldBlock => 11,
            Self::OutOfMemory => 12,
            Self::Busy => 16,
            Self::AlreadyExists => 17,
            Self::InvalidArgument => 22,
            Self::NoSpace => 28,
            Self::OutOfRange => 34,
            Self::Unsupported => 95,
            Self::IommuTimedOut => 110,
            Self::DeviceTimedOut => 112,
            Self::Internal => 131,
        }
    }

    const fn phrase(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::OutOfRange => "out of range",
            Self::OutOfMemory => "out of memory",
            Self::NoSpace => "no space left",
            Self::AlreadyExists => "already exists",
            Self::NotFound => "not found",
            Self::Busy => "busy",
            Self::NotPermitted => "not permitted",
            Self::Unsupported => "unsupported",
            Self::WouldBlock => "would block",
            Self::IommuTimedOut => "the IOMMU did not answer in time",
            Self::DeviceTimedOut => "the device did not answer in time",
            Self::Hardware => "hardware error",
            Self::Internal => "internal error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

/// Whose failure it is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Culprit {
    /// Nothing in particular.
    None,
    /// The device of this name.
    Device(Arc<str>),
    /// A device that firmware pinned to 1:1 mappings of these regions.
    Pinned {
        /// The device's name.
        device: Arc<str>,
        /// The regions firmware asked to keep mapped 1:1.
        regions: Arc<[AddrRange]>,
    },
    /// A StreamID or source id.
    Stream(StreamId),
    /// A PASID.
    Pasid(Pasid),
    /// An I/O virtual address.
    Iova(Iova),
    /// A physical address.
    Phys(PhysAddr),
    /// A range of addresses.
    Range(AddrRange),
    /// A hardware register and the value it held.
    Register {
        /// Its name in the architecture's specification.
        name: &'static str,
        /// What was read from it.
        value: u64,
    },
    /// A command in a queue to the hardware.
    Command {
        /// The queue's name.
        queue: &'static str,
        /// The command's name in the architecture's specification.
        command: &'static str,
        /// The index of its slot.
        index: u32,
    },
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Device(name) => write!(f, "device {name}"),
            Self::Pinned { device, regions } => {
                write!(f, "device {device}, pinned by firmware to")?;
                for (i, region) in regions.iter().enumerate() {
                    write!(f, "{} {region}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Stream(id) => write!(f, "stream {id}"),
            Self::Pasid(id) => write!(f, "PASID {id}"),
            Self::Iova(iova) => write!(f, "IOVA {iova}"),
            Self::Phys(addr) => write!(f, "physical address {addr}"),
            Self::Range(range) => write!(f, "range {range}"),
            Self::Register { name, value } => write!(f, "{name} = {value:#x}"),
            Self::Command {
                queue,
                command,
                index,
            } => {
                write!(f, "{command} in slot {index} of the {queue}")
            }
        }
    }
}

/// A failure: its kind, whose it is, and the reason in words.
///
/// Making, cloning and printing one allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    kind: ErrorKind,
    reason: &'static str,
    culprit: Culprit,
    step: Option<Step>,
    stays: bool,
}

impl Error {
    /// A failure of `kind` for `reason`, a phrase without a full stop.
    #[must_use]
    pub const fn new(kind: ErrorKind, reason: &'static str) -> Self {
        Self {
            kind,
            reason,
            culprit: Culprit::None,
            step: None,
            stays: false,
        }
    }

    /// The same failure, with whose it is.
    #[must_use]
    pub fn of(mut self, culprit: Culprit) -> Self {
        self.culprit = culprit;
        self
    }

    /// The same failure, with how far the writing of table entries was when it happened.
    #[must_use]
    pub fn in_step(mut self, step: Step) -> Self {
        self.step = Some(step);
        self
    }

    /// How far the writing of table entries was, where it failed in the middle of that.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        self.step
    }

    /// The same failure, of something that could not be undone for certain.
    #[must_use]
    pub(crate) fn that_stays(mut self) -> Self {
        self.stays = true;
        self
    }

    /// Whether a part of what failed may still be there: the hardware did not confirm that it is
    /// undone.
    #[must_use]
    pub const fn stays(&self) -> bool {
        self.stays
    }

    /// What a caller decides by.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whose failure it is.
    #[must_use]
    pub const fn culprit(&self) -> &Culprit {
        &self.culprit
    }

    /// Why, in words.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.reason
    }

    /// Shorthand for `self.kind().errno()`.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        self.kind.errno()
    }

    /// Allocation of `what` failed.
    #[must_use]
    pub const fn out_of_memory(what: &'static str) -> Self {
        Self::new(ErrorKind::OutOfMemory, what)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.culprit != Culprit::None {
            write!(f, "{}: ", self.culprit)?;
        }
        write!(f, "{} ({})", self.reason, self.kind)?;
        match self.step {
            Some(step) => write!(f, ", in {step}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_refusal_names_the_device_and_its_regions() {
        let regions = [
            AddrRange::new(0x8000, 0x1000).unwrap(),
            AddrRange::new(0xa000, 1).unwrap(),
        ];
        let error =
            Error::new(ErrorKind::InvalidArgument, "blocking would cut them").of(Culprit::Pinned {
                device: "gpu".into(),
                regions: regions.into(),
            });
        assert_eq!(
            error.to_string(),
            "device gpu, pinned by firmware to 0x8000..=0x8fff, 0xa000..=0xa000: \
             blocking would cut them (invalid argument)"
        );
        assert_eq!(error.errno(), 22);
    }
}
