//! A way through all of some moves.

/// A way that starts at 0, makes every move between two of `stops` stops that is `wanted` once, and
/// no other, and ends at 0. Returns where it goes after each move.
///
/// There is one where each stop is entered as often as it is left, and all can be reached: it is
/// found as Hierholzer did (1873).
///
/// # Panics
///
/// Where there is none.
#[must_use]
pub fn through(stops: usize, wanted: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let onward = |from: usize| {
        let others = (0..stops).filter(|to| *to != from);
        others.filter(|to| wanted(from, *to)).collect()
    };
    let mut left: Vec<Vec<usize>> = (0..stops).map(onward).collect();
    let moves: usize = left.iter().map(Vec::len).sum();
    let (mut open, mut way) = (vec![0], Vec::new());
    while let Some(&at) = open.last() {
        match left[at].pop() {
            Some(to) => open.push(to),
            None => way.extend(open.pop()),
        }
    }
    way.reverse();
    let whole = way.len() == moves + 1 && way.windows(2).all(|hop| wanted(hop[0], hop[1]));
    let returns = way.last() == Some(&0);
    assert!(
        whole && returns,
        "there is no way through all {moves} moves: {way:?}"
    );
    way.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_move_is_made_once() {
        let but_two = |from: usize, to: usize| from.abs_diff(to) != 4;
        for wanted in [&|_, _| true as _, &but_two] as [&dyn Fn(usize, usize) -> bool; 2] {
            let way = through(5, wanted);
            let mut moves: Vec<_> = [0].iter().chain(&way).zip(&way).collect();
            moves.sort();
            moves.dedup();
            let pairs = (0..25).filter(|pair| pair / 5 != pair % 5);
            let expected = pairs.filter(|pair| wanted(pair / 5, pair % 5)).count();
            assert_eq!((moves.len(), way.len()), (expected, expected));
            assert_eq!(way.last(), Some(&0));
        }
    }

    #[test]
    #[should_panic(expected = "no way through all 1 moves")]
    fn a_way_of_no_return_is_none() {
        let _ = through(2, |from, _| from == 0);
    }
}
