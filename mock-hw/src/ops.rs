//! Mocks of what backends provide, for tests of the core and of whatever drives it.

use std::sync::Arc;

use iommu_core::{
    DeviceControl, DeviceInfo, DomainRef, Geometry, IommuOps, Iova, MapError, Member, PageRequest,
    PageResponse, PagingConfig, PagingOps, PhysAddr, Probed, Prot, Result, Slot,
};
use mockall::mock;

mock! {
    /// A mocked backend.
    #[derive(Debug)]
    pub IommuOps {}

    impl IommuOps for IommuOps {
        fn blocked_domain(&self) -> Option<DomainRef>;
        fn identity_domain(&self) -> Option<DomainRef>;
        fn release_domain(&self) -> Option<DomainRef>;
        fn paging_domain(&self, config: &PagingConfig) -> Result<DomainRef>;
        fn probe(&self, device: &DeviceInfo, control: Arc<dyn DeviceControl>) -> Result<Probed>;
        fn prepare(&self, member: &mut Member, slot: Slot) -> Result;
        fn cancel(&self, member: &mut Member, slot: Slot);
        fn commit(&self, members: &mut [Member], slot: Slot) -> Result;
        fn quarantine(&self, members: &mut [Member]);
        fn set_faults(&self, member: &mut Member, on: bool) -> Result;
        fn answer(&self, last: &PageRequest, response: PageResponse);
        fn isolates_msis(&self) -> bool;
        fn release(&self, member: &mut Member);
    }
}

mock! {
    /// A mocked backend's half of a paging domain.
    #[derive(Debug)]
    pub PagingOps {}

    impl PagingOps for PagingOps {
        fn geometry(&self) -> Geometry;
        fn map(
            &self,
            iova: Iova,
            phys: PhysAddr,
            len: u64,
            prot: Prot,
        ) -> std::result::Result<(), MapError>;
        fn unmap(&self, iova: Iova, len: u64) -> Result;
        fn translate(&self, iova: Iova) -> Option<PhysAddr>;
    }
}
