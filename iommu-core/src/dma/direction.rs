//! Which way the bytes go, as types: what the CPU may do with a buffer follows from it.

#![forbid(unsafe_code)]

use core::fmt::Debug;

use crate::domain::Prot;

mod sealed {
    pub trait Sealed {}
}

/// Which way the bytes of a mapping go.
pub trait Direction: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// What the device may do.
    const PROT: Prot;
    /// Whether the device may change the bytes.
    const DEVICE_WRITES: bool = Self::PROT.contains(Prot::WRITE);
}

/// The device reads what the CPU writes.
pub trait DeviceReads: Direction {}

/// The CPU reads what the device writes.
pub trait DeviceWrites: Direction {}

/// The device reads: a transmit buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ToDevice;

/// The device writes: a receive buffer. First-stage tables let it read as well; see
/// [`Prot::READ`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FromDevice;

/// The device reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bidirectional;

impl sealed::Sealed for ToDevice {}
impl sealed::Sealed for FromDevice {}
impl sealed::Sealed for Bidirectional {}

impl Direction for ToDevice {
    const PROT: Prot = Prot::READ;
}
impl Direction for FromDevice {
    const PROT: Prot = Prot::WRITE;
}
impl Direction for Bidirectional {
    const PROT: Prot = Prot::READ.union(Prot::WRITE);
}

impl DeviceReads for ToDevice {}
impl DeviceReads for Bidirectional {}
impl DeviceWrites for FromDevice {}
impl DeviceWrites for Bidirectional {}
