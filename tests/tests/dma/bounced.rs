//! A device never reaches the neighbours of a buffer, nor bytes that were only borrowed.

use iommu_core::dma::{Bidirectional, FromDevice, ToDevice};
use iommu_core::{DefaultDomain, ErrorKind, IommuConfig, Iova, PagingConfig};

use super::setup::{PAGE, Setup};

#[test]
fn the_neighbours_of_a_small_buffer_are_out_of_reach() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        // Three blocks that share a page.
        let blocks = [0; 3].map(|_| setup.block(64, 64));
        let page = |at: u64| at / PAGE as u64;
        assert_eq!(page(blocks[0].addr().0), page(blocks[2].addr().0));
        let [before, buffer, after] = blocks;
        before.write_at(0, &[0xaa; 64]);
        buffer.write_at(0, &[0x11; 64]);
        after.write_at(0, &[0xaa; 64]);
        let rx = dma.map(buffer, Bidirectional).unwrap();
        assert!(rx.is_bounced());
        let start = Iova(rx.iova().0 & !(PAGE as u64 - 1));
        let seen: [u8; PAGE] = setup.read(start).unwrap();
        assert!(!seen.contains(&0xaa), "{setup:?}: a neighbour is exposed");
        assert_eq!(setup.read(rx.iova()), Some([0x11; 64]));
        assert!(setup.write(start, &[0x22; PAGE]));
        let buffer = rx.unmap().unwrap();
        let mut bytes = [[0; 64]; 3];
        for (block, bytes) in [&before, &buffer, &after].into_iter().zip(&mut bytes) {
            block.read_at(0, bytes);
        }
        assert_eq!(bytes, [[0xaa; 64], [0x22; 64], [0xaa; 64]]);
        setup.check();
    }
}

#[test]
fn whole_pages_whose_tail_is_somebody_elses_are_bounced() {
    let setup = Setup::smmu(DefaultDomain::Paging);
    let (_device, dma) = setup.nic();
    let mut tx = dma.map(setup.block(PAGE + 8, PAGE), ToDevice).unwrap();
    assert!(tx.is_bounced());
    tx.sync_for_cpu().write(PAGE, b"the tail").unwrap();
    assert_eq!(
        setup.read(Iova(tx.iova().0 + PAGE as u64)),
        Some(*b"the tail")
    );
}

#[test]
fn bytes_that_a_device_does_not_write_stay() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let buffer = setup.block(16, 8);
        buffer.write_at(0, &[1; 16]);
        let rx = dma.map(buffer, FromDevice).unwrap();
        assert!(setup.write(rx.iova(), &[2; 4]));
        let mut bytes = [0; 16];
        rx.unmap().unwrap().read_at(0, &mut bytes);
        assert_eq!(bytes, [2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}

#[test]
fn borrowed_bytes_are_lent_as_a_copy_within_a_closure() {
    for setup in Setup::both() {
        let (_device, dma) = setup.nic();
        let mut bytes = *b"a question";
        let at = dma
            .with_bounced(&mut bytes, Bidirectional, |iova| {
                assert_eq!(setup.read(iova), Some(*b"a question"));
                assert!(setup.write(iova, b"an answer!"));
                iova
            })
            .unwrap();
        assert_eq!(&bytes, b"an answer!");
        assert!(!setup.write(at, b"too late"), "{setup:?}");
        dma.with_bounced(&mut bytes, ToDevice, |iova| {
            assert!(!setup.write(iova, b"?"), "{setup:?}");
        })
        .unwrap();
        let empty = dma.with_bounced(&mut [], ToDevice, |_| ()).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::InvalidArgument);
        setup.check();
    }
}

#[test]
fn where_the_domains_pages_are_larger_a_device_reaches_no_neighbours_either() {
    const LARGE: usize = 1 << 16;
    let setup = Setup::smmu_with(IommuConfig {
        paging: PagingConfig {
            page_size: Some(LARGE as u64),
            ..PagingConfig::default()
        },
        ..IommuConfig::default()
    });
    let (device, dma) = setup.nic();
    let geometry = device.domain().unwrap().geometry().unwrap();
    assert_eq!(geometry.page_size(), LARGE as u64);
    let rx = dma.map(setup.page(), FromDevice).unwrap();
    assert!(rx.is_bounced(), "a CPU's page is a part of the domain's");
    assert!(setup.write(rx.iova(), b"a packet"));
    let mut packet = [0; 8];
    rx.unmap().unwrap().read_at(0, &mut packet);
    assert_eq!(&packet, b"a packet");
    let block = dma.allocate_pages(100).unwrap();
    assert_eq!(block.size(), LARGE);
    let rx = dma.map(block, FromDevice).unwrap();
    assert!(!rx.is_bounced());
    assert!(setup.write(rx.iova(), &[7; LARGE]));
    let at = rx.iova();
    drop(rx);
    assert!(!setup.write(at, b"too late"));
    setup.check();
}

#[test]
fn pages_that_the_hardware_does_not_have_are_refused() {
    for setup in Setup::both() {
        for size in [0, 4095, 1 << 13, 1 << 21, u64::MAX] {
            let error = setup.iommu.paging_domain(&PagingConfig {
                page_size: Some(size),
                ..PagingConfig::default()
            });
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
