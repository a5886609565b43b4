//! Writing a backend: from an empty crate to a suite that passes.
//!
//! A backend is a crate that implements [`IommuOps`](crate::IommuOps) and
//! [`PagingOps`](crate::PagingOps) for one kind of IOMMU. It knows *how* a device is moved from one
//! domain to another; the core decides *what* is moved, where to and when. The whole of one stands at
//! the end of this page: a driver for a toy IOMMU in under 300 lines, and the program that puts it to
//! the conformance suite.
//!
//! # The crate
//!
//! It needs this crate to build, and `mock-hw` to be tested:
//!
//! ```toml
//! [dependencies]
//! iommu-core = "0.1"
//! lock_api = "0.4"
//!
//! [dev-dependencies]
//! mock-hw = "0.1"
//! ```
//!
//! `mock-hw` depends on `iommu-core` alone, so no circle comes of that, in whatever repository the
//! backend lives.
//!
//! # The driver, in steps
//!
//! Each step ends with something that runs; the suite's report says how far one has got.
//!
//! 1. **Bring the hardware up.** Be generic over [`Platform`](crate::Platform): registers through
//!    its [`RegisterBank`](crate::RegisterBank), tables in [`DmaBlock`](crate::DmaBlock)s, waits by
//!    [`Clock::poll`](crate::Clock::poll), which ends. Every stream is refused when this is done, but
//!    for those that firmware pinned: they pass from before translation is on. The destructor turns
//!    the hardware off, and [leaks](crate::DmaBlock::leak) what it may be reading if it does not say
//!    that it is off.
//! 2. **The fixed domains.** [`Domain::blocked`](crate::Domain::blocked) and
//!    [`Domain::identity`](crate::Domain::identity), each made once and handed out as clones.
//! 3. **[`probe`](crate::IommuOps::probe)** looks and reserves: which streams there can be, what they
//!    are on at this moment, which regions firmware pinned. Whatever parking the device will ever
//!    need is allocated here.
//! 4. **[`commit`](crate::IommuOps::commit)**, for the fixed domains first: stores the entries of all
//!    members, then invalidates all of them, then waits once. A member has
//!    [`landed`](crate::Member::landed) when the hardware has confirmed it, and not before: on an
//!    error the core keeps alive everything that the hardware may be using. What an attach would
//!    have to allocate, it allocates in [`prepare`](crate::IommuOps::prepare), and
//!    [`cancel`](crate::IommuOps::cancel) gives that back.
//!    [`quarantine`](crate::IommuOps::quarantine) stores and does not wait;
//!    [`release`](crate::IommuOps::release) stores nothing at all, since the device is parked
//!    already.
//! 5. **Paging domains.** A [`Domain::paging`](crate::Domain::paging) around the backend's
//!    [`PagingOps`](crate::PagingOps). When [`map`](crate::PagingOps::map) returns, devices use the
//!    mapping: on hardware that caches what is *not* mapped that takes an invalidation. When
//!    [`unmap`](crate::PagingOps::unmap) returns `Ok`, nobody reaches the memory any more: that
//!    always takes one, and a wait. [`pgtable`](crate::pgtable) has a walker for tables of several
//!    levels. The destructor makes the hardware forget before an id, or the memory of a table, can
//!    be used again.
//! 6. **PASIDs**, where there are any: the same commit for another [`Slot`](crate::Slot). Attaching
//!    the blocked domain to a PASID ends its attachment.
//! 7. **Entries of more than one word** are changed by the [`entry`](crate::entry) writer, which knows
//!    in which order words may be stored while the hardware reads them. The toy's fit one word.
//!
//! What a backend never does: decide where a device rests, compare a device with its reserved
//! regions, look for the other devices of a group, wait without a bound, free anything after a wait
//! failed, or panic on what hardware, firmware or a guest can cause.
//!
//! # The suite
//!
//! `mock_hw::conformance` needs two things: a `Testbed`, which says what the backend can do and makes
//! machines, and a `Machine`: memory, the hardware, the backend brought up on it, devices that do DMA
//! when they are told to, and ways to let things fail. Nothing in it is special to a backend or to a
//! kind of hardware; a machine can be a model, an emulator, or a board with a device that echoes.
//! `mock_hw::toy::ToyTestbed` is one to read. What helps:
//!
//! - all tables and buffers in a `MockMemory` (over shared memory, where another process is the
//!   machine), which notices hardware that reads what was given back, lets allocations fail, and
//!   tells of every store;
//! - a `FaultInjector` around the registers, which counts waits and lets one of them fail;
//! - hardware that uses stale entries for as long as it may: on hardware that is kinder than the
//!   architecture promises, a missing invalidation is not noticed.
//!
//! ```sh
//! cargo run -p iommu-core --example toy_backend
//! ```
//!
//! prints a line for each rule, and what was otherwise than it should be where one is broken:
//!
//! ```text
//!   passed   3.10 map: visible at once, also where a refusal was cached
//!   FAILED   3.10 unmap: in force at once, also where it was cached
//!            after it was unmapped, device 0 at 0x80000 reaches page a, not nothing
//!   skipped  3.4 attach: from one stage of translation to another (one stage of translation)
//! ```
//!
//! # The toy backend
//!
//! The hardware is described in `mock_hw::toy`. This is `examples/toy_backend.rs`, all of it:
#![doc = concat!("```\n", include_str!("../examples/toy_backend.rs"), "```")]
