//! The rules that can be broken.

macro_rules! breaks {
    ($($(#[$doc:meta])* $name:ident => $rule:literal,)*) => {
        /// What a copy of the toy backend does wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Break {
            $($(#[$doc])* $name,)*
        }

        impl Break {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The rule of the suite that it breaks.
            #[must_use]
            pub const fn rule(self) -> &'static str {
                match self {
                    $(Self::$name => $rule,)*
                }
            }
        }
    };
}

breaks! {
    /// There is no identity domain, though there was said to be.
    IdentityMissing => "2 capabilities: what the testbed names is what there is",
    /// Bring-up opens every stream.
    OpenAtStart => "3.2 lifecycle: a device nobody added is refused",
    /// Probing a device opens its streams.
    ProbeOpens => "3.2 lifecycle: probing changes nothing about what a device reaches",
    /// Every device is found on the blocked domain, whatever its streams are on.
    ProbeLies => "3.2 lifecycle: a probed device is on what the backend says",
    /// A probe keeps memory when it fails.
    ProbeKeeps => "3.2 lifecycle: a probe without memory keeps nothing",
    /// Contexts of paging domains let everything pass.
    PagingPasses =>
        "3.2 lifecycle: a new device reaches its domain's mappings and nothing else",
    /// The hardware stays on after the backend's end.
    NeverOff => "3.10 lifetimes: hardware reads nothing that was given back",
    /// The release hook writes an entry.
    ReleaseWrites => "3.2 lifecycle: the release hook writes no entry",
    /// Parking changes nothing.
    ParkIgnored => "3.1 park: an unpinned device rests blocked",
    /// Identity is taken for blocked.
    IdentityBlocks => "3.1 park: a pinned device rests on identity",
    /// Firmware's regions are told to nobody.
    PinsForgotten => "3.3 blocked: refused for a pinned device, hardware untouched",
    /// Attaching the blocked domain allocates.
    BlockedAllocates => "3.5 blocked: attaching it allocates nothing",
    /// Only the first device of a group is moved; all are said to be.
    FirstMemberOnly => "3.4 group attach: moves every device",
    /// Nothing is moved, and said to be.
    NothingMoves => "3.4 group attach: moves every device",
    /// Contexts are not invalidated.
    StaleContexts => "3.4 attach: between all kinds of domains, only the new one counts",
    /// What was prepared is kept when it is cancelled.
    CancelLeaks =>
        "3.4 group attach: what was prepared is given back when another device is refused",
    /// Preparing moves the device.
    PrepareMoves => "3.4 group attach: preparing changes nothing that a device can notice",
    /// Contexts pass everything for a moment while they are changed.
    OpenBetween =>
        "3.4 group attach: meanwhile devices reach what they had, what they get, or nothing",
    /// Domains of other IOMMUs are taken for its own.
    ForeignTaken => "3.4 attach: the domain of another IOMMU is refused, hardware untouched",
    /// A stage is as good as another.
    AnyStage => "2 stages: one that is not there is Unsupported, hardware untouched",
    /// Each device of a group is waited for.
    WaitsForEach => "5 waits: a group of four waits no more often than one device",
    /// Preparing panics.
    Panics => "3.4 attach: to the domain it is on is harmless",
    /// What firmware left translating is found blocked.
    DeferredDenied => "3.6 deferred attach: adding the device touches nothing",
    /// Probing a deferred device talks to the hardware.
    DeferredTouches => "3.6 deferred attach: adding the device touches nothing",
    /// A failed wait of an attach is success.
    WaitIgnored =>
        "3.9 dead hardware: every wait of an attach that fails is told, and no device gains anything",
    /// A failed wait of an unmap is success.
    UnmapWaitIgnored =>
        "3.10 lifetimes: memory whose unmapping is not confirmed is never given back",
    /// A quarantine leaves entries as they are.
    QuarantineIdle =>
        "3.9 quarantine: waits for nothing, allocates nothing, and an attach ends it",
    /// A quarantine waits for the hardware.
    QuarantineWaits =>
        "3.9 quarantine: waits for nothing, allocates nothing, and an attach ends it",
    /// Only a device's first stream is moved.
    FirstStreamOnly => "3.12 shared streams: both devices are one group",
    /// Streams that another device keeps are moved with one that leaves.
    AllStreamsLeave => "3.12 shared streams: the last device's release parks it",
    /// Detaching a PASID changes nothing.
    PasidBlockedIgnored => "3.5 PASIDs: a detached one is refused, without allocating",
    /// PASIDs are attached in place of the traffic without one.
    PasidIsRid => "2 PASIDs: each has a domain of its own, beside the traffic without one",
    /// There is one PASID fewer than said.
    PasidTooMany => "2 PASIDs: the largest works, the next is refused",
    /// Mapping invalidates nothing.
    MapSilent => "3.10 map: visible at once, also where a refusal was cached",
    /// Unmapping invalidates nothing.
    UnmapSilent => "3.10 unmap: in force at once, also where it was cached",
    /// Unmapping does not wait for its invalidation.
    UnmapHurries => "3.10 unmap: in force at once, also where it was cached",
    /// Unmapping is left to a flush that does nothing.
    FlushEmpty => "3.10 flush: what was unmapped lazily is gone, the rest stays",
    /// Unmapping takes the next page too.
    UnmapTooMuch => "2 map: neighbours are left alone",
    /// Everything is mapped for writing.
    AlwaysWritable => "2 map: what is not writable is not written",
    /// Translations ignore the page's offset.
    TranslateLies => "2 map: the tables say where devices get",
    /// All domains share the first one's table.
    OneTable => "2 domains: one IOVA leads elsewhere in another domain",
    /// Mapping over a mapping replaces it.
    MapReplaces => "2 map: what is mapped stays mapped when it is mapped again",
    /// Unmapping what is not mapped succeeds.
    UnmapOfNothing => "2 unmap: what is not mapped is NotFound, nothing changes",
    /// The aperture is said to be twice what it is.
    TooWide => "2 geometry: the aperture's ends work, beyond them is refused",
    /// Pages of 16 KiB are said to work; their first 4 KiB do.
    PageTooLarge => "2 geometry: every page size that is offered works",
    /// Only the first pages of a range are mapped.
    RangeCutShort => "2 map: a range of pages, mapped and unmapped at once",
    /// Tables are given back while translations by them are cached.
    TableStale => "3.4 ids: a new domain finds nothing that an old one left in caches",
    /// A domain's table is never given back.
    TableLeaks => "3.10 lifetimes: a domain that goes gives all its memory back",
    /// Commands are made up.
    UnknownCommand => "4 hardware: it sees nothing that it must not see",
    /// What the driver itself allocated is not given back at its end.
    ContextsLeak => "3.10 lifetimes: when all is over, every byte of memory is given back",
    /// Faults are dropped.
    FaultsLost => "4 faults: a refused access is reported, with source and address",
    /// Faults are reported for the wrong page.
    FaultElsewhere => "4 faults: a refused access is reported, with source and address",
    /// Faults are reported without their PASID.
    FaultWithoutPasid => "4 faults: a refused access with a PASID is reported with it",
    /// Page faults are said to be on, and are not.
    PageFaultsPretended =>
        "3.7 page faults: a domain that handles them is Unsupported, hardware untouched",
}
