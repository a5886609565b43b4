//! Several producers: stopped half way, sharing a `CMD_SYNC`, failing, and all at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use iommu_core::{Iova, StreamId};

use super::*;

const BOUND: Duration = Duration::from_millis(10);

/// As soon as somebody has looked in vain, this happens.
fn then(lab: &Arc<Lab>, turn: impl FnOnce(&Lab) + Send + 'static) {
    let other = lab.clone();
    let turn = Box::new(move || turn(&other));
    lab.smmu.registers().turns.push_back(turn);
}

/// Just before the register at `offset` is accessed the next time, this happens.
fn before(lab: &Arc<Lab>, offset: usize, turn: impl FnOnce(&Lab) + Send + 'static) {
    let other = lab.clone();
    let turn = Box::new(move || turn(&other));
    lab.smmu.registers().before = Some((offset, turn));
}

#[test]
fn a_producer_that_is_stopped_half_way_costs_others_no_more_than_their_bound() {
    // Behind each of the stores, then before the doorbell.
    const STEPS: usize = 3 * 2;
    for step in 0..=STEPS {
        let lab = Lab::new();
        // So that what is interrupted wraps.
        run(&lab, 3, 1, true).unwrap();
        lab.taken();
        let (other, tried) = (lab.clone(), Arc::new(AtomicUsize::new(0)));
        let (seen, smmu) = (tried.clone(), lab.smmu.clone());
        let try_it = move || {
            let (start, prod) = (smmu.now(), smmu.registers().prod);
            let error = run(&other, 2, 1, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{error}");
            assert!(error.reason().contains("another caller"), "{error}");
            assert_eq!(smmu.now() - start, BOUND);
            other.queue.post(&other.hardware, commands(2, 1));
            other.queue.check(&other.hardware);
            assert!(other.queue.unsettled().is_none());
            assert_eq!(smmu.registers().prod, prod, "nothing of it is published");
            tried.fetch_add(1, Ordering::Relaxed);
        };
        if step == STEPS {
            before(&lab, offset::CMDQ_PROD, move |_| try_it());
        } else {
            let stores = AtomicUsize::new(0);
            let hook = move |_, _: &[u64]| {
                if stores.fetch_add(1, Ordering::Relaxed) == step {
                    try_it();
                }
            };
            let memory = lab.queue.entries.memory();
            memory.set_store_hook(Some(Arc::new(hook)));
        }
        run(&lab, 1, 2, true).unwrap();
        lab.queue.entries.memory().set_store_hook(None);
        assert_eq!(seen.load(Ordering::Relaxed), 1);
        assert_eq!(lab.taken(), in_parts(1, 2), "stopped at step {step}");
        run(&lab, 2, 1, true).unwrap();
        assert_eq!(lab.taken(), in_parts(2, 1));
    }
}

#[test]
fn whoever_is_kept_from_looking_says_so() {
    let lab = Lab::new();
    then(&lab, |lab| {
        let _stopped = lab.queue.state.lock();
        lab.smmu.registers().take();
        let start = lab.smmu.now();
        let unsettled = lab.queue.unsettled().unwrap();
        let error = lab.queue.catch_up(&lab.hardware, unsettled).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{error}");
        assert!(error.reason().contains("another caller"), "{error}");
        assert_eq!(lab.smmu.now() - start, BOUND);
    });
    lab.queue.post(&lab.hardware, commands(2, 1));
    run(&lab, 1, 1, true).unwrap();
}

#[test]
fn one_sync_serves_all_who_come_while_two_are_on_their_way() {
    let lab = Lab::with(4, BOUND);
    for posted in [8, 9] {
        lab.queue.post(&lab.hardware, commands(posted, 1));
    }
    then(&lab, |lab| run(lab, 2, 1, true).unwrap());
    run(&lab, 1, 2, true).unwrap();
    let mut expected = [in_parts(8, 1), in_parts(9, 1)].concat();
    expected.extend(commands(1, 2).chain(commands(2, 1)).chain([SYNC]));
    assert_eq!(lab.taken(), expected);
    // Nobody else is there: one of its own.
    run(&lab, 1, 1, true).unwrap();
    assert_eq!(lab.taken(), in_parts(1, 1));
}

#[test]
fn a_sync_of_somebody_else_serves_as_well() {
    let lab = Lab::with(4, BOUND);
    for posted in [8, 9] {
        lab.queue.post(&lab.hardware, commands(posted, 1));
    }
    then(&lab, |lab| {
        lab.smmu.registers().take();
        lab.queue.post(&lab.hardware, commands(2, 1));
    });
    run(&lab, 1, 1, true).unwrap();
    let mut expected = [in_parts(8, 1), in_parts(9, 1)].concat();
    expected.extend(commands(1, 1).chain(commands(2, 1)).chain([SYNC]));
    assert_eq!(lab.taken(), expected);
}

#[test]
fn a_silent_device_is_told_to_who_asked_it_alone() {
    let lab = Lab::with(4, BOUND);
    for posted in [8, 9] {
        lab.queue.post(&lab.hardware, commands(posted, 1));
    }
    lab.smmu.registers().silent_device = true;
    let atc = Command::atc_inv(StreamId(4), None, Iova(0), 52);
    then(&lab, move |lab| {
        let error = lab.run([atc]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceTimedOut, "{error}");
    });
    run(&lab, 1, 1, true).unwrap();
    let mut expected = [in_parts(8, 1), in_parts(9, 1)].concat();
    expected.extend(commands(1, 1).chain([atc, SYNC]));
    assert_eq!(lab.taken(), expected);
}

#[test]
fn a_refused_command_between_others_is_told_to_its_owner_alone() {
    let lab = Lab::with(4, BOUND);
    then(&lab, |lab| {
        let error = lab.run([ILLEGAL]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hardware, "{error}");
    });
    lab.smmu.registers().turns.push_back(Box::new({
        let other = lab.clone();
        move || run(&other, 3, 1, true).unwrap()
    }));
    run(&lab, 1, 1, true).unwrap();
    let mut done = lab.taken();
    done.retain(|command| *command != SYNC);
    assert_eq!(
        done,
        commands(1, 1).chain(commands(3, 1)).collect::<Vec<_>>()
    );
}

#[test]
fn what_somebody_else_got_the_hardware_over_is_a_failure_all_the_same() {
    let lab = Lab::new();
    lab.smmu.registers().eager = true;
    before(&lab, offset::CMDQ_CONS, |lab| {
        lab.queue.check(&lab.hardware);
        let mut registers = lab.smmu.registers();
        registers.take();
        registers.reason = 0;
    });
    let error = lab.run([ILLEGAL]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Hardware, "{error}");
    // Nobody after that is concerned.
    run(&lab, 1, 1, true).unwrap();
}

#[test]
fn a_full_queue_is_waited_for_by_several_within_the_bound_of_each() {
    let lab = Lab::new();
    lab.smmu.registers().dead = true;
    let give_up = |lab: &Lab, of| {
        let error = run(lab, of, 3, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IommuTimedOut, "{error}");
    };
    give_up(&lab, 1);
    then(&lab, move |lab| {
        let start = lab.smmu.now();
        give_up(lab, 3);
        assert_eq!(lab.smmu.now() - start, BOUND);
    });
    give_up(&lab, 2);
    lab.smmu.registers().dead = false;
    run(&lab, 4, 3, true).unwrap();
    assert_eq!(lab.taken(), [in_parts(1, 3), in_parts(4, 3)].concat());
}

#[test]
fn a_newcomer_lets_those_who_have_waited_for_long_go_first() {
    for leaves in [false, true] {
        let lab = Lab::new();
        lab.smmu.registers().eager = true;
        lab.queue.line.joined.fetch_add(1, Ordering::Relaxed);
        if leaves {
            then(&lab, |lab| {
                assert!(lab.taken().is_empty(), "too early");
                lab.queue.line.left.fetch_add(1, Ordering::Relaxed);
            });
        }
        run(&lab, 1, 1, true).unwrap();
        assert_eq!(lab.taken(), in_parts(1, 1));
        // Nor does it wait for good for somebody who is not there.
        let waited = lab.smmu.now();
        assert_eq!(waited == Duration::from_millis(1), leaves, "{waited:?}");
        assert!(waited < BOUND, "{waited:?}");
    }
}

#[test]
fn who_waits_for_room_joins_the_line_and_leaves_it_where_the_room_is_gone() {
    let lab = Lab::with(2, BOUND * 10);
    let line = |lab: &Lab| {
        let line = &lab.queue.line;
        [&line.joined, &line.left].map(|count| count.load(Ordering::Relaxed))
    };
    lab.queue.post(&lab.hardware, commands(1, 3));
    then(&lab, |lab| {
        lab.queue.line.joined.fetch_add(1, Ordering::Relaxed);
        lab.smmu.registers().take();
    });
    // Somebody is before it in the line.
    for _ in 0..18 {
        then(&lab, |lab| assert_eq!(lab.smmu.registers().prod, 4));
    }
    then(&lab, move |lab| {
        assert_eq!(line(lab), [2, 0]);
        lab.queue.line.left.fetch_add(1, Ordering::Relaxed);
        let mut state = lab.queue.state.lock();
        let first = commands(2, 1).next();
        let count = lab.queue.fill(4, first, &mut commands(3, 2));
        lab.queue.submit_with_sync(&lab.hardware, &mut state, count);
    });
    then(&lab, move |lab| assert_eq!(line(lab), [2, 2]));
    run(&lab, 4, 1, true).unwrap();
    let filled = commands(2, 1).chain(commands(3, 2)).chain([SYNC]);
    let expected = in_parts(1, 3).into_iter().chain(filled);
    assert_eq!(
        lab.taken(),
        expected.chain(in_parts(4, 1)).collect::<Vec<_>>()
    );
}

/// Each command says whose it is, and the how many-th.
fn marked(caller: u16, from: u64, count: u64) -> impl Iterator<Item = Command> + Clone {
    (from..from + count).map(move |n| Command::tlbi_va(caller, Iova(n << 12)))
}

#[test]
fn nothing_is_lost_or_done_twice_when_many_submit_at_once() {
    const CALLERS: u16 = 4;
    const CALLS: u64 = 200;
    for log2 in [1, 2, 5] {
        let lab = Lab::with(log2, Duration::from_secs(3600));
        lab.smmu.registers().eager = log2 != 2;
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let lab = &lab;
                scope.spawn(move || {
                    let mut next = 0;
                    for call in 0..CALLS {
                        let count = (call + u64::from(caller)) % 6;
                        let mine = marked(caller, next, count);
                        next += count;
                        match call % 3 {
                            0 => lab.run(mine.filter(|_| true)),
                            _ => lab.run(mine),
                        }
                        .unwrap();
                        let registers = lab.smmu.registers();
                        let is_mine = |command: &&Command| {
                            command.0[0] == marked(caller, 0, 1).next().unwrap().0[0]
                        };
                        let done = registers.taken.iter().filter(is_mine).count();
                        assert_eq!(done as u64, next, "done when it returns");
                    }
                });
            }
        });
        let taken = lab.taken();
        for caller in 0..CALLERS {
            let first = marked(caller, 0, 1).next().unwrap().0[0];
            let mine: Vec<_> = taken
                .iter()
                .filter(|command| command.0[0] == first)
                .collect();
            let all: Vec<_> = marked(caller, 0, mine.len() as u64).collect();
            assert!(mine.into_iter().eq(all.iter()), "all of it, in order, once");
        }
        let others = taken.iter().filter(|command| command.0[0] & 0xff != 0x12);
        assert!(others.into_iter().all(|command| *command == SYNC));
    }
}

#[test]
fn an_index_that_has_come_round_is_not_taken_for_one_that_stands_still() {
    const LONG: Duration = Duration::from_secs(10);
    let lab = Lab::with(2, LONG);
    // After one look, the hardware takes the queue's eight positions: it is where it was.
    then(&lab, |lab| {
        let mut registers = lab.smmu.registers();
        registers.take();
        registers.eager = true;
        drop(registers);
        for of in 2..=4 {
            run(lab, of, 1, true).unwrap();
        }
        assert_eq!(lab.smmu.registers().cons, 0);
    });
    run(&lab, 1, 1, true).unwrap();
    assert_eq!(lab.taken().len(), 8);
    assert!(lab.smmu.now() < LONG / 10, "{:?}", lab.smmu.now());
}
