//! A device never reaches the neighbours of a buffer, nor bytes that were only borrowed.

use iommu_core::dma::{Bidirectional, FromDevice, ToDevice};
use iommu_core::{DefaultDomain, ErrorKind, Iova};

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
