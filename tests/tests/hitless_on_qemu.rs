//! Hitless changes of live entries, watched by devices that do DMA all the while: on QEMU's SMMUv3.
#![cfg(feature = "qemu")]

use tests::hitless::checks::{
    atomicities, plans_are_hitless, the_driver_races, the_driver_steps, wrongs_are_noticed,
};
use tests::hitless::plans::How;
use tests::qemu::{Machine, MachineConfig};

fn start(edus: usize) -> Machine {
    let config = MachineConfig {
        edus,
        ..MachineConfig::default()
    };
    Machine::start(&config).expect("QEMU starts")
}

#[test]
fn the_drivers_moves_are_hitless_after_every_store_and_every_command() {
    for &atomicity in atomicities() {
        the_driver_steps(&start, atomicity);
    }
}

#[test]
fn the_drivers_moves_are_hitless_while_devices_do_dma_all_the_time() {
    the_driver_races(&start, 20);
}

#[test]
fn hitless_plans_are_hitless_after_every_store_and_every_command() {
    for &atomicity in atomicities() {
        plans_are_hitless(&start, atomicity, How::Planned);
    }
}

#[test]
fn what_is_wrong_is_noticed() {
    wrongs_are_noticed(&start);
}
