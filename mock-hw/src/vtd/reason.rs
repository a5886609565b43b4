//! Why requests are refused: the numbers that fault records hold (7.1.3), and which of them
//! software may keep from being recorded.

/// A fault reason, as fault records hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reason(pub(super) u8);

pub(super) const ROOT_NOT_PRESENT: Reason = Reason(0x01);
pub(super) const CONTEXT_NOT_PRESENT: Reason = Reason(0x02);
pub(super) const CONTEXT_INVALID: Reason = Reason(0x03);
/// The address has more bits than are translated.
pub(super) const BEYOND_WIDTH: Reason = Reason(0x04);
pub(super) const NO_WRITE: Reason = Reason(0x05);
pub(super) const NO_READ: Reason = Reason(0x06);
/// A second-level table cannot be read.
pub(super) const TABLE_ACCESS: Reason = Reason(0x07);
pub(super) const ROOT_ACCESS: Reason = Reason(0x08);
pub(super) const CONTEXT_ACCESS: Reason = Reason(0x09);
pub(super) const ROOT_RESERVED: Reason = Reason(0x0a);
pub(super) const CONTEXT_RESERVED: Reason = Reason(0x0b);
pub(super) const TABLE_RESERVED: Reason = Reason(0x0c);
/// The translation leads into the range of interrupts.
pub(super) const INTERRUPT_RANGE: Reason = Reason(0x0e);

/// `RTADDR_REG` names a mode that there is not.
pub(super) const MODE_INVALID: Reason = Reason(0x30);
/// A request carries a PASID in legacy mode.
pub(super) const PASID_IN_LEGACY_MODE: Reason = Reason(0x31);
pub(super) const SM_ROOT_ACCESS: Reason = Reason(0x38);
pub(super) const SM_ROOT_NOT_PRESENT: Reason = Reason(0x39);
pub(super) const SM_ROOT_RESERVED: Reason = Reason(0x3a);
pub(super) const SM_CONTEXT_ACCESS: Reason = Reason(0x40);
pub(super) const SM_CONTEXT_NOT_PRESENT: Reason = Reason(0x41);
pub(super) const SM_CONTEXT_RESERVED: Reason = Reason(0x42);
/// A request carries a PASID and `PASIDE` is 0.
pub(super) const PASIDS_DISABLED: Reason = Reason(0x45);
/// The PASID is beyond the directory.
pub(super) const PASID_TOO_LARGE: Reason = Reason(0x46);
pub(super) const SM_CONTEXT_RID_PASID: Reason = Reason(0x48);
pub(super) const DIRECTORY_ACCESS: Reason = Reason(0x50);
pub(super) const DIRECTORY_NOT_PRESENT: Reason = Reason(0x51);
pub(super) const DIRECTORY_RESERVED: Reason = Reason(0x52);
pub(super) const PASID_ACCESS: Reason = Reason(0x58);
pub(super) const PASID_NOT_PRESENT: Reason = Reason(0x59);
pub(super) const PASID_RESERVED: Reason = Reason(0x5a);
pub(super) const PASID_INVALID: Reason = Reason(0x5b);
/// A first-level table but the first one cannot be read.
pub(super) const FIRST_ACCESS: Reason = Reason(0x70);
pub(super) const FIRST_NOT_PRESENT: Reason = Reason(0x71);
pub(super) const FIRST_RESERVED: Reason = Reason(0x72);
/// The first one cannot be read.
pub(super) const FIRST_ROOT_ACCESS: Reason = Reason(0x73);
pub(super) const SECOND_ACCESS: Reason = Reason(0x78);
pub(super) const SECOND_PERMISSION: Reason = Reason(0x79);
pub(super) const SECOND_RESERVED: Reason = Reason(0x7a);
pub(super) const SECOND_ROOT_ACCESS: Reason = Reason(0x7b);
pub(super) const NOT_CANONICAL: Reason = Reason(0x80);
/// A supervisor's page.
pub(super) const FIRST_PRIVILEGE: Reason = Reason(0x81);
/// A pass-through request, or a first-level translation, leads to where no memory can be.
pub(super) const SM_BEYOND_HOST: Reason = Reason(0x83);
pub(super) const SM_BEYOND_WIDTH: Reason = Reason(0x84);
pub(super) const FIRST_NO_WRITE: Reason = Reason(0x85);
pub(super) const SM_INTERRUPT_RANGE: Reason = Reason(0x87);
/// A flag had to be set in tables that are read without snooping.
pub(super) const FIRST_FLAGS: Reason = Reason(0x90);

impl Reason {
    /// Whether `FPD` of the entries in use keeps it from being recorded: where the fault is about
    /// the root table, or about a table that cannot be read, no entry is trusted to say so.
    pub(super) fn is_qualified(self) -> bool {
        !matches!(
            self,
            ROOT_NOT_PRESENT
                | ROOT_ACCESS
                | ROOT_RESERVED
                | CONTEXT_ACCESS
                | MODE_INVALID
                | PASID_IN_LEGACY_MODE
                | SM_ROOT_ACCESS
                | SM_ROOT_NOT_PRESENT
                | SM_ROOT_RESERVED
                | SM_CONTEXT_ACCESS
                | DIRECTORY_ACCESS
                | PASID_ACCESS
        )
    }
}
